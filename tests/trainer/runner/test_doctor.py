"""``trainer doctor``: what it says of GPUs, with a stand-in for the driver's program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.runner import doctor


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``nvidia-smi`` on PATH; it prints what is written here."""
    said = tmp_path / "said"
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    monkeypatch.delenv("PIPPA_ENGINE", raising=False)
    return said


@pytest.mark.parametrize(("version", "old"), [("535.104.05", True), ("580.65.06", False), ("610.1", False)])
def test_a_driver_that_is_too_old_is_named(
    version: str, old: bool, driver: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.write_text(f"0, GPU-1, NVIDIA L40S, 46068, {version}\n")
    assert doctor.main() == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("device")]
    assert f"NVIDIA L40S, 46068 MiB, {version}" in line
    assert (f"too old for torch's CUDA {torch.version.cuda}; install 580 or newer" in line) == old


def test_without_a_driver_it_trains_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    monkeypatch.setenv("PIPPA_ENGINE", "native")
    assert doctor.main() == 0
    assert "no NVIDIA GPU: training runs on the CPU" in capsys.readouterr().out
