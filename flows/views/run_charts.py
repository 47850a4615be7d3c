"""The charts and pictures of a run, for its page and for its report in Prefect, drawn from its record in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from markupsafe import Markup
from pydantic import ValidationError

from flows.views.charts import Line, line_chart, small_chart, thinned
from flows.views.page import figure_text, picture
from flows.views.report import Report
from flows.views.run_facts import Curve
from trainer.evaluation.recorded import MAX_BYTES, RecordedEpisode, RecordedJoint, episode_name, strip_name
from trainer.evaluation.verdict import best_step
from trainer.store import runs
from trainer.store.evaluation import Evaluation
from trainer.store.object_store import ObjectStore

JOINT_POINTS = 240
MIN_RANGE = 0.05
"""A joint that barely moves must not look as if it were all over the place."""


@dataclass(frozen=True)
class Room:
    """What is shown of the open loop, at most; the defaults are a page's."""

    episodes: int | None = None
    charts: int = 72
    """Of joints; more are slow to draw and long to read."""
    picture_bytes: int = 2_500_000
    """Of all pictures, as files; in a page they take a third more."""


@dataclass(frozen=True)
class JointChart:
    """One joint of an episode."""

    title: str
    chart: Markup


@dataclass(frozen=True)
class EpisodeView:
    """One episode of the open-loop section."""

    title: str
    joints: list[JointChart] = field(default_factory=list)
    strips: list[tuple[str, Markup]] = field(default_factory=list)
    """The key of a camera, and its pictures."""
    plot: Markup | None = None
    """The plot of an earlier pippa, or of another engine's evaluation."""
    note: str = ""


def loss_chart(curve: Curve, steps: Sequence[int]) -> Markup | None:
    """The loss and the learning rate over the steps, checkpoints marked; None where no loss was logged."""
    if not curve.loss:
        return None
    few = len(curve.loss) < 2
    return line_chart(
        [Line(curve.loss, 0, dots=few)],
        x="step",
        y="flow-matching loss",
        log=True,
        marks=steps,
        right=[Line(curve.learning_rate, 1, dashed=True)] if curve.learning_rate else [],
        right_label="learning rate",
    )


def error_chart(evaluations: Mapping[int, Evaluation]) -> Markup | None:
    """The open-loop error of each checkpoint beside its baselines; None where none was evaluated."""
    if not evaluations:
        return None
    lines = [
        Line([(step, each.mse) for step, each in evaluations.items()], 0, dots=True),
        Line(
            [(s, each.training_mse) for s, each in evaluations.items() if each.training_mse is not None], 1, dots=True
        ),
        Line([(step, each.hold_still_mse) for step, each in evaluations.items()], 2, dashed=True, dots=True),
        Line([(step, each.action_variance) for step, each in evaluations.items()], 3, dashed=True, dots=True),
    ]
    return line_chart(lines, x="step", y="open-loop MSE", log=True)


def error_key(evaluations: Mapping[int, Evaluation]) -> dict[str, int]:
    """The number of the colour of each line of ``error_chart``."""
    held_out = any(each.held_out for each in evaluations.values())
    first = {"held-out episodes": 0, "training episodes": 1} if held_out else {"training episodes": 0}
    return {**first, "holding still": 2, "the mean action": 3}


def step_to_show(report: Report, steps: Sequence[int]) -> int:
    """The checkpoint whose open loop is shown: the one to take, else the best, else the last."""
    if report.judged is not None and report.judged.take is not None:
        return report.judged.take
    return best_step(report.evaluations) if report.evaluations else max(steps, default=0)


def episodes(
    store: ObjectStore, run_id: str, step: int, steps: Sequence[int], room: Room | None = None
) -> list[EpisodeView]:
    """The open loop of a checkpoint, from its evaluation's files, as far as there is ``room``."""
    # An evaluation by `pippa evaluate` has a separate folder; the run's own of the last checkpoint is at the top.
    found = episodes_in(store, run_id, f"report/checkpoint-{step}", room)
    return found or (episodes_in(store, run_id, "report", room) if step == max(steps, default=0) else [])


def episodes_in(store: ObjectStore, run_id: str, folder: str, room: Room | None = None) -> list[EpisodeView]:
    """The open loop that an evaluation left in ``folder`` of the run's record."""
    files = set(runs.list_files(store, run_id, folder))
    numbers = sorted(
        int(name.removeprefix("open_loop_episode_").partition(".")[0])
        for file in files
        if (name := file.removeprefix(f"{folder}/")).startswith("open_loop_episode_")
        and name.removeprefix("open_loop_episode_").removesuffix(".png").isdigit()
    )
    room = room or Room()
    views = _Views(store, run_id, folder, files, room)
    return [view for number in numbers[: room.episodes] if (view := views.of(number))]


class _Views:
    """Reads episodes as long as there is room for them."""

    def __init__(self, store: ObjectStore, run_id: str, folder: str, files: set[str], room: Room) -> None:
        self._store, self._run_id, self._folder, self._files = store, run_id, folder, files
        self._charts = room.charts
        self._bytes = room.picture_bytes

    def of(self, number: int) -> EpisodeView | None:
        recorded = self._recorded(number)
        if recorded is None:
            plot = self._picture(f"open_loop_episode_{number}.png", "png")
            return EpisodeView(f"Episode {number}", plot=plot) if plot else None
        kind = "training" if recorded.trained_on else "held-out"
        title = f"Episode {number} ({kind}): MSE {figure_text(recorded.mse)}"
        moving = [each for each in recorded.joints if len(set(each.demonstrated)) > 1] or recorded.joints
        notes = []
        if still := len(recorded.joints) - len(moving):
            notes.append(f"{still} joints that never move are not shown.")
        drawn = moving[: self._charts]
        self._charts -= len(drawn)
        if len(drawn) < len(moving):
            notes.append(f"{len(moving) - len(drawn)} joints are left out, so that the page stays small.")
        strips = [
            (camera, found)
            for index, camera in enumerate(recorded.cameras)
            if (found := self._picture(strip_name(number, index), "webp"))
        ]
        return EpisodeView(title, [_joint_chart(each, recorded.asked) for each in drawn], strips, note=" ".join(notes))

    def _recorded(self, number: int) -> RecordedEpisode | None:
        content = self._read(episode_name(number), MAX_BYTES)
        with suppress(ValidationError):
            return RecordedEpisode.model_validate_json(content) if content else None
        return None

    def _picture(self, name: str, kind: str) -> Markup | None:
        content = self._read(name, MAX_BYTES)
        if content is None or len(content) > self._bytes:
            return None
        self._bytes -= len(content)
        return picture(content, kind)

    def _read(self, name: str, most: int) -> bytes | None:
        path = f"{self._folder}/{name}"
        if path not in self._files:
            return None
        return self._store.read_bytes(f"{runs.RUNS}{self._run_id}/{path}", most)


def _joint_chart(joint: RecordedJoint, asked: Sequence[int]) -> JointChart:
    lines = [
        Line(thinned(list(enumerate(joint.demonstrated)), JOINT_POINTS), None),
        Line(thinned(list(enumerate(joint.predicted)), JOINT_POINTS), 1),
    ]
    dots = [(frame, joint.predicted[frame]) for frame in asked if 0 <= frame < len(joint.predicted)]
    title = f"{joint.name} ({joint.unit})" if joint.unit else joint.name
    return JointChart(title, small_chart(lines, dots, least=MIN_RANGE))
