"""What may import what: the trainer image has no Prefect, the worker image has no torch, light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "prefect", "docker", "wandb", "pyarrow", "av", "matplotlib", "accelerate"}


def imported(file: Path) -> set[str]:
    """Top-level packages that ``file`` imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("package", "never"), [("trainer", {"flows", "prefect", "docker"}), ("flows", {"torch"})])
def test_data_flows_one_way(package, never):
    guilty = {str(file): found for file in (ROOT / package).rglob("*.py") if (found := imported(file) & never)}
    assert not guilty


@pytest.mark.parametrize("module", ["flows.cli", "trainer.cli", "trainer.runner.run", "trainer.store.client"])
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


def test_the_flows_work_without_the_trainers_packages():
    """As in the flows image, which has the dependency groups `flows` and no other."""
    absent = sorted({*HEAVY - {"prefect", "docker"}, "huggingface_hub", "numpy", "peft", "safetensors", "torchvision"})
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted((ROOT / "flows").rglob("*.py"))
        if file.name != "__init__.py"
    ]
    code = f"import importlib, sys\nfor name in {absent}: sys.modules[name] = None\n"
    code += f"for name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
