"""``bench.gpu`` on a CPU, with a small model: it prints what it ran on, and a line for each case."""

from __future__ import annotations

import sys

import pytest

from bench import gpu


def test_it_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    flags = "--size small --batch 1 2 --steps 2 --warm-up 1 --workers 0 --peak-tflops 1 --tune".split()
    monkeypatch.setattr(sys, "argv", ["gpu", *flags, "projector", "all (overfit-long)"])
    gpu.main()
    printed = capsys.readouterr().out
    assert "on CPU, 1 TFLOP/s at most" in printed
    cases = [line.split(" | ") for line in printed.splitlines() if line.startswith(("| projector |", "| all"))]
    assert [case[1] for case in cases] == ["1", "2", "1", "2"]
    assert all(float(case[2]) > 0 and float(case[6]) > 0 and case[7].rstrip(" |").endswith("%") for case in cases)


def test_the_full_size_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()
