"""`trainer evaluate` on a tiny checkpoint: upstream's protocol, worked out a second time from the dataset's tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from trainer.data.config_file import to_toml
from trainer.data.configs import DATA_CONFIGS
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.policy_config import PolicyConfig, sources, write_policy_config
from trainer.data.reader import DatasetReader
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError, UsageError
from trainer.evaluation.compatibility import swapped
from trainer.evaluation.folder import EvaluateOptions, evaluate
from trainer.events import Emitter, EvaluationEvent, parse_event
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.policy import Policy

Asked = list[tuple[dict[str, Any], dict[str, np.ndarray]]]
CONFIG = "fourier_gr1_arms_only"
COLUMNS = {"right_hand": slice(29, 35), "left_arm": slice(0, 7)}
"""Of the demo dataset's action column (reference, 6)."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every observation the policy gets and what it answers."""
    calls: Asked = []
    answer = Policy.get_action

    def get_action(self: Policy, observation: Any, noise: Any = None) -> dict[str, np.ndarray]:
        calls.append((observation, answer(self, observation, noise)))
        return calls[-1][1]

    monkeypatch.setattr(Policy, "get_action", get_action)
    return calls


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")


def checkpoint_for(dataset: Path, tiny: Path, folder: Path) -> Path:
    checkpoint = Path(shutil.copytree(tiny, folder / "checkpoint-30"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    history = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 30, "log_history": history}))
    return checkpoint


def test_protocol_and_error_are_upstreams(demo_dataset: Path, tiny: Path, asked: Asked, tmp_path: Path) -> None:
    checkpoint = checkpoint_for(demo_dataset, tiny, tmp_path)
    options = EvaluateOptions(
        model_path=checkpoint,
        data_config=CONFIG,
        dataset_path=demo_dataset,
        modality_keys=("right_hand", "left_arm"),
        steps=40,
        trajs=2,
        start_traj=1,
        report_dir=tmp_path / "report",
    )
    metrics = evaluate(options, Emitter())
    frames = [0, 16, 32]
    assert len(asked) == 2  # the questions of an episode are one batch
    errors = []
    for position, episode in enumerate((1, 2)):
        table = pq.read_table(demo_dataset / f"data/chunk-000/episode_{episode:06d}.parquet")
        state, action = (np.stack(table[name].to_numpy()) for name in ("observation.state", "action"))
        observation, answer = asked[position]
        np.testing.assert_array_equal(observation["state.left_arm"][:, 0], state[frames, 0:7])
        assert not [name for name in observation if name.startswith("action.")]
        predicted = np.concatenate([np.concatenate(answer[f"action.{key}"]) for key in COLUMNS], axis=1)[:40]
        demonstrated = np.concatenate([action[:40, columns] for columns in COLUMNS.values()], axis=1)
        errors.append(((demonstrated - predicted) ** 2).mean())
    assert metrics["open_loop_mse"] == pytest.approx(np.mean(errors), rel=1e-12)
    report = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert [episode["mse"] for episode in report["episodes"]] == pytest.approx(errors, rel=1e-12)
    assert [episode["episode"] for episode in report["episodes"]] == [1, 2]
    assert {file.name for file in (tmp_path / "report").iterdir()} == {
        "evaluation.json", "loss.png",
        "open_loop_episode_1.png", "open_loop_episode_1.json", "open_loop_episode_1_camera_0.webp",
        "open_loop_episode_2.png", "open_loop_episode_2.json", "open_loop_episode_2_camera_0.webp",
    }  # fmt: skip


def test_an_episode_is_compared_over_its_own_length(
    tiny: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upstream continues with the repeated last frame; other keys' order and a shorter stride are followed."""
    dataset = make_synthetic(tmp_path / "synthetic", episodes=1)
    length = DatasetMeta.load(dataset).episodes[0].length
    checkpoint = checkpoint_for(dataset, tiny, tmp_path)
    options = EvaluateOptions(
        model_path=checkpoint,
        dataset_path=dataset,
        data_config=CONFIG,
        steps=10_000,
        action_horizon=12,
        denoising_steps=1,
    )
    metrics = evaluate(options, Emitter())
    ((_, answer),) = asked
    assert len(answer["action.left_arm"]) == -(-length // 12) and length % 12
    action = np.stack(pq.read_table(next(dataset.glob("data/*/*.parquet")))["action"].to_numpy())
    entries = DatasetMeta.load(dataset).modality.action
    keys = ("left_arm", "right_arm", "left_hand", "right_hand")
    predicted = np.concatenate([np.concatenate(answer[f"action.{key}"][:, :12]) for key in keys], axis=1)[:length]
    demonstrated = np.concatenate([action[:, entries[key].start : entries[key].end] for key in keys], axis=1)
    assert metrics["open_loop_mse"] == pytest.approx(((demonstrated - predicted) ** 2).mean(), rel=1e-9)
    assert metrics["action_variance"] == pytest.approx(demonstrated.var(axis=0).mean(), rel=1e-9)
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    (event,) = [event for event in events if isinstance(event, EvaluationEvent)]
    assert (event.step, event.metrics) == (30, metrics)
    assert evaluate(options, Emitter()) == metrics  # the noise is seeded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality_keys": ("left_leg",)}, "left_leg: the data config fourier_gr1_arms_only has no such action"),
        ({"action_horizon": 17}, "--action-horizon 17"),
        ({"action_horizon": 0}, "--action-horizon 0"),
        ({"steps": 0}, "--steps 0"),
        ({"trajs": 0}, "--trajs 0"),
        ({"start_traj": -1}, "--start-traj -1"),
        ({"start_traj": 7}, "has 1 episodes"),
        ({"data_config": "so10"}, "Did you mean so100"),
    ],
)
def test_what_can_not_be_meant_is_refused(tiny: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    dataset = make_synthetic(tmp_path / "synthetic", episodes=1)
    checkpoint = checkpoint_for(dataset, tiny, tmp_path)
    with pytest.raises(UsageError) as caught:
        options: dict[str, Any] = {"data_config": CONFIG, **change}
        evaluate(EvaluateOptions(model_path=checkpoint, dataset_path=dataset, **options), Emitter())
    assert message in str(caught.value)


SWAPPED = replace(
    DATA_CONFIGS[CONFIG],
    name="swapped",
    action=tuple(DATA_CONFIGS[CONFIG].action[position] for position in (1, 0, 2, 3)),
)


def knowing(checkpoint: Path, dataset: Path) -> Path:
    """The same checkpoint as pippa trains it: with its own record."""
    meta, config = DatasetMeta.load(dataset), DATA_CONFIGS[CONFIG]
    cameras, joints = sources(meta, config)
    known = PolicyConfig(
        data_config=config,
        embodiment_tag="new_embodiment",
        action_horizon=16,
        denoising_steps=4,
        cameras=cameras,
        joints=joints,
    )
    write_policy_config(checkpoint / "experiment_cfg", known)
    return checkpoint


def test_a_checkpoint_that_knows_itself_needs_no_telling_and_takes_no_contradiction(tiny: Path, tmp_path: Path) -> None:
    dataset = make_synthetic(tmp_path / "synthetic", episodes=1)
    stranger = checkpoint_for(dataset, tiny, tmp_path)
    told = EvaluateOptions(model_path=stranger, dataset_path=dataset, data_config=CONFIG, steps=20)
    with pytest.raises(UsageError, match="does not say which data config"):
        evaluate(told.model_copy(update={"data_config": None}), Emitter())
    expected = evaluate(told, Emitter())
    knowing(stranger, dataset)
    assert evaluate(told.model_copy(update={"data_config": None}), Emitter()) == expected
    assert Policy(stranger).data_config == DATA_CONFIGS[CONFIG]
    (tmp_path / "swapped.toml").write_text(to_toml(SWAPPED))
    with pytest.raises(UsageError, match=r"action left_arm, .*, not right_arm, left_arm") as caught:
        evaluate(told.model_copy(update={"data_config": str(tmp_path / "swapped.toml")}), Emitter())
    assert "was trained with the data config fourier_gr1_arms_only, not with swapped" in caught.value.message
    with pytest.raises(UsageError, match="the embodiment tag new_embodiment, not gr1"):
        Policy(stranger, embodiment_tag="gr1")


def rewritten(dataset: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the dataset with another ``modality.json``."""
    shutil.copytree(dataset, to)
    modality = json.loads((to / "meta/modality.json").read_text())
    change(modality)
    (to / "meta/modality.json").write_text(json.dumps(modality))
    return to


def test_a_dataset_that_contradicts_the_checkpoint_is_refused(tiny: Path, tmp_path: Path) -> None:
    dataset = make_synthetic(tmp_path / "synthetic", episodes=1)
    checkpoint = knowing(checkpoint_for(dataset, tiny, tmp_path), dataset)

    def swap_arms(modality: dict[str, Any]) -> None:
        action = modality["action"]
        action["left_arm"], action["right_arm"] = action["right_arm"], action["left_arm"]

    def shorten(modality: dict[str, Any]) -> None:
        modality["state"]["left_arm"]["end"] -= 1

    for change, message in (
        (swap_arms, "action.left_arm is motor_22, motor_23"),
        (shorten, "state.left_arm has 6 dimensions, not 7"),
    ):
        other = rewritten(dataset, tmp_path / change.__name__, change)
        with pytest.raises(DatasetError, match="contradicts what the checkpoint was trained on") as caught:
            evaluate(EvaluateOptions(model_path=checkpoint, dataset_path=other), Emitter())
        assert message in caught.value.message


def test_swapped_cameras_are_refused_and_other_names_are_not() -> None:
    trained = {"front": "observation.images.front", "wrist": "observation.images.wrist"}
    assert swapped("video.", {"front": trained["wrist"], "wrist": trained["front"]}, trained) == [
        "video.front is observation.images.wrist, which the training had as video.wrist",
        "video.wrist is observation.images.front, which the training had as video.front",
    ]
    assert not swapped("video.", {"front": "observation.images.cam_high", "wrist": trained["wrist"]}, trained)


def test_images_of_another_size_are_resized_with_one_warning(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_synthetic(tmp_path / "synthetic", episodes=1)
    policy = Policy(knowing(checkpoint_for(dataset, tiny, tmp_path), dataset), denoising_steps=1, device="cpu")
    step = DatasetReader(dataset, policy.data_config).get_step_data(0, 30)
    noise = np.zeros((16, 32))
    true = policy.get_action(step, noise)
    assert not caplog.records
    larger = {**step, "video.ego_view": step["video.ego_view"].repeat(2, axis=1).repeat(2, axis=2)}
    for _ in range(3):
        resized = policy.get_action(larger, noise)
    assert [record.message for record in caplog.records] == [
        "The camera ego_view gives images of 512x512; it was trained on 256x256, and they are resized."
    ]
    for name, value in true.items():
        np.testing.assert_allclose(resized[name], value, atol=1e-3)
