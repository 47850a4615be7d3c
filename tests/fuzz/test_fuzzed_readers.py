"""Damaged and invented input for every reader: it is read, or refused with a cure, and nothing else ever happens.

Text and JSON are invented by hypothesis. Binary files are good ones with damage, whose seed is in the test's name: they
are read in a child process, as a decoder may die of them. Bounded by examples, about a minute in all.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.hostile import TABLE, VIDEO
from tests.support.bounded import bounded
from tests.support.lerobot_v3 import to_v3
from tests.support.so101_cases import make
from trainer.config.run_spec import RunSpec
from trainer.data.config_file import from_text, to_document, to_toml
from trainer.data.configs import DATA_CONFIGS
from trainer.data.dataset_meta import load_episodes, load_info, load_modality, load_tasks
from trainer.errors import PippaError
from trainer.store.manifest import Manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("good") / "data")


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """``document`` with something else in place of one of its values."""
    copy = json.loads(json.dumps(document))
    node: Any = copy
    key: Any = None
    parent: Any = None
    while isinstance(node, dict | list) and node and (key is None or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        parent, node = node, node[key]
    if parent is None or draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    parent[key] = draw(JSON)
    return copy


def reads(read: Callable[[], object]) -> None:
    try:
        read()
    except PippaError as error:
        assert error.message and error.hint


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("info.json", load_info),
        ("modality.json", load_modality),
        ("episodes.jsonl", load_episodes),
        ("tasks.jsonl", load_tasks),
    ],
)
@EXAMPLES
@given(data=st.data())
def test_metadata(good: Path, tmp_path: Path, data: st.DataObject, name: str, load: Callable[[Path], object]) -> None:
    (tmp_path / "meta").mkdir(exist_ok=True)
    content = (good / "meta" / name).read_text()
    document = json.loads(content.splitlines()[0] if name.endswith(".jsonl") else content)
    text = json.dumps(data.draw(changed(document)))
    cut = data.draw(st.integers(0, len(text)) | st.none())
    (tmp_path / "meta" / name).write_bytes(text[:cut].encode() + data.draw(st.binary(max_size=3)))
    reads(lambda: load(tmp_path))


@EXAMPLES
@given(st.data())
def test_data_configs(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(sorted(DATA_CONFIGS)))
    text = json.dumps(data.draw(changed(to_document(DATA_CONFIGS[config]))))
    reads(lambda: from_text(text, "x.json"))
    toml = to_toml(DATA_CONFIGS[config])
    at = data.draw(st.integers(0, len(toml)))
    damaged = toml[:at] + data.draw(st.text(max_size=5)) + toml[at + data.draw(st.integers(0, 5)) :]
    reads(lambda: from_text(damaged, "x.toml", toml=True))


@EXAMPLES
@given(st.data())
def test_documents_of_the_store(data: st.DataObject) -> None:
    config = {"dataset_path": ["x"], "data_config": to_document(DATA_CONFIGS["so100"])}
    for model, document in (
        (Manifest, json.loads(Manifest.of("dataset", "arm", [], {}).model_dump_json())),
        (RunSpec, {"run_id": "x", "config": config}),
    ):
        # Each reader of the store explains a ValidationError, which is a ValueError.
        with contextlib.suppress(ValueError, PippaError):
            model.model_validate(data.draw(changed(document)))


def damaged(content: bytes, seed: int) -> bytes:
    """Bytes changed, cut out, doubled, or cut off."""
    draw, changed = random.Random(seed), bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(len(changed))
        match draw.randrange(6):
            case 0 | 1:
                changed[at] = draw.randrange(256)
            case 2:
                changed[at : at + 4] = draw.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")
                )
            case 3:
                del changed[at : at + draw.randrange(1, 64)]
            case 4:
                changed[at:at] = changed[at : at + draw.randrange(1, 64)]
            case 5 if draw.random() < 0.3:
                del changed[at:]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def read_videos(file: Path, seeds: range) -> list[int]:
    """The seeds whose damage ends in another way than it may."""
    from trainer.data.decoders import Decoders
    from trainer.data.video import index_frames

    wrong, content = [], file.read_bytes()
    target = file.with_name("damaged.mp4")
    for seed in seeds:
        target.write_bytes(damaged(content, seed))
        try:
            index = index_frames(target)
            for position in (0, len(index.pts) - 1):
                Decoders().frame(target, index, position)
        except PippaError:
            pass
        except Exception:
            wrong.append(seed)
    return wrong


def read_tables(file: Path, seeds: range) -> list[int]:
    from trainer.data.tables import column_names, read_columns

    wrong, content = [], file.read_bytes()
    target = file.with_name("damaged.parquet")
    for seed in seeds:
        target.write_bytes(damaged(content, seed))
        try:
            read_columns(target, column_names(target))
        except PippaError:
            pass
        except Exception:
            wrong.append(seed)
    return wrong


def convert_v3(folder: Path, work: Path, seeds: range) -> list[int]:
    from trainer.data.convert_v3 import convert_to_v21

    wrong = []
    patterns = ("meta/**/*.parquet", "data/**/*.parquet", "meta/info.json")
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    for seed in seeds:
        file = files[seed % len(files)]
        content = file.read_bytes()
        file.write_bytes(damaged(content, seed))
        try:
            convert_to_v21(folder, work / str(seed))
        except PippaError:
            pass
        except Exception:
            wrong.append(seed)
        file.write_bytes(content)
    return wrong


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_videos(good: Path, tmp_path: Path, first: int) -> None:
    file = tmp_path / "good.mp4"
    file.write_bytes((good / VIDEO).read_bytes())
    outcome = bounded(read_videos, file, range(first, first + 100))
    assert (outcome.value, outcome.defect) == ([], "")


@pytest.mark.parametrize("first", range(0, 600, 200))
def test_tables(good: Path, tmp_path: Path, first: int) -> None:
    file = tmp_path / "good.parquet"
    file.write_bytes((good / TABLE).read_bytes())
    outcome = bounded(read_tables, file, range(first, first + 200))
    assert (outcome.value, outcome.defect) == ([], "")


def test_version_3(good: Path, tmp_path: Path) -> None:
    folder = to_v3(good, tmp_path / "v3")
    outcome = bounded(convert_v3, folder, tmp_path / "work", range(90))
    assert (outcome.value, outcome.defect) == ([], "")
