"""What a stranger's dataset may try: refused by name, with the code of a bad dataset, in little time and memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.hostile import HOSTILE
from tests.support.bounded import refuses
from tests.support.so101_cases import CONFIG, make
from trainer.errors import ExitCode


def checked(folder: Path, work: Path) -> list[str]:
    """What ``pippa data check`` and every import do."""
    from trainer.importers.normalize_dataset import normalized

    with normalized(folder, CONFIG, str(folder), work) as (_, changed):
        return list(changed)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("good") / "data")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_dataset_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, named = HOSTILE[name]
    folder = make(tmp_path / "hostile" / "data", change)
    refused = refuses(checked, folder, tmp_path / "work")
    assert refused.exit_code == ExitCode.DATASET, refused
    assert re.search(named, refused.message), refused.message[:2000]
    assert len(refused.message) < 20_000
