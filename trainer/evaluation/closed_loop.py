"""``trainer evaluate --checkpoint NAME … --closed-loop``: trials in the synthetic pick-and-place scene.

The policy acts: what it does moves what it sees next. At each question it predicts a chunk, of which every step is
executed before the next question, as open-loop evaluation and upstream's own evaluation take it. All checkpoints get
the same scenes and the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.flags import parse
from trainer.data.body_parts import GR1_JOINTS
from trainer.data.data_config import DataConfig
from trainer.errors import UsageError
from trainer.evaluation.registered import EvaluationContext, named_entries
from trainer.events import Emitter, EvaluationEvent
from trainer.heavy_imports import heavy_imports
from trainer.store import registry
from trainer.store.closed_loop import TRIALS, ClosedLoop
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import existing_store

if TYPE_CHECKING:
    from trainer.evaluation.open_loop import Step

BATCH = 10
"""Trials that are asked at once."""


class ClosedLoopOptions(BaseModel):
    """Closed-loop evaluation of registered checkpoints in the synthetic pick-and-place scene."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: tuple[str, ...]
    """RUN/STEP, RUN (its newest), or an alias; several to compare them."""
    closed_loop: bool = True
    """This evaluation."""
    all: bool = False
    """Of each RUN all checkpoints."""
    trials: Annotated[int, Field(ge=1, le=10_000)] = TRIALS
    """Scenes to try."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Which scenes, and which noise."""


class Predictor(Protocol):
    """What predicts chunks; ``trainer.evaluation.predictor.Predictor`` is one."""

    def predict(self, steps: Sequence[Step], frames: Sequence[tuple[int, int]]) -> Sequence[dict[str, Any]]:
        """A chunk ``action.<part>`` [H, D] for each observation; ``frames`` are trial and step, and know the noise."""
        ...


def main(argv: Sequence[str]) -> int:
    """Evaluate as ``argv`` says, with events on stdout. Returns the exit code."""
    options = parse(ClosedLoopOptions, argv, "trainer evaluate")
    store = existing_store("checkpoint")
    context = EvaluationContext(store, Emitter())
    entries = named_entries(store, options.checkpoint, all_of=options.all)
    for entry in entries:
        evaluate_entry(context, entry, options)
    return 0


def evaluate_entry(context: EvaluationContext, entry: CheckpointEntry, options: ClosedLoopOptions) -> ClosedLoop:
    """Try the checkpoint ``entry`` and keep the figures with it.

    Raises ``UsageError`` for one that is of another robot, before it is loaded.
    """
    from trainer.gr00t.checkpoint import described

    checkpoint = described(context.checkpoint(entry), entry.name, entry)
    config = checkpoint.data_config
    require_robot(config, entry.name)
    with heavy_imports():
        from trainer.evaluation.predictor import Predictor as WithNoise
        from trainer.gr00t.policy import Policy

    policy = WithNoise(Policy(checkpoint), options.seed)
    context.say(f"{entry.name}: {options.trials} trials in the synthetic scene.")
    found = run_trials(policy, config, options.trials, options.seed, lambda line: context.say(f"{entry.name}: {line}"))
    usual = (options.trials, options.seed) == (TRIALS, 0)
    label = "" if usual else f"@trials-{options.trials},seed-{options.seed}"
    metrics = {f"{name}{label}": value for name, value in found.metrics().items()}
    registry.add_metrics(context.store, entry.run_id, entry.step, metrics)
    context.emit(
        EvaluationEvent(
            step=entry.step,
            metrics=metrics,
            checkpoint=entry.name,
            on=f"{found.trials} trials in closed loop",
            evaluation=found.model_dump(mode="json"),
        )
    )
    return found


def require_robot(config: DataConfig, name: str) -> None:
    """Raise ``UsageError`` unless ``config`` is of the scene's robot: a GR1's joints and its head camera."""
    from trainer.data.synthetic_arm import CAMERA

    wrong = [f"video.{key}" for key in config.video if key != CAMERA]
    wrong += [f"{kind}.{key}" for kind in ("state", "action") for key in config.keys(kind) if key not in GR1_JOINTS]
    wrong += [f"no action.{key}" for key in ("right_arm", "right_hand") if key not in config.keys("action")]
    wrong += ["frames of the past"] if len(config.video_delta_indices) > 1 else []
    if wrong:
        raise UsageError(
            f"{name} is a policy of another robot than the synthetic scene's ({', '.join(wrong)}).",
            f"The scene has video.{CAMERA} and a GR1's joints, as `pippa train smoke` trains; `pippa evaluate {name}` "
            "evaluates it open loop.",
        )


def run_trials(
    policy: Predictor, config: DataConfig, trials: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> ClosedLoop:
    """Let ``policy`` act in ``trials`` scenes of ``seed``; each ends with a success or after ``STEPS`` steps."""
    from trainer.data.synthetic import TASK_COLUMN
    from trainer.data.synthetic_arm import STAGES, SimulatedArm

    reached = dict.fromkeys(STAGES, 0)
    for start in range(0, trials, BATCH):
        batch = range(start, min(start + BATCH, trials))
        arms = {trial: SimulatedArm(seed, trial) for trial in batch}
        while active := [trial for trial in batch if not arms[trial].over]:
            observations = []
            for trial in active:
                seen = arms[trial].observe()
                seen[config.language] = seen.pop(TASK_COLUMN)
                observations.append(seen)
            chunks = policy.predict(observations, [(trial, arms[trial].steps) for trial in active])
            for trial, chunk in zip(active, chunks, strict=True):
                for step in range(len(next(iter(chunk.values())))):
                    if not arms[trial].over:
                        arms[trial].act({name: values[step] for name, values in chunk.items()})
        for stage in STAGES:
            reached[stage] += sum(stage in arm.stages for arm in arms.values())
        say(f"{batch.stop} trials, {reached['placed']} placed")
    return ClosedLoop(trials=trials, seed=seed, **reached)
