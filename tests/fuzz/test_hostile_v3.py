"""LeRobot v3 from a stranger: read in place or converted, nothing leaves its folder or takes more than it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.bounded import refuses
from tests.support.lerobot_v3 import to_v3
from tests.support.so101_cases import CONFIG, make
from trainer.errors import ExitCode

FRONT = "observation.images.front"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def info(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / "meta/info.json").read_text())
        change(content)
        (root / "meta/info.json").write_text(json.dumps(content))

    return apply


def episodes(count: int, **values: Any) -> Callable[[Path], None]:
    """``count`` episodes, all where the first one is."""

    def apply(root: Path) -> None:
        (file,) = sorted((root / "meta/episodes").glob("*/*.parquet"))[:1]
        first = pq.read_table(file).slice(0, 1)
        columns = {name: pa.repeat(first.column(name)[0], count) for name in first.column_names}
        columns["episode_index"] = pa.array(np.arange(count))
        columns |= {name.replace("__", "/"): pa.repeat(pa.scalar(value), count) for name, value in values.items()}
        pq.write_table(pa.table(columns), file)

    return apply


def in_turns(root: Path) -> None:
    """2,000 rows of each episode, one after the other."""
    (file,) = (root / "data").glob("*/*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.take(np.tile([0, len(table) - 1], 2000)), file)
    (listed,) = (root / "meta/episodes").glob("*/*.parquet")
    known = pq.read_table(listed)
    lengths = pa.array([2000, 2000])
    pq.write_table(known.set_column(known.column_names.index("length"), "length", lengths), listed)


def renamed(content: Any) -> None:
    content["features"]["../../../evil"] = content["features"].pop(FRONT)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "data_path leaves the folder": (
        info(lambda i: i.update(data_path="../../{chunk_index}/{file_index}.parquet")),
        r"info\.json: data_path",
    ),
    "an attribute in a template": (
        info(lambda i: i.update(video_path="{video_key.__class__}/{file_index}.mp4")),
        r"info\.json: video_path",
    ),
    "a huge width in a template": (
        info(lambda i: i.update(data_path="{file_index:>999999999}")),
        r"info\.json: data_path",
    ),
    "a camera's name leaves the folder": (info(renamed), "evil"),
    "a million episodes": (episodes(1_000_001), r"episodes.*parquet"),
    "the same clip again and again": (episodes(5000), r"rows of episode|cut out of its|episode_index"),
    "an episode without end": (episodes(1, length=1 << 62), r"length: the number is too large"),
    "a file of another world": (episodes(1, data__file_index=1 << 62, length=99), r"rows of episode|missing"),
    "rows in turns": (in_turns, r"lie in 2,000 places"),
}


def converted(folder: Path, into: Path) -> Path:
    from trainer.data.convert_v3 import convert_to_v21

    return convert_to_v21(folder, into)


def read_in_place(folder: Path, work: Path) -> None:
    from trainer.importers.normalize_dataset import normalized

    with normalized(folder, CONFIG, str(folder), work):
        pass


@pytest.mark.parametrize("read", [read_in_place, converted])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_dataset_is_refused_by_name(tmp_path: Path, name: str, read: Callable[[Path, Path], object]) -> None:
    change, named = HOSTILE[name]
    folder = to_v3(make(tmp_path / "v2"), tmp_path / "v3" / "data")
    change(folder)
    refused = refuses(read, folder, tmp_path / "into" / "a" / "b" / "data")
    assert refused.exit_code == ExitCode.DATASET, refused
    assert re.search(named, refused.message), refused.message[:1000]
    assert not list(tmp_path.rglob("evil*"))
