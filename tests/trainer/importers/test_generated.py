"""What pippa generates is made again when, and only when, code has changed that decides its bytes."""

from __future__ import annotations

import ast
import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer import importers
from trainer.config.run_spec import SnapshotRef
from trainer.errors import PippaError
from trainer.generation import N17
from trainer.importers import generated
from trainer.importers.names import SYNTHETIC, TINY
from trainer.store.folder import FolderStore

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "trainer", folder / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def identity(folder: Path, name: str) -> str:
    code = f"from trainer.importers.generated import generator_sha256; print(generator_sha256({name!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", [SYNTHETIC, TINY, N17.tiny])
def test_it_does_not_depend_on_where_the_code_lies(copy, name):
    assert identity(copy, name) == generated.generator_sha256(name)


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        (SYNTHETIC, "data/synthetic.py", True),
        (SYNTHETIC, "data/synthetic_scene.py", True),
        (SYNTHETIC, "data/statistics.py", True),
        (SYNTHETIC, "gr00t/weights.py", False),
        (TINY, "gr00t/n15/action_head.py", True),
        (TINY, "gr00t/weights.py", True),
        (TINY, "hardlink.py", True),
        (TINY, "data/synthetic_scene.py", False),
        (N17.tiny, "gr00t/n17/tiny.py", True),
        (TINY, "gr00t/n17/tiny.py", False),
    ],
)
def test_a_change_of_code_it_is_made_by_makes_it_another(copy, name, file, changes):
    before = generated.generator_sha256(name)
    changed = copy / "trainer" / file
    whole = changed.read_text()
    changed.write_text(whole + "\n")
    try:
        assert (identity(copy, name) != before) == changes
    finally:
        changed.write_text(whole)


def test_several_that_want_it_at_once_make_it_once(tmp_path):
    store, said = FolderStore(tmp_path / "store"), list[str]()
    store.create()

    def bring(_: int) -> SnapshotRef:
        return importers.dataset(store, SYNTHETIC, tmp_path / "work", log=said.append)

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(bring, range(3)))
    assert len(set(found)) == 1 and said.count(f"Making {SYNTHETIC}.") == 1
    assert not list((tmp_path / "work").iterdir())
    # `--refresh` makes it again, whatever the store has: that heals a damaged one.
    importers.dataset(store, SYNTHETIC, tmp_path / "work", refresh=True, log=said.append)
    assert said.count(f"Making {SYNTHETIC}.") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [SYNTHETIC, TINY, N17.tiny])
def test_every_module_that_runs_while_it_is_made_counts(name, tmp_path):
    module, function = generated._MAKERS[name]
    code = f"""
import pathlib, sys
from {module} import {function}
{function}(pathlib.Path({str(tmp_path / "made")!r}))
loaded = [name for name, each in sys.modules.items() if name.startswith("trainer.") and not hasattr(each, "__path__")]
print(*loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(generated.generator_sources(name))


def test_a_generator_that_a_signal_ends_is_told_so(tmp_path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with (
        pytest.raises(PippaError, match=rf"^{TINY} could not be made: signal 9 ended it \(Killed\)\.$"),
        generated.made("model", TINY, tmp_path / "work", lambda _: None),
    ):
        pass


def test_code_is_read_also_where_another_thread_parses_in_the_middle():
    interrupted = []

    def parse_elsewhere(phase: str, _: dict[str, int]) -> None:
        if phase == "start" and not interrupted:
            interrupted.append(phase)
            other = threading.Thread(target=ast.parse, args=("x = 1",))
            other.start()
            other.join()

    source = b"from trainer import errors\n" + b"def f(a):\n    return [a, (a, [a])]\n" * 30
    usual = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(parse_elsewhere)
    gc.set_threshold(20)  # while the tree is made
    try:
        assert generated._imports(source) == ["trainer.errors"]
    finally:
        gc.callbacks.remove(parse_elsewhere)
        gc.set_threshold(*usual)
    assert interrupted
