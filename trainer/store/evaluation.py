"""What an evaluation found out about a checkpoint, as the registry keeps it.

Figures are squared errors in the actions' own units, over whole episodes (docs/evaluation.md). Episodes are known by a
hash of their content, so that two checkpoints can be compared on the same ones whatever else was in their datasets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.run_spec import SnapshotRef

FULL_EPISODES = 5
"""Episodes of the full protocol, at most; of training episodes as many again where there are held-out ones."""
FULL_STEPS = 1000
"""Frames of each, at most. Upstream's defaults, the first 150 frames of one episode, end before the hand of the demo
data closes."""
SUBSET_EPISODES = 2
"""Those of an intermediate checkpoint: the first of the full protocol's."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class EpisodeFigures(_Record):
    """One episode."""

    hash: str
    """Of its states and actions (``trainer.data.holdout.episode_hash``)."""
    episode: int
    """Its number in the dataset."""
    frames: int
    """Compared frames, from its beginning."""
    trained_on: bool
    """Whether the checkpoint was trained on it."""
    mse: float
    hold_still_mse: float


class JointFigures(_Record):
    """One action dimension, over all episodes that count."""

    name: str
    """From ``info.json``, or the key and its dimension."""
    unit: str | None = None
    mse: float
    hold_still_mse: float
    variance: float

    @property
    def moves(self) -> bool:
        """Whether it moves at all in the demonstrations."""
        return self.hold_still_mse > 0


class Ablation(_Record):
    """The error with one input taken away."""

    input: str
    """``instruction``, ``state``, or ``camera.<key>``."""
    change: Literal["swapped", "none", "frozen", "blank"]
    """What stands in its place: that of another episode, nothing, its first frame's, or black."""
    mse: float
    relative: float
    """The growth of the error: 0.1 is 10 % more than with the true input."""


class Evaluation(_Record):
    """One evaluation of a checkpoint on one dataset."""

    dataset: SnapshotRef | None = None
    """None where it is a folder."""
    data_config: str
    """Hash of the declaration: of two checkpoints with other data configs the errors can't be compared."""
    full: bool
    """By the full protocol, or on the subset for intermediate checkpoints."""
    mixed: bool = False
    """Whether somebody chose the episodes, and all count, those that were trained on and those that were not."""
    action_horizon: int
    denoising_steps: int
    episodes: list[EpisodeFigures]
    compared: list[EpisodeFigures] = []
    """Measured later, to be compared with another checkpoint; not in the figures."""
    joints: list[JointFigures] = []
    mse: float
    """Mean of the counting episodes' errors, as upstream averages them."""
    hold_still_mse: float
    action_variance: float
    flow_matching_loss: float | None = None
    training_mse: float | None = None
    """On training episodes, where ``mse`` is on held-out ones."""
    training_hold_still_mse: float | None = None
    ablations: list[Ablation] = []
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def measured(self) -> list[EpisodeFigures]:
        """Every episode there is an error of."""
        return [*self.episodes, *self.compared]

    @property
    def held_out(self) -> bool:
        """Whether the figures are on episodes that the checkpoint was not trained on."""
        return not self.mixed and any(not each.trained_on for each in self.episodes)

    @property
    def counting(self) -> list[EpisodeFigures]:
        """The episodes that the figures are of: those it was not trained on, where there are any."""
        return [each for each in self.episodes if self.mixed or each.trained_on != self.held_out]

    @property
    def on(self) -> str:
        """What the figures rest on, for people."""
        kind = "chosen" if self.mixed else "held-out" if self.held_out else "training"
        return f"{len(self.counting)} {kind} episode{'' if len(self.counting) == 1 else 's'}"

    @property
    def over_hold_still(self) -> float | None:
        """The error as a share of that of holding still; None where nothing moves."""
        return self.mse / self.hold_still_mse if self.hold_still_mse > 0 else None

    @property
    def over_variance(self) -> float | None:
        """The error as a share of that of the mean action; None where nothing moves."""
        return self.mse / self.action_variance if self.action_variance > 0 else None

    def metrics(self) -> dict[str, float]:
        """The figures by the names that events, W&B and the registry have them under."""
        found: dict[str, float | None] = {
            "open_loop_mse": self.mse,
            "action_variance": self.action_variance,
            "open_loop_mse_over_variance": self.over_variance,
            "hold_still_mse": self.hold_still_mse,
            "open_loop_mse_over_hold_still": self.over_hold_still,
            "flow_matching_loss": self.flow_matching_loss,
            "training_open_loop_mse": self.training_mse,
        }
        return {name: value for name, value in found.items() if value is not None}


def common_errors(
    ours: Evaluation, theirs: Evaluation
) -> tuple[list[tuple[EpisodeFigures, EpisodeFigures]], bool] | None:
    """The episodes on which two checkpoints can be compared, and whether neither was trained on them.

    Those that neither was trained on where there are any, else those that both were; never one that only one of them
    has seen. None where there are none, or where the two measured differently.
    """
    if (ours.data_config, ours.action_horizon) != (theirs.data_config, theirs.action_horizon):
        return None
    if ours.dataset and theirs.dataset and ours.dataset.name != theirs.dataset.name:
        return None
    others = {(each.hash, each.frames): each for each in theirs.measured}
    pairs = [(each, others[each.hash, each.frames]) for each in ours.measured if (each.hash, each.frames) in others]
    for trained in (False, True):
        if chosen := [pair for pair in pairs if pair[0].trained_on == pair[1].trained_on == trained]:
            return chosen, not trained
    return None


def mean(values: Iterable[float]) -> float:
    """The mean of at least one value."""
    found: Sequence[float] = list(values)
    return sum(found) / len(found)


def merged(ours: Evaluation, other: Evaluation) -> Evaluation:
    """``ours``, which can also be compared on the episodes of ``other``, another evaluation of the same checkpoint."""
    known = {(each.hash, each.frames) for each in ours.measured}
    more = [each for each in other.episodes if (each.hash, each.frames) not in known]
    return ours.model_copy(update={"compared": [*ours.compared, *more]})
