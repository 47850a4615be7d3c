"""``import pippa``: its page, run block by block, and what is light, named and refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pippa
from tests.conftest import REPOSITORY
from tests.flows.conftest import made_prefect

__all__ = ["made_prefect"]

PAGE = (REPOSITORY / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder on a machine without a store."""
    for name in ("PIPPA_S3_ENDPOINT", "PIPPA_LAUNCHER", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "PIPPA_HOME": str(tmp_path / "home"),
        "WANDB_MODE": "offline",
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_blocks_of_its_page_run_in_order(here, made_prefect, monkeypatch):
    assert len(BLOCKS) >= 7
    shutil.copytree(made_prefect, here / "home" / "prefect")
    (here / "page.py").write_text("\n".join(BLOCKS))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in (
        r"^10 of 20 loss \d",
        r"^from-python-\S+ done$",
        r"^from-python-\S+/20 \{.*'open_loop_mse': ",
        r"^from-python-\S+/20 \d\S+ \d\S+ \['motor_0', ",
        r"^from-python-\S+/20 placed \d of 2 \(",
        r"\(1, 256, 256, 3\) \(16, 7\)$",
        r"Did you mean from-python/latest",
    ):
        assert re.search(said, done.stdout, re.MULTILINE), (said, done.stdout)
    assert (here / "policy" / "config.json").is_file() and (here / "shared" / "README.md").is_file()


def test_its_page_names_every_function_and_error():
    returned = {"Checkpoint", "Evaluation", "Run", "Store"}
    assert set(pippa.__all__) - returned <= set(re.findall(r"\w+", PAGE))
    assert all(hasattr(pippa, name) for name in pippa.__all__ if name != "Policy")  # which imports torch
    with pytest.raises(AttributeError, match="no attribute 'Polici'"):
        getattr(pippa, "Polici")  # noqa: B009


WRONG = {
    "a flag": (lambda: pippa.train("smoke", max_step=3), "--max-step"),
    "a value": (lambda: pippa.train("smoke", max_steps=0), "max.steps"),
    "a preset": (lambda: pippa.train("smok"), "no preset called 'smok'"),
    "a name": (lambda: pippa.train("smoke", name="My Kitchen"), "My Kitchen"),
    "a dataset": (lambda: pippa.train("smoke", dataset_path=["nowhere"]), "nowhere"),
    "no dataset": (lambda: pippa.train(), "dataset.path"),
    "a checkpoint": (lambda: pippa.evaluate("smoke/best"), "no checkpoint 'smoke/best'"),
    "no checkpoint": (lambda: pippa.evaluate(), "No checkpoint is named"),
    "a checkpoint in closed loop": (lambda: pippa.evaluate_closed_loop("smoke/best"), "no checkpoint 'smoke/best'"),
    "no trials": (lambda: pippa.evaluate_closed_loop("smoke/best", trials=0), "must be 1 or more"),
    "a run to resume": (lambda: pippa.resume("smoke-20260101-000000-abcd"), "There is no run"),
    "an alias": (lambda: pippa.open_store().remove_alias("kitchen/good"), "no alias 'kitchen/good'"),
    "a device": (lambda: pippa.Policy("smoke/best", device="gpu"), "device is 'gpu'"),
    "a GPU that is not there": (lambda: pippa.Policy("smoke/best", device="cuda:7"), "torch sees 0 GPUs"),
    "a folder": (lambda: pippa.open_dataset("./nowhere"), "nowhere"),
    "a run": (lambda: pippa.open_store().run("smoke-20260101-000000-abcd"), "There is no run"),
}


@pytest.mark.parametrize("case", WRONG)
def test_its_errors_are_the_command_lines(here, case):
    call, said = WRONG[case]
    with pytest.raises(pippa.UsageError, match=said) as caught:
        call()
    assert caught.value.hint and caught.value.exit_code == 2
    assert not (here / "home" / "runs").exists()


def test_trainings_elsewhere_are_not_of_python(here, monkeypatch):
    monkeypatch.setenv("PIPPA_LAUNCHER", "remote")
    with pytest.raises(pippa.UsageError, match="run on this machine"):
        pippa.train("smoke")
