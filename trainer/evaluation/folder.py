"""``trainer evaluate`` of a folder: open-loop evaluation in upstream's terms (``scripts/eval_policy.py``).

``trainer.evaluation.registered`` evaluates one of the registry.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainer.config.data_options import VideoAlignment
from trainer.config.finetune_config import EmbodimentTag
from trainer.data.configs import DataConfig, get_data_config
from trainer.errors import UsageError
from trainer.events import Emitter, EvaluationEvent, PhaseEvent
from trainer.runner.parent_watch import die_with_parent


class EvaluateOptions(BaseModel):
    """Open-loop evaluation: predicted against demonstrated actions.

    Of a checkpoint folder on a dataset folder. `trainer evaluate --checkpoint NAME` takes both from the object store:
    `trainer evaluate --checkpoint NAME --help`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model_path: Path
    """Checkpoint folder, with its experiment_cfg/metadata.json."""
    dataset_path: Path
    """Dataset folder."""
    data_config: str = "fourier_gr1_arms_only"
    """Data config the checkpoint was trained with: a name, or a file that declares it."""
    embodiment_tag: EmbodimentTag = "new_embodiment"
    """Embodiment tag the checkpoint was trained with (upstream's default here is gr1, which finds no statistics in a
    checkpoint trained with defaults)."""
    modality_keys: tuple[str, ...] = ()
    """Action keys to compare, such as right_arm; default: all of the data config's."""
    steps: int = 150
    """Frames of each episode to compare."""
    trajs: int = 1
    """Episodes to evaluate."""
    start_traj: int = 0
    """The first of them."""
    action_horizon: int | None = None
    """Actions taken from each predicted chunk; default: all 16."""
    denoising_steps: int | None = None
    """Steps of the flow-matching sampler; default: the checkpoint's (4)."""
    video_alignment: VideoAlignment = "timestamp"
    """A row's frame, as in the training: the one at its timestamp, or by index."""
    seed: int = 0
    """Seed of the sampler's noise, so that two evaluations of a checkpoint agree."""
    report_dir: Path | None = None
    """Where plots and evaluation.json go; default: nothing is written."""


def evaluate(options: EvaluateOptions, emit: Emitter) -> dict[str, float]:
    """Run the evaluation ``options`` describe and return its metrics (``open_loop.summarise``).

    Raises:
        DatasetError: when the dataset lacks what the data config needs.
        UsageError: when the dataset has no such episode, the folder is no checkpoint, or lacks the tag's statistics.

    """
    die_with_parent()
    emit(PhaseEvent(phase="evaluate", message=f"Open-loop evaluation of {options.model_path.name}"))
    import torch

    from trainer.data.dataset import DatasetReader
    from trainer.evaluation.open_loop import evaluate_episodes, summarise
    from trainer.gr00t.policy import Policy

    torch.manual_seed(options.seed)
    data_config = get_data_config(options.data_config)
    _check(options, data_config)
    source = DatasetReader(options.dataset_path, data_config, alignment=options.video_alignment)
    policy = Policy(
        options.model_path,
        data_config=data_config,
        embodiment_tag=options.embodiment_tag,
        denoising_steps=options.denoising_steps,
    )
    episodes = source.trajectory_ids[options.start_traj : options.start_traj + options.trajs]
    if not episodes:
        raise UsageError(
            f"--start-traj {options.start_traj}: {options.dataset_path} has {len(source.trajectory_ids)} episodes.",
            "Count from 0.",
        )
    trajectories = evaluate_episodes(
        policy,
        source,
        episodes,
        keys=options.modality_keys or data_config.keys("action"),
        steps=options.steps,
        action_horizon=options.action_horizon or data_config.action_horizon,
        on_episode=lambda trajectory: print(  # noqa: T201 - a person reads stderr
            f"episode {trajectory.episode}: MSE {trajectory.mse:.6g}", file=sys.stderr
        ),
    )
    metrics = summarise(trajectories)
    if options.report_dir:
        _write_report(options.report_dir, options.model_path, trajectories, metrics)
    emit(EvaluationEvent(step=checkpoint_step(options.model_path), metrics=metrics))
    return metrics


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


def _write_report(folder: Path, model_path: Path, trajectories: list, metrics: dict[str, float]) -> None:
    from trainer.evaluation.plots import loss_history, plot_loss, plot_open_loop

    folder.mkdir(parents=True, exist_ok=True)
    for trajectory in trajectories:
        plot_open_loop(trajectory, folder / f"open_loop_episode_{trajectory.episode}.png")
    state = model_path / "trainer_state.json"
    history = loss_history(state) if state.is_file() else []
    if history:
        plot_loss(history, folder / "loss.png")
    document = {
        "metrics": metrics,
        "episodes": [{"episode": trajectory.episode, "mse": trajectory.mse} for trajectory in trajectories],
        "loss": history,
    }
    (folder / "evaluation.json").write_text(json.dumps(document, indent=2) + "\n")
