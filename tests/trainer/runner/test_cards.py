"""Which GPUs there are, and which a training uses; the driver's program is a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.runner.cards import cards, used

LISTED = """\
0, GPU-11aa, NVIDIA L40S, 46068, 580.65.06
1, GPU-22bb, NVIDIA A100, the second, 81920, 580.65.06
2, GPU-22cc, NVIDIA GB10, [N/A], 580.65.06
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("driver")
def test_cards_have_names_and_sizes() -> None:
    first, second, third = cards()
    assert (first.name, first.memory, first.driver) == ("NVIDIA L40S", 46068 << 20, "580.65.06")
    assert second.name == "NVIDIA A100, the second"
    assert third.memory == 0  # it shares the host's


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("visible", "num_gpus", "indices"),
    [
        (None, 1, "0"),
        (None, 3, "012"),
        ("1", 1, "1"),
        ("2,0", 2, "20"),
        ("GPU-22b", 1, "1"),
        ("", 1, ""),
        ("-1", 1, ""),
        ("7", 1, ""),
    ],
)
def test_those_used_are_the_first_that_are_visible(visible: str | None, num_gpus: int, indices: str) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert "".join(card.index for card in used(num_gpus, environ)) == indices


@pytest.mark.parametrize("program", [None, "exit 9", "echo 'No devices were found'"])
def test_without_a_gpu_there_are_none(program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if program is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + (":/usr/bin:/bin" if program else ""))
    assert cards() == []
