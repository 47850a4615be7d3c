"""What a run of upstream's engine must leave, wherever it ran: the same as one of the native engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.config.run_spec import Engine
from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata
from trainer.data.policy_config import read_policy_config
from trainer.events import CheckpointEvent, EvaluationEvent, Event, ProgressEvent, parse_event
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.tiny import make_tiny_base_model as make_tiny_n17
from trainer.store import registry, runs, snapshots
from trainer.store.object_store import ObjectStore
from trainer.store.resume_points import is_training_state

STEPS = [10, 20, 30]
BASE_MODEL = "standin-base"
FLAGS = ["--max-steps", "30", "--save-steps", "10", "--base-model-path", BASE_MODEL]
BASE_MODEL_N17 = "standin-base-n17"


def flags_of(engine: Engine) -> list[str]:
    """The preset that ``engine`` can train here, and ``FLAGS`` with a base model of its generation."""
    return ["smoke-n17", *FLAGS[:-1], BASE_MODEL_N17] if engine == "isaac-n17" else ["smoke", *FLAGS]


def push_base_model(store: ObjectStore, folder: Path) -> None:
    """Put real, tiny base models into the store under the names in ``flags_of``; ``folder`` is for temporary files."""
    snapshots.push(store, make_tiny_base_model(folder / "tiny"), "model", BASE_MODEL)
    snapshots.push(store, make_tiny_n17(folder / "tiny-n17"), "model", BASE_MODEL_N17)


def events_of(stdout: str) -> list[Event]:
    """The events of ``trainer run``; nothing else may be on its stdout."""
    events = [parse_event(line) for line in stdout.splitlines()]
    assert all(events), stdout
    return [event for event in events if event]


def check_run(store: ObjectStore, events: list[Event], engine: Engine, folder: Path) -> str:
    """Check a whole run of ``flags_of(engine)``; returns its id. ``folder`` is for temporary files."""
    preset, *_ = flags_of(engine)
    phases = list(dict.fromkeys(event.phase for event in events if event.event == "phase"))
    assert phases == ["prepare", "check", "train", "upload", "evaluate"]
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == STEPS
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    assert progress[-1].step == progress[-1].of == 30
    losses = [event.loss for event in progress if event.loss is not None]
    assert losses[0] > losses[-1] and progress[-1].lr is not None and progress[-1].grad_norm == 1.25
    (evaluation,) = [event for event in events if isinstance(event, EvaluationEvent)]
    assert evaluation.step == 30
    assert evaluation.metrics["open_loop_mse"] == pytest.approx(0.03)  # the mean of the stand-in's 0.01 to 0.05
    assert 0.1 < evaluation.metrics["action_variance"] < 10
    assert 0.1 < evaluation.metrics["hold_still_mse"] < 10
    assert events[-1].event == "done"

    (run,) = [run for run in runs.list_runs(store) if run.spec.engine == engine]
    run_id = run.spec.run_id
    assert run.state is not None
    assert (run.state.status, run.state.step, run.state.exit_code) == ("done", 30, 0)
    entries = registry.list_checkpoints(store, run_id)
    assert sorted(entry.step for entry in entries) == STEPS
    newest = registry.resolve(store, f"{preset}/latest")
    assert (newest.run_id, newest.step, newest.spec.engine) == (run_id, 30, engine)
    assert registry.resolve(store, f"{preset}/best").metrics["open_loop_mse"] == pytest.approx(0.03)
    assert any(name.endswith(".wandb") for name in runs.list_files(store, run_id, "wandb"))
    assert "report/evaluation.json" in runs.list_files(store, run_id, "report")

    checkpoint = snapshots.pull(store, newest.snapshot, folder / "checkpoint")
    names = {file.name for file in checkpoint.iterdir()}
    assert {"config.json", "trainer_state.json", "experiment_cfg"} <= names
    assert not [name for name in names if is_training_state(name)]
    known = read_policy_config(checkpoint)
    assert known is not None and known.data_config == get_data_config(newest.spec.config.data_config)
    if engine == "isaac-n17":
        kind = Gr00tN1d7
        assert {"processor_config.json", "statistics.json", "embodiment_id.json"} <= names
    else:
        kind = GR00TN15
        _check_metadata(snapshots.pull(store, run.spec.datasets[0], folder / "dataset"), checkpoint)
    base = kind.from_pretrained(snapshots.pull(store, run.spec.base_model, folder / "base"))
    trained = kind.from_pretrained(checkpoint)
    changed = {name for name, value in trained.state_dict().items() if not value.equal(base.state_dict()[name])}
    assert changed and all(name.startswith("action_head.") for name in changed)
    return run_id


def _check_metadata(dataset: Path, checkpoint: Path) -> None:
    """N1.5's file of what normalises states and actions."""
    ours = json.loads(build_metadata(DatasetMeta.load(dataset), "new_embodiment").model_dump_json())
    theirs = json.loads((checkpoint / "experiment_cfg" / "metadata.json").read_text())["new_embodiment"]
    assert theirs["modalities"] == ours["modalities"]
