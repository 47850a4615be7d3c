"""The drill for a GPU, on a CPU: it runs whole with what the GPU machine has, and says what was too slow or wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_drill, gpu_wheels
from bench.drill.carried import REPOSITORY
from bench.drill.goals import verdicts
from bench.drill.report import Report, read_measured
from tests.gpu.test_goldens import VARIANTS, Golden
from tests.gpu.test_goldens_n17 import GoldenN17

NOT_THERE = ("prefect", "docker", "dotenv", "fastapi", "minio", "sqlalchemy", "wandb", "simpy")
"""Packages of this environment that the GPU machine has not, beside PyAV."""


@pytest.mark.slow
def test_it_runs_whole_without_a_gpu(tmp_path: Path) -> None:
    """In about two minutes of one core. Neither PyAV nor an object store are used: neither can be brought along."""
    absent, out = tmp_path / "absent", tmp_path / "out"
    absent.mkdir()
    for name in NOT_THERE:
        (absent / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} on the GPU machine')\n")
    # Before the installed packages: the drill's own stand-in for PyAV hides the real one.
    paths = [absent, REPOSITORY / "bench/drill/without_av"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bench.gpu_drill", "--size", "small", "--out", str(out)]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + (out / "log.txt").read_text()[-5000:]
    assert "its limit" not in ended.stdout
    files = {file.name for file in out.iterdir()}
    assert files == {"right.md", "fast.md", "where.md", "whole.md", "gpu.md", "measured.json", "log.txt"}
    for generation in ("N1.5", "N1.7"):
        assert f"host does not wait for the gpu[{generation}] | passed" in ended.stdout
    assert "step 41 is done" in ended.stdout
    # What a CPU can do is not known: no utilisation; nor does a host wait for it.
    assert ended.stdout.count("no verdict") == len(verdicts({})) - 2
    assert ended.stdout.count("the host waits for the device | not measured") == 2
    measured = json.loads((out / "measured.json").read_text())
    batches = [(each["tune"], each["batch_size"]) for each in measured["fast"]["configurations"]]
    assert batches == [("default", 1), ("default", 2), ("everything", 1), ("everything", 2)]
    assert all(each["peak_memory_bytes"] > 0 for each in measured["fast"]["configurations"])
    assert measured["whole"]["evaluation"]


@pytest.mark.slow
def test_n17_is_measured_too(tmp_path: Path) -> None:
    """The tests that prove it are those that the drill of N1.5 runs."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bench.gpu_drill", "--size", "small", "--generation", "N1.7"]
    command += ["--only", "fast", "where", "whole", "--out", str(out)]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + (out / "log.txt").read_text()[-5000:]
    assert "GR00T N1.7, size small, on CPU" in ended.stdout and "step 41 is done" in ended.stdout
    assert ended.stdout.count("the host waits for the device | not measured") == 2
    measured = json.loads((out / "measured.json").read_text())
    batches = [(each["tune"], each["batch_size"]) for each in measured["fast"]["configurations"]]
    assert batches == [("default", 1), ("default", 2), ("everything", 1), ("everything", 2)]
    assert {"backbone", "one denoising step", "chunk of 4 steps"} <= set(measured["fast"]["latency_ms"])
    assert len(measured["fast"]["against_upstreams_way"]) == 2
    assert measured["whole"]["evaluation"] and measured["whole"]["resume_seconds"]


def test_a_part_that_is_too_slow_is_ended_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()
    assert gpu_drill.run("fast", "small", tmp_path, limit=0.2) == []
    assert "its limit" in (tmp_path / "fast.md").read_text()
    assert gpu_drill.run("right", "small", tmp_path, limit=0.2) != []  # nothing is proven
    assert gpu_drill.run("fast", "small", tmp_path, limit=0.0) != []


def test_a_part_that_fails_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_drill.sys, "executable", "/bin/false")
    assert gpu_drill.run("fast", "small", tmp_path, limit=60) != []


def test_an_exception_stands_in_its_row_and_the_next_row_follows(tmp_path: Path) -> None:
    report = Report("fast", tmp_path)
    table = report.table("Steps", ["batch", "ms", "MFU"])
    table.attempt([1], lambda: [2.0, "40 %"])
    table.attempt([8], lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    table.attempt([32], lambda: [5.0, "45 %"])
    rows = (tmp_path / "fast.md").read_text().splitlines()[-3:]
    assert rows == ["| 1 | 2 | 40 % |", "| 8 | ZeroDivisionError: division by zero |  |", "| 32 | 5 | 45 % |"]


def test_figures_of_several_parts_lie_in_one_file(tmp_path: Path) -> None:
    Report("fast", tmp_path).fact("latency_ms", 3.0)
    Report("whole", tmp_path).fact("stopped_ms", 80.0)
    assert read_measured(tmp_path) == {"fast": {"latency_ms": 3.0}, "whole": {"stopped_ms": 80.0}}


def figures(**whole: float) -> dict[str, Any]:
    """What a drill on a card could have measured."""
    steps = [(1, 30.0, 0.2), (8, 33.0, 0.9), (32, 36.5, 0.4)]
    default = [{"tune": "default", "batch_size": b, "mfu_percent": m, "waiting_percent": w} for b, m, w in steps]
    against = [{"batch_size": 32, "speed": 1.4, "memory": 0.7}, {"batch_size": 1, "speed": 2.0, "memory": 0.9}]
    everything = {"tune": "everything", "batch_size": 8, "mfu_percent": 1.0, "waiting_percent": 50.0}
    return {
        "about": {"counts": True},
        "fast": {"configurations": [*default, everything], "against_upstreams_way": against},
        "where": {"batch_1": {"host_waits": 0.0}, "batch_32": {"host_waits": 1.5}, "about": "a card"},
        "whole": whole,
    }


def test_each_goal_is_met_or_not() -> None:
    found = [row[2:] for row in verdicts(figures(stopped_ms=100.5))]
    assert found == [
        ["2×", "met"],
        ["1.4×", "NOT MET"],
        ["0.7×", "met"],
        ["36.5 %", "met"],
        ["0.9 %", "met"],
        ["1.5", "NOT MET"],
        ["100 ms", "NOT MET"],
    ]
    assert verdicts(figures())[-1][2:] == ["not measured", ""]
    assert [row[2] for row in verdicts({})] == ["not measured"] * 7


def test_what_is_brought_along_is_in_the_lock() -> None:
    assert all("==" in each for each in gpu_wheels.locked(gpu_wheels.WANTED))


def test_the_golden_tensors_that_are_brought_along_are_those_that_are_read(
    golden: Path, golden_n17: Path, tmp_path: Path
) -> None:
    gpu_wheels.collect_golden(golden, tmp_path / "golden", gpu_wheels.TENSORS)
    brought = Golden(tmp_path / "golden", torch.device("cpu"))
    assert all(brought.batch(variant[0]) and brought.expected(variant) for variant in VARIANTS)
    assert (tmp_path / "golden/results.json").is_file()
    gpu_wheels.collect_golden(golden_n17, tmp_path / "golden-n17", gpu_wheels.TENSORS_N17)
    of_n17 = GoldenN17(tmp_path / "golden-n17", torch.device("cpu"))
    assert all(of_n17.batch(name) and of_n17.expected(name) for name in "AB")
    assert of_n17.model().state_dict() and (tmp_path / "golden-n17/results.json").is_file()
