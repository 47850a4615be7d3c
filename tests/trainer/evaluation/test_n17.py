"""A checkpoint of N1.7 is evaluated as one of N1.5 is: by its folder, by its name, with its inputs taken away."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.n17 import ARM, TOLD_ARMS, trained_n17
from tests.support.told import make_told
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, WandbSpec, new_run_id
from trainer.data.data_config import Feature
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.policy_config import read_policy_config
from trainer.data.reader import DatasetReader
from trainer.data.synthetic import make_synthetic
from trainer.errors import DatasetError, UsageError
from trainer.evaluation.folder import EvaluateOptions, evaluate
from trainer.evaluation.predictor import Predictor
from trainer.evaluation.registered import RegisteredOptions, evaluate_registered
from trainer.evaluation.verdict import LITTLE, verdict
from trainer.events import Emitter, EvaluationEvent, Event
from trainer.gr00t.policy import Policy
from trainer.store import registry, runs, snapshots
from trainer.store.evaluation import Evaluation
from trainer.store.object_store import ObjectStore

KEYS = ("right_arm", "right_hand")


class Noting(Emitter):
    """Keeps the evaluations that are emitted."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.found: list[Evaluation] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, EvaluationEvent):
            self.found.append(Evaluation.model_validate(event.evaluation))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(home))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=2)


@pytest.fixture(scope="module")
def checkpoint(home: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PIPPA_HOME", str(home))
        return trained_n17(tmp_path_factory.mktemp("trained"), dataset)


def test_the_checkpoint_knows_what_it_was_trained_as(checkpoint: Path, dataset: Path) -> None:
    known = read_policy_config(checkpoint)
    assert known is not None
    assert (known.data_config, known.embodiment_tag, known.denoising_steps) == (ARM, "new_embodiment", 4)
    assert known.image_sizes == {"ego_view": (256, 256)} and list(known.cameras) == ["ego_view"]
    assert len(known.trained_on) == 2 and len(known.joints["action.right_arm"]) == 7
    policy = Policy(checkpoint, device="cpu")
    assert policy.data_config == ARM and policy.noise_shape == (40, 32) and policy.denoising_steps == 4
    actions = policy.get_action(policy.example())
    assert {name: each.shape for name, each in actions.items()} == {
        "action.right_arm": (16, 7),
        "action.right_hand": (16, 6),
    }


def test_upstreams_files_alone_are_enough(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    """As of a checkpoint that upstream's script wrote, whose processor lies in a folder of that name."""
    upstreams = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint-2"))
    shutil.rmtree(upstreams / "experiment_cfg")
    (upstreams / "processor").mkdir()
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        (upstreams / name).rename(upstreams / "processor" / name)
    ours, theirs = Policy(checkpoint, device="cpu"), Policy(upstreams, device="cpu")
    step = DatasetReader(dataset, ARM).get_step_data(1, 30)
    noise = np.random.default_rng(0).standard_normal(ours.noise_shape)
    for name, values in ours.get_action(step, noise).items():
        np.testing.assert_array_equal(values, theirs.get_action(step, noise)[name])
    assert theirs.data_config == replace(ARM, name="new_embodiment")
    told = EvaluateOptions(model_path=upstreams, dataset_path=dataset, steps=20)
    assert evaluate(told, Noting()) == evaluate(told.model_copy(update={"model_path": checkpoint}), Noting())


def test_relative_actions_count_where_they_lead_to(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    """The error worked out a second time, from the tables and the model's normalised prediction."""
    emit = Noting()
    report = tmp_path / "report"
    options = EvaluateOptions(model_path=checkpoint, dataset_path=dataset, steps=40, ablations=True, report_dir=report)
    metrics = evaluate(options, emit)
    [found] = emit.found
    table = pq.read_table(dataset / "data/chunk-000/episode_000000.parquet")
    entries = DatasetMeta.load(dataset).modality
    state, action = (np.stack(table[name].to_numpy()) for name in ("observation.state", "action"))
    statistics = json.loads((checkpoint / "statistics.json").read_text())["new_embodiment"]
    policy, reader, predicted = Policy(checkpoint, device="cpu"), DatasetReader(dataset, ARM), []
    for frame in (0, 16, 32):
        noise = Predictor(policy)._generator("action", 0, frame).standard_normal((40, 32))
        step = reader.get_step_data(0, frame)
        sample, _ = policy._actor.sample(step)
        batch = policy._collate([sample])
        start = torch.as_tensor(noise, dtype=torch.float32)[None]
        values = policy.model.get_action(batch, start)["action_pred"][0].numpy()[:16].clip(-1, 1)
        low, high = (np.array(statistics["relative_action"]["right_arm"][each]) for each in ("min", "max"))
        arm = (values[:, :7] + 1) / 2 * (high - low) + low
        arm += state[frame, entries.state["right_arm"].start : entries.state["right_arm"].end].astype(np.float32)
        low, high = (np.array(statistics["action"]["right_hand"][each]) for each in ("q01", "q99"))
        predicted.append(np.concatenate([arm, (values[:, 7:13] + 1) / 2 * (high - low) + low], axis=1))
    columns = [action[:40, entries.action[key].start : entries.action[key].end] for key in KEYS]
    demonstrated = np.concatenate(columns, axis=1)
    error = np.mean((demonstrated - np.concatenate(predicted)[:40]) ** 2)
    assert metrics["open_loop_mse"] == pytest.approx(error, rel=1e-5)
    assert metrics["action_variance"] == pytest.approx(demonstrated.var(axis=0).mean(), rel=1e-9)
    held = demonstrated[[0] * 16 + [15] * 16 + [31] * 8]
    assert metrics["hold_still_mse"] == pytest.approx(np.mean((demonstrated - held) ** 2), rel=1e-9)
    assert metrics["flow_matching_loss"] > 0
    # What the page, the verdict and the registry are made from.
    assert [(each.episode, each.trained_on, each.frames) for each in found.episodes] == [(0, True, 40)]
    assert len(found.joints) == 13 and {each.input for each in found.ablations} >= {"camera.ego_view", "state"}
    assert found.action_horizon == 16 and found.denoising_steps == 4
    judged = verdict({2: found})
    assert judged is not None and judged.level == "not"
    assert {"evaluation.json", "open_loop_episode_0.json", "open_loop_episode_0_camera_0.webp"} <= {
        file.name for file in report.iterdir()
    }
    assert evaluate(options, Noting()) == metrics


def test_a_dataset_or_config_that_contradicts_it_is_refused(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    modality = json.loads((other / "meta/modality.json").read_text())
    modality["action"]["right_arm"], modality["action"]["left_arm"] = (
        modality["action"]["left_arm"],
        modality["action"]["right_arm"],
    )
    modality["state"]["right_hand"]["end"] -= 1
    (other / "meta/modality.json").write_text(json.dumps(modality))
    with pytest.raises(DatasetError, match=r"state\.right_hand has 5 dimensions, not 6"):
        evaluate(EvaluateOptions(model_path=checkpoint, dataset_path=other), Noting())
    absolute = replace(ARM, action=(Feature("right_arm"), Feature("right_hand")))
    with pytest.raises(UsageError, match="action: other processing of the same keys"):
        Policy(checkpoint, absolute)
    with pytest.raises(UsageError, match="the embodiment tag new_embodiment, not libero_sim"):
        Policy(checkpoint, embodiment_tag="LIBERO_PANDA")


def test_frames_of_the_past_are_shown_as_in_the_training(dataset: Path, tmp_path: Path) -> None:
    config = replace(ARM, name="past", video_delta_indices=(-10, 0))
    policy = Policy(trained_n17(tmp_path, dataset, data_config=config, global_batch_size=2), device="cpu")
    reader = DatasetReader(dataset, config)
    step, first = reader.get_step_data(0, 25), reader.get_step_data(0, 4)
    now = DatasetReader(dataset, ARM)
    for frame, (past, present) in {25: (15, 25), 4: (0, 4)}.items():
        shown = {25: step, 4: first}[frame]["video.ego_view"]
        for row, at in enumerate((past, present)):
            np.testing.assert_array_equal(shown[row], now.get_step_data(0, at)["video.ego_view"][0])
    assert policy.get_action(step)["action.right_arm"].shape == (16, 7)
    assert evaluate(EvaluateOptions(model_path=policy.checkpoint.folder, dataset_path=dataset, steps=4), Noting())
    with pytest.raises(UsageError, match=r"the frames at \[-10, 0\]"):
        policy.get_action(now.get_step_data(0, 25))


def test_a_registered_checkpoint_is_evaluated_by_its_name(
    checkpoint: Path, dataset: Path, object_store: ObjectStore, s3_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_settings.to_environ().items():
        monkeypatch.setenv(name, value)
    run_id = new_run_id("arm")
    spec = RunSpec(
        run_id=run_id,
        preset="arm",
        config=FinetuneConfig(dataset_path=["own"], data_config=ARM),
        provenance={},
        datasets=[snapshots.push(object_store, dataset, "dataset", "own").ref],
        base_model=snapshots.push(object_store, checkpoint.parents[1] / "tiny", "model", "tiny-n17").ref,
        wandb=WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g"),
    )
    ref = snapshots.push(object_store, checkpoint, "checkpoint", run_id).ref
    runs.write_spec(object_store, spec)
    registry.register(object_store, registry.CheckpointEntry(run_id=run_id, step=2, snapshot=ref, spec=spec))
    emit = Noting()
    evaluate_registered(RegisteredOptions(checkpoint=(f"{run_id}/2",)), emit)
    kept = registry.resolve(object_store, run_id)
    found = kept.evaluation
    assert found is not None and found == emit.found[0] and len(found.episodes) == 2
    assert {each.input for each in found.ablations} == {"instruction", "camera.ego_view", "state"}
    report = runs.list_files(object_store, run_id, "report")
    assert "report/checkpoint-2/open_loop_episode_1.json" in report


@pytest.mark.slow
def test_a_policy_that_was_told_and_shown_uses_both(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    dataset = make_told(tmp_path / "told", shuffled=False)
    checkpoint = trained_n17(
        tmp_path, dataset, 120, data_config=TOLD_ARMS, global_batch_size=16, learning_rate=2e-3, warmup_ratio=0.02
    )
    emit = Noting()
    # As far as the one chunk it is trained on in these short episodes: beyond it nothing was learned.
    options = EvaluateOptions(model_path=checkpoint, dataset_path=dataset, trajs=16, steps=16, ablations=True)
    evaluate(options, emit)
    effects = {f"{each.input} {each.change}": each.relative for each in emit.found[0].ablations}
    assert effects["instruction swapped"] > LITTLE and effects["camera.ego_view swapped"] > LITTLE
    judged = verdict({120: emit.found[0]}, "memorise")
    assert judged is not None and judged.level != "not"
