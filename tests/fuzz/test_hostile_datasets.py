"""What a stranger's dataset may try: refused by name, with the code of a bad dataset, in little time and memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.hostile import HARMLESS, HOSTILE, VIDEO
from tests.support.bounded import bounded, refuses
from tests.support.so101 import FRAMES
from tests.support.so101_cases import CONFIG, make
from tests.trainer.data.videos import number_in
from trainer.errors import ExitCode


def checked(folder: Path, work: Path) -> list[str]:
    """What ``pippa data check`` and every import do."""
    from trainer.importers.normalize_dataset import normalized

    with normalized(folder, CONFIG, str(folder), work) as (_, changed):
        return list(changed)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_dataset_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, named = HOSTILE[name]
    folder = make(tmp_path / "hostile" / "data", change)
    refused = refuses(checked, folder, tmp_path / "work")
    assert refused.exit_code == ExitCode.DATASET, refused
    assert re.search(named, refused.message), refused.message[:2000]
    assert len(refused.message) < 20_000


def numbers(folder: Path) -> list[int]:
    from trainer.data.video import decode_video

    return [number_in(frame) for _, frame in decode_video(folder / VIDEO)]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_container_says_of_elsewhere_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "hostile" / "data", HARMLESS[name])
    assert bounded(checked, folder, tmp_path / "work").value == []
    assert bounded(numbers, folder).value == list(range(FRAMES))
