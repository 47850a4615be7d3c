"""Which episodes are held out, and that nothing of them reaches the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.data.dataset import TrainingDataset
from trainer.data.holdout import HASH_DIGITS, choose, episode_hash
from trainer.data.holdout_rule import parse_holdout
from trainer.data.reader import DatasetReader
from trainer.data.synthetic import make_synthetic
from trainer.errors import UsageError

CONFIG = "fourier_gr1_arms_only"
HASHES = st.lists(st.integers(0, 16**HASH_DIGITS - 1), min_size=2, max_size=40, unique=True)


def as_hashes(numbers: list[int]) -> dict[int, str]:
    return {episode: f"{number:0{HASH_DIGITS}x}" for episode, number in enumerate(numbers)}


@given(HASHES, HASHES, st.floats(0.05, 0.6))
def test_added_data_moves_no_episode_across_a_share(numbers, added, share):
    before, after = as_hashes(numbers), as_hashes([*numbers, *(each for each in added if each not in numbers)])
    below = {episode for episode, each in before.items() if int(each, 16) < share * 16**HASH_DIGITS}
    if not below or len(below) == len(before):
        return  # one is held out all the same, or none would be left
    try:
        chosen = choose(after, str(share))
    except UsageError:
        return
    assert set(choose(before, str(share))) == {episode for episode in chosen if episode in before}


@given(HASHES, st.randoms())
def test_neither_order_nor_numbers_decide(numbers, random):
    hashes = as_hashes(numbers)
    shuffled = random.sample(list(hashes.values()), len(hashes))
    renumbered = dict(enumerate(shuffled))
    for rule in ("0.3", "1"):
        try:
            chosen = {hashes[each] for each in choose(hashes, rule)}
        except UsageError:
            continue
        assert chosen == {renumbered[each] for each in choose(renumbered, rule)}


def test_counts_lists_and_copies():
    hashes = {0: "a" * 12, 1: "1" * 12, 2: "5" * 12, 3: "1" * 12}
    assert choose(hashes, "1") == [1, 3]  # the same episode twice is never on both sides
    assert choose(hashes, "2") == [1, 2, 3]
    assert choose(hashes, "2,") == [2] and choose(hashes, "0,2") == [0, 2]
    assert choose(hashes, "0.01") == [1, 3]  # at least one
    for rule, message in (("7,", "has no episode 7"), ("4", "none would be left"), ("0,1,2", "none would be left")):
        with pytest.raises(UsageError, match=message):
            choose(hashes, rule)


@pytest.mark.parametrize("text", ["-1", "1.5", "1.0", "many", "1,x", "0.0", "", "-1,", "1e9999", "nan"])
def test_what_is_no_rule_is_refused_where_it_is_typed(text):
    with pytest.raises(ValueError, match="neither a share"):
        parse_holdout(text)
    with pytest.raises(ValidationError, match="neither a share"):
        FinetuneConfig(dataset_path=["somewhere"], holdout=text)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=3)


def test_a_hash_is_of_the_content_alone(dataset: Path, tmp_path: Path):
    """Appended to another dataset an episode has another number and other indices, and in v3 another float type."""
    config = get_data_config(CONFIG)
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    lines = [json.loads(line) for line in (other / "meta/episodes.jsonl").read_text().splitlines()]
    for line in lines:
        file = other / f"data/chunk-000/episode_{line['episode_index']:06d}.parquet"
        table = pq.read_table(file)
        index = pa.array(np.asarray(table["index"]) + 1000)
        pq.write_table(table.set_column(table.column_names.index("index"), "index", index), file)
    ours, theirs = DatasetReader(dataset, config), DatasetReader(other, config)
    hashes = [episode_hash(ours.table(episode)) for episode in range(3)]
    assert [episode_hash(theirs.table(episode)) for episode in range(3)] == hashes
    assert len(set(hashes)) == 3


def test_held_out_episodes_are_neither_trained_on_nor_in_the_statistics(dataset: Path, tmp_path: Path):
    """The training is the one on a dataset that never had them."""
    without = Path(shutil.copytree(dataset, tmp_path / "without"))
    lines = (without / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
    (without / "meta/episodes.jsonl").write_text("".join(lines[:1] + lines[2:]))
    (without / "meta/stats.json").unlink()
    held = TrainingDataset([dataset], CONFIG, "new_embodiment", holdout="1,")
    never = TrainingDataset([without], CONFIG, "new_embodiment")
    whole = TrainingDataset([dataset], CONFIG, "new_embodiment")
    assert len(held) == len(never) < len(whole)
    assert held.metadata.statistics.action["right_arm"] == never.metadata.statistics.action["right_arm"]
    assert held.metadata.statistics.action["right_arm"] != whole.metadata.statistics.action["right_arm"]
    assert list(held.held_out[0]) == [1] and held.held_out[0][1] not in held.trained_on
    assert sorted([*held.trained_on, *held.held_out[0].values()]) == sorted(whole.trained_on)
    for index in (0, len(held) - 1):
        ours, theirs = held[index], never[index]
        assert all(np.array_equal(ours[name], theirs[name]) for name in ("images", "state", "action", "text"))
