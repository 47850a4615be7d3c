"""``trainer evaluate`` of a folder: open-loop evaluation in upstream's terms (``scripts/eval_policy.py``).

``trainer.evaluation.registered`` evaluates those of the registry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from trainer.config.data_options import VideoAlignment
from trainer.data.configs import DataConfig
from trainer.errors import UsageError
from trainer.evaluation.checkpoint import Protocol, evaluate_checkpoint
from trainer.evaluation.dataset import EvaluationDataset, named
from trainer.evaluation.report import write_report
from trainer.events import Emitter, EvaluationEvent, PhaseEvent
from trainer.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from trainer.data.policy_config import PolicyConfig


class EvaluateOptions(BaseModel):
    """Open-loop evaluation: predicted against demonstrated actions.

    Of a checkpoint folder on a dataset folder. `trainer evaluate --checkpoint NAME` takes both from the object store:
    `trainer evaluate --checkpoint NAME --help`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model_path: Path
    """Checkpoint folder, of GR00T N1.5 or N1.7."""
    dataset_path: Path
    """Dataset folder."""
    data_config: str | None = None
    """Data config of a checkpoint that does not know its own (Isaac-GR00T's): a name, or a file that declares it."""
    embodiment_tag: str | None = None
    """Embodiment tag of a checkpoint that does not know its own and has statistics of several."""
    modality_keys: tuple[str, ...] = ()
    """Action keys to compare, such as right_arm; default: all of the data config's."""
    steps: int = 150
    """Frames of each episode to compare."""
    trajs: int = 1
    """Episodes to evaluate."""
    start_traj: int = 0
    """The first of them."""
    action_horizon: int | None = None
    """Actions taken from each predicted chunk; default: all of them."""
    denoising_steps: int | None = None
    """Steps of the flow-matching sampler; default: the checkpoint's (4)."""
    video_alignment: VideoAlignment | None = None
    """A row's frame: the one at its timestamp, or by index; default: as in the training."""
    seed: int = 0
    """Seed of the sampler's noise, so that two evaluations of a checkpoint agree."""
    ablations: bool = False
    """Also evaluate with each input taken away: does it look, does it listen?"""
    report_dir: Path | None = None
    """Where plots and evaluation.json go; default: nothing is written."""


def evaluate(options: EvaluateOptions, emit: Emitter) -> dict[str, float]:
    """Run the evaluation ``options`` describe and return its metrics (``Evaluation.metrics``).

    Raises:
        DatasetError: when the dataset lacks what the data config needs, or contradicts the checkpoint.
        UsageError: when the dataset has no such episode, the folder is no checkpoint, or options contradict it.

    """
    emit(PhaseEvent(phase="evaluate", message=f"Open-loop evaluation of {options.model_path.name}"))
    from trainer.evaluation.compatibility import require_fit
    from trainer.gr00t.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(options.model_path, options.data_config, options.embodiment_tag)
    known = checkpoint.known
    _check(options, checkpoint.data_config)
    alignment = _alignment(options, known)
    data = EvaluationDataset(options.dataset_path)
    reader = data.reader(checkpoint.data_config, alignment)
    for warning in require_fit(reader.meta, checkpoint):
        emit(warning)
    numbers = reader.trajectory_ids[options.start_traj : options.start_traj + options.trajs]
    if not numbers:
        raise UsageError(
            f"--start-traj {options.start_traj}: {options.dataset_path} has {len(reader.trajectory_ids)} episodes.",
            "Count from 0.",
        )
    everything = data.all_of(checkpoint.data_config, alignment, (known and known.trained_on) or None)
    with heavy_imports():
        from trainer.gr00t.policy import Policy

        checkpoint.generation.module("gr00t", "policy")  # the model comes with it
    policy = Policy(checkpoint, denoising_steps=options.denoising_steps)
    found, trajectories = evaluate_checkpoint(
        policy,
        data,
        named(everything, numbers, str(options.dataset_path)),
        Protocol(options.steps, options.action_horizon, options.modality_keys, options.seed, full=False),
        alignment=alignment,
        all_count=True,
        ablate=options.ablations,
        say=lambda what, *_: print(what, file=sys.stderr),  # noqa: T201 - a person reads stderr
    )
    if options.report_dir:
        cameras = checkpoint.data_config.keys("video")
        write_report(options.report_dir, options.model_path, found, trajectories, reader, cameras)
    emit(
        EvaluationEvent(
            step=checkpoint_step(options.model_path),
            metrics=found.metrics(),
            on=found.on,
            full=False,
            evaluation=found.model_dump(mode="json"),
        )
    )
    return found.metrics()


def _alignment(options: EvaluateOptions, known: PolicyConfig | None) -> VideoAlignment:
    return options.video_alignment or (known.video_alignment if known else "timestamp")


def _check(options: EvaluateOptions, data_config: DataConfig) -> None:
    """Raise ``UsageError`` for options that can't be meant, before anything is loaded."""
    keys, horizon = data_config.keys("action"), data_config.action_horizon
    unknown = [key for key in options.modality_keys if key not in keys]
    if unknown:
        raise UsageError(
            f"--modality-keys {' '.join(unknown)}: the data config {data_config} has no such action.",
            f"Its actions are {', '.join(keys)}.",
        )
    if options.action_horizon is not None and not 1 <= options.action_horizon <= horizon:
        raise UsageError(f"--action-horizon {options.action_horizon}.", f"A predicted chunk has {horizon} actions.")
    for name, value, least in (
        ("steps", options.steps, 1),
        ("trajs", options.trajs, 1),
        ("start-traj", options.start_traj, 0),
    ):
        if value < least:
            raise UsageError(f"--{name} {value}.", f"It must be at least {least}.")


def checkpoint_step(folder: Path) -> int:
    """The step a checkpoint was saved at, from its ``trainer_state.json``; 0 where there is none."""
    state = folder / "trainer_state.json"
    return int(json.loads(state.read_text())["global_step"]) if state.is_file() else 0
