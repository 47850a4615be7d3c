"""What pippa generates is made again when, and only when, code has changed that decides its bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.generation import N17
from trainer.importers import generated
from trainer.importers.names import SYNTHETIC, TINY

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
    assert identity(copy, name) == before
    changed = copy / "trainer" / file
    whole = changed.read_text()
    changed.write_text(whole + "\n")
    try:
        assert (identity(copy, name) != before) == changes
    finally:
        changed.write_text(whole)


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
