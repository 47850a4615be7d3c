"""What pippa generates is made again when, and only when, code has changed that decides its bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.importers import generated
from trainer.importers.names import Kind

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "trainer", folder / "trainer", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def identity(folder: Path, kind: Kind) -> str:
    code = f"from trainer.importers.generated import generator_sha256; print(generator_sha256({kind!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("dataset", "data/synthetic.py", True),
        ("dataset", "data/synthetic_scene.py", True),
        ("dataset", "data/statistics.py", True),
        ("dataset", "gr00t/weights.py", False),
        ("model", "gr00t/n15/action_head.py", True),
        ("model", "gr00t/weights.py", True),
        ("model", "hardlink.py", True),
        ("model", "data/synthetic_scene.py", False),
    ],
)
def test_a_change_of_code_it_is_made_by_makes_it_another(copy, kind, file, changes):
    before = generated.generator_sha256(kind)
    assert identity(copy, kind) == before
    changed = copy / "trainer" / file
    whole = changed.read_text()
    changed.write_text(whole + "\n")
    try:
        assert (identity(copy, kind) != before) == changes
    finally:
        changed.write_text(whole)


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_every_module_that_runs_while_it_is_made_counts(kind, tmp_path):
    module, function = generated._MAKERS[kind]
    code = f"""
import pathlib, sys
from {module} import {function}
{function}(pathlib.Path({str(tmp_path / "made")!r}))
loaded = [name for name, each in sys.modules.items() if name.startswith("trainer.") and not hasattr(each, "__path__")]
print(*loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(generated.generator_sources(kind))
