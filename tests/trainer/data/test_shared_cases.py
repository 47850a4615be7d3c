"""Datasets rebuilt from public reports, each with the right verdict, beside this checkout (../shared/cases).

Through the command people type, then through the training and the evaluation: frame k is evenly grey, 8 (k mod 30) + 4.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.support.frames_seen import frames_trained_on, require_frames
from trainer.data.checks import check_dataset
from trainer.errors import DatasetError

FOLDER = SHARED / "cases"
if not (FOLDER / "make.py").is_file():
    pytest.skip("the cases are not beside this checkout (../shared/cases)", allow_module_level=True)


def _cases() -> dict[str, tuple[Callable[[Path], Any], str, str]]:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("make").CASES
    finally:
        sys.path.remove(str(FOLDER))


CASES = _cases()
BY_INDEX = ("video_drifts", "video_begins_late", "time_runs_on", "time_of_day")


def number_of_grey(frame: np.ndarray) -> int:
    """Which of thirty frames an evenly grey one is."""
    return round((float(frame.mean()) - 4) / 8)


@pytest.fixture
def pippa(pippa_here: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple]:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    return pippa_here


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A case as it is made, once: encoding its videos takes longer than most tests."""
    folder = tmp_path_factory.mktemp("cases")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            CASES[name][0](folder / name)
        return folder / name

    return make


@pytest.fixture
def case(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a case, for one test."""
    return lambda name: shutil.copytree(made(name), tmp_path / name, symlinks=True)


@pytest.mark.parametrize("name", CASES)
def test_a_case_gets_the_right_verdict(pippa: Callable[..., tuple], case: Callable[[str], Path], name: str) -> None:
    _, right, why = CASES[name]
    folder = case(name)
    code, out, err = pippa("data", "check", str(folder), "--data-config", "so100_dualcam")
    warned = any(line.startswith("!") for line in (out + err).splitlines())
    verdict = {0: "warn" if warned else "train", 3: "refuse"}[code]
    assert verdict == right, why + out + err
    if verdict == "refuse":
        assert "defect" not in err and "Traceback" not in err
        assert f"{folder}: " in err and len(err.splitlines()) >= 3
    else:
        require_frames(folder, step=2 if name == "camera_twice_as_fast" else 1, number=number_of_grey, repeats=30)


@pytest.mark.parametrize("name", BY_INDEX)
def test_only_the_clock_is_wrong(pippa: Callable[..., tuple], case: Callable[[str], Path], name: str) -> None:
    folder = case(name)
    check = ("data", "check", str(folder), "--data-config", "so100_dualcam")
    assert "--video-alignment index" in pippa(*check)[2]
    assert pippa(*check, "--video-alignment", "index")[0] == 0
    if name != "video_drifts":
        require_frames(folder, number=number_of_grey, repeats=30, video_alignment="index")


def test_the_drifting_video_row_by_row(case: Callable[[str], Path]) -> None:
    """2,000 rows, by index: sixty-seven times the same thirty greys."""
    folder = case("video_drifts")
    (episode,) = frames_trained_on(folder, number_of_grey, video_alignment="index")
    assert episode == [[row % 30] * 2 for row in range(2000)]


def test_old_statistics_are_computed_again(pippa: Callable[..., tuple], case: Callable[[str], Path]) -> None:
    folder = case("stale_statistics")
    check = ("data", "check", str(folder), "--data-config", "so100_dualcam")
    assert "--recompute-statistics" in pippa(*check)[2]
    code, out, _ = pippa(*check, "--recompute-statistics")
    assert code == 0 and "!" not in out


def test_the_plan_repeats_the_warnings(pippa: Callable[..., tuple], case: Callable[[str], Path]) -> None:
    folder = case("wider_statistics")
    train = ("train", "smoke", "--dataset-path", str(folder), "--data-config", "so100_dualcam", "--dry-run")
    code, out, _ = pippa(*train)
    assert code == 0 and "! " in out and "-90 to 90" in out
    assert "-90 to 90" not in pippa(*train, "--recompute-statistics")[1]


def test_loading_is_no_more_trusting_than_the_check(case: Callable[[str], Path]) -> None:
    """A training or an evaluation that somehow begins without a check refuses the same rows."""
    for name in ("time_of_day", "video_begins_late", "nested", "text_with_nulls"):
        folder = case(name)
        with pytest.raises(DatasetError) as refused:
            require_frames(folder, number=number_of_grey, repeats=30)
        assert refused.value.message.rstrip(".") in [
            problem.message for problem in check_dataset(folder, "so100_dualcam").problems
        ]


@pytest.mark.parametrize("name", CASES)
def test_a_case_can_be_looked_at(pippa: Callable[..., tuple], case: Callable[[str], Path], name: str) -> None:
    """Also most of those that are refused: what is wrong with a camera or a row is what people want to see."""
    folder = case(name)
    code, out, err = pippa("data", "show", str(folder), "--json")
    if name == "nested":
        assert code == 3 and "one level too deep" in err
        return
    found = json.loads(out)
    assert code == 0, err
    told = {each["rule"] for each in found["findings"]}
    assert "copy" in told  # their actions are their states
    assert ("unreadable" in told) == (name in (*BY_INDEX, "text_with_nulls", "unused_depth_camera"))
