"""A training on a folder, with nothing in front of it: its data is checked all the same, and read as its flags say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.training import Training
from trainer.data.locations import Clip
from trainer.data.policy_config import read_policy_config
from trainer.data.video_cut import Part, cut
from trainer.errors import DatasetError, UsageError
from trainer.events import PhaseEvent, WarningEvent
from trainer.runner.parent_watch import PARENT_PID

MakeTraining = Callable[..., Training]
TABLE = "data/chunk-000/episode_000001.parquet"


@pytest.fixture
def edited(dataset: Path, tmp_path: Path) -> Path:
    """The dataset, to be changed."""
    return Path(shutil.copytree(dataset, tmp_path / "edited"))


def runs_on(dataset: Path) -> None:
    """The second episode's clock continues from the first's; and it has as many frames as rows."""
    table = pq.read_table(dataset / TABLE)
    times = pa.array([100.0 + row / 20 for row in range(table.num_rows)])
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", times), dataset / TABLE)


def cut_videos(dataset: Path, lengths: list[int]) -> None:
    """Videos with as many frames as the shortened tables have rows."""
    for episode, length in enumerate(lengths):
        video = dataset / f"videos/chunk-000/observation.images.ego_view/episode_{episode:06d}.mp4"
        cut(video, [Part(video.with_name("cut.mp4"), Clip(video, 0.0, length, 20, 0))])
        video.with_name("cut.mp4").replace(video)


def statistics(training: Training) -> dict:
    document = json.loads((training.output_dir / "experiment_cfg/metadata.json").read_text())
    return document["new_embodiment"]["statistics"]["action"]["right_arm"]


def warnings_of_statistics(training: Training) -> list[WarningEvent]:
    return [each for each in training.events if isinstance(each, WarningEvent) and "stats.json" in each.message]


def test_a_bad_folder_is_refused_before_the_model_is_touched(training: MakeTraining, edited: Path) -> None:
    runs_on(edited)
    bare = training("bare", dataset_path=[edited], base_model_path="/nowhere")
    with pytest.raises(DatasetError) as refused:
        bare.run()
    assert "row 0 of episode 1 is at 100.000 s" in refused.value.message and refused.value.exit_code == 3
    assert [event.phase for event in bare.events if isinstance(event, PhaseEvent)] == ["check"]
    assert not bare.output_dir.exists()


def test_by_index_it_trains(training: MakeTraining, edited: Path) -> None:
    runs_on(edited)
    cut_videos(edited, [6, 5])
    assert training("by-index", dataset_path=[edited], video_alignment="index", max_steps=1).run() == 0


def test_statistics_are_those_of_the_file_or_of_the_data(training: MakeTraining, edited: Path) -> None:
    stored = training("stored", dataset_path=[edited], max_steps=1)
    assert stored.run() == 0
    # They are of longer episodes.
    (warning, *_) = [
        event for event in stored.events if isinstance(event, WarningEvent) and "stats.json" in event.message
    ]
    assert "--recompute-statistics" in warning.hint
    computed = training("computed", dataset_path=[edited], max_steps=1, recompute_statistics=True)
    assert computed.run() == 0
    assert not warnings_of_statistics(computed)
    (edited / "meta/stats.json").unlink()
    without = training("without", dataset_path=[edited], max_steps=1)
    assert without.run() == 0
    assert statistics(stored) != statistics(computed) == statistics(without)


def test_what_trainer_run_has_told_is_not_told_again(
    training: MakeTraining, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = training("alone", max_steps=1)
    assert alone.run() == 0 and any(isinstance(event, WarningEvent) for event in alone.events)
    monkeypatch.setenv(PARENT_PID, str(os.getppid()))
    below = training("below", max_steps=1)
    assert below.run() == 0 and not any(isinstance(event, WarningEvent) for event in below.events)
    assert "check" not in [event.phase for event in below.events if isinstance(event, PhaseEvent)]


def test_excluded_episodes_are_in_the_checkpoint_and_resume_keeps_them(training: MakeTraining, dataset: Path) -> None:
    excluded = training("excluded", dataset_path=[dataset], max_steps=1, exclude_episodes=["1"])
    assert excluded.run() == 0
    told = [event.message for event in excluded.events if isinstance(event, PhaseEvent)]
    assert "Left out: episode 1" in told
    known = read_policy_config(excluded.output_dir)
    assert known is not None and known.exclude_episodes == ["1"] and len(known.trained_on) == 1
    assert excluded.run(max_steps=2, resume=True) == 0
    again = read_policy_config(excluded.output_dir)
    assert again is not None and (again.exclude_episodes, again.trained_on) == (["1"], known.trained_on)
    with pytest.raises(UsageError, match="has no episode 9"):
        training("unknown", dataset_path=[dataset], max_steps=1, exclude_episodes=["9"]).run()
