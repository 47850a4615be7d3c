"""``trainer doctor``: what it says of a machine, with a stand-in for the driver's program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.config.presets import PRESETS
from trainer.runner import doctor
from trainer.runner.findings import Finding, tell


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing set and no network: nothing listens where W&B and the hub are said to be."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("PIPPA_S3_ENDPOINT", "PIPPA_ENGINE", "PIPPA_FINETUNE_COMMAND", "WANDB_MODE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def driver(machine: Path) -> Path:
    """``nvidia-smi`` on PATH; it prints what is written here."""
    said = machine / "said"
    program = machine / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat '{said}'\n")
    program.chmod(0o755)
    return said


@pytest.mark.parametrize(("version", "old"), [("535.104.05", True), ("580.65.06", False), ("610.1", False)])
def test_a_driver_that_is_too_old_is_a_problem(version: str, old: bool, driver: Path) -> None:
    driver.write_text(f"0, GPU-1, NVIDIA H200, 143771, {version}\n")
    found = doctor.gpu(None)
    assert f"NVIDIA H200, 143771 MiB, {version}" in found.says
    assert (f"too old for torch's CUDA {torch.version.cuda}; install 580 or newer" in found.says) == old
    assert found.state == ("problem" if old else "ok")


def test_without_a_driver_it_trains_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    assert "no NVIDIA GPU: training runs on the CPU" in capsys.readouterr().out


def test_a_card_is_compared_with_what_presets_need(driver: Path) -> None:
    driver.write_text("0, GPU-1, NVIDIA RTX 4090, 24564, 580.65.06\n")
    found = doctor.gpu(None)
    assert found.state == "note" and "blog (28.7 GB)" in found.says
    assert "low-vram" not in found.says and "low-vram" in found.cure
    assert doctor.gpu(PRESETS["blog"]).state == "problem" and doctor.gpu(PRESETS["blog"]).exit_code == 5
    assert doctor.gpu(PRESETS["lora"]).state == "ok" == doctor.gpu(PRESETS["smoke"]).state


def test_keys_and_tokens_are_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert doctor.main(as_json=True) == 0
    out = capsys.readouterr().out
    found = {each["part"]: each for each in json.loads(out)}
    assert found["W&B"]["state"] == found["hub"]["state"] == "note"
    assert "can't be reached" in found["hub"]["says"] and "k" * 40 not in out and "hf_secret" not in out


def test_the_exit_code_is_that_of_the_first_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPPA_HOME", "/proc/nope")
    assert doctor.main() == 2
    assert "can't write to /proc/nope" in capsys.readouterr().out
    found = [
        Finding("a", "fine"),
        Finding("b", "so", "note", "do"),
        Finding("c", "bad", "problem", exit_code=4),
    ]
    assert tell(found, as_json=False) == 4 and tell(found[:2], as_json=False) == 0
    assert "✓ a" in capsys.readouterr().out


def test_a_store_that_can_not_be_used_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_S3_ENDPOINT", "minio:9000")
    assert (doctor.store().state, doctor.store().exit_code) == ("problem", 4)
