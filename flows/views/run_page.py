"""The page of a run: one self-contained HTML file, the verdict first (docs/report.md).

It is drawn from what the object store has now, so it shows later evaluations too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup
from pydantic import ValidationError

from flows.views.charts import Line, line_chart, small_chart, thinned
from flows.views.page import figure_text, picture, render, share_text
from flows.views.report import PAGE, Report, build_report, next_command, read_events
from flows.views.run_facts import (
    REFERENCE,
    configuration,
    curve_of,
    dataset_facts,
    lineage,
    seconds_by_phase,
    speed_of,
)
from flows.views.terminal import duration
from trainer.config.run_spec import RunSpec
from trainer.data.exclusion import named_episodes
from trainer.evaluation.recorded import MOST_BYTES, RecordedEpisode, RecordedJoint, episode_name, strip_name
from trainer.evaluation.verdict import best_step
from trainer.store import registry, runs
from trainer.store.evaluation import Ablation, Evaluation
from trainer.store.object_store import ObjectStore

MOST_CHARTS = 72
"""Charts of joints on a page; more make it slow to draw and long to read."""
MOST_PICTURE_BYTES = 2_500_000
"""Pictures on a page, in all, as files; in the page they take a third more."""
JOINT_POINTS = 240
LEAST_RANGE = 0.05
"""A joint that barely moves must not look as if it were all over the place."""


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


def build_page(store: ObjectStore, run_id: str) -> str:
    """The page of ``run_id``. Raises ``UsageError`` for an unknown run."""
    report = build_report(store, run_id)
    events = read_events(store, run_id)
    spec, entries = report.spec, registry.list_checkpoints(store, run_id)
    steps = [entry.step for entry in entries]
    curve = curve_of(events)
    evaluations = dict(sorted(report.evaluations.items()))
    shown = _step_to_show(report, steps)
    differences, whole = configuration(spec)
    phases = seconds_by_phase(events)
    return render(
        "run.html",
        title=f"{run_id}, step {report.step} of {spec.config.max_steps}, on {spec.datasets[0].name}",
        subtitle=f"Preset {spec.preset}; data {', '.join(map(str, spec.datasets))}; base model {spec.base_model}",
        run_id=run_id,
        report=report,
        level=report.judged.level if report.judged and report.status == "done" else report.status,
        steps=steps,
        loss=_loss_chart(curve.loss, curve.learning_rate, steps),
        errors=_error_chart(evaluations),
        error_rows=_error_rows(report, evaluations),
        best=[index for index, step in enumerate(evaluations) if report.judged and step == report.judged.take],
        joint_rows=_joint_rows(evaluations.get(shown)),
        shown=shown,
        episodes=_episodes(store, run_id, shown, steps),
        ablations=_ablation_rows(evaluations),
        reference=REFERENCE,
        differences=differences,
        whole=whole,
        datasets=_datasets(store, spec),
        lineage=lineage(store, spec, entries),
        speed=speed_of(events),
        phases=[
            (phase, duration(seconds), f"{seconds / (sum(phases.values()) or 1):.0%}")
            for phase, seconds in phases.items()
        ],
        commands=_commands(report, shown),
    )


def keep_page(store: ObjectStore, run_id: str, folder: Path) -> Path:
    """Make the page of a run; keep it in the store beside the run's other files, and in ``folder``, the run's own here.

    Returns the file. Raises ``StoreError`` and ``OSError``.
    """
    page = build_page(store, run_id).encode()
    runs.write_file(store, run_id, PAGE, page)
    file = folder / PAGE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(page)
    return file


def _datasets(store: ObjectStore, spec: RunSpec) -> list[dict[str, str]]:
    """What is known of each dataset, and what of it was left out."""
    found = []
    for ref, options in zip(spec.datasets, spec.config.data_options, strict=True):
        excluded = options.exclude_episodes
        left_out = {"left out": f"{named_episodes(excluded)} (--exclude-episodes)"} if excluded else {}
        found.append({**dataset_facts(store, ref), **left_out})
    return found


def _step_to_show(report: Report, steps: Sequence[int]) -> int:
    """The checkpoint whose open loop is shown: the one to take, else the best, else the last."""
    if report.judged is not None and report.judged.take is not None:
        return report.judged.take
    return best_step(report.evaluations) if report.evaluations else max(steps, default=0)


def _loss_chart(
    loss: list[tuple[float, float]], rate: list[tuple[float, float]], steps: Sequence[int]
) -> Markup | None:
    if not loss:
        return None
    few = len(loss) < 2
    return line_chart(
        [Line(loss, 0, dots=few)],
        x="step",
        y="flow-matching loss",
        log=True,
        marks=steps,
        right=[Line(rate, 1, dashed=True)] if rate else [],
        right_label="learning rate",
    )


def _error_chart(evaluations: Mapping[int, Evaluation]) -> Markup | None:
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


def _error_rows(report: Report, evaluations: Mapping[int, Evaluation]) -> list[list[str]]:
    aliases = {int(line.name.rpartition("/")[2]): line.aliases for line in report.checkpoints}
    return [
        [
            str(step),
            figure_text(each.mse),
            share_text(each.over_hold_still),
            share_text(each.over_variance),
            figure_text(each.training_mse),
            figure_text(each.flow_matching_loss),
            each.on,
            ", ".join(aliases.get(step, [])),
        ]
        for step, each in evaluations.items()
    ]


def _joint_rows(found: Evaluation | None) -> list[list[str]]:
    """The joints that move, the worst against holding still first."""
    moving = [each for each in found.joints if each.moves] if found else []
    moving.sort(key=lambda each: each.mse / each.hold_still_mse, reverse=True)
    return [
        [each.name, each.unit or "", figure_text(each.mse**0.5), share_text(each.mse / each.hold_still_mse)]
        for each in moving
    ]


def _ablation_rows(evaluations: Mapping[int, Evaluation]) -> list[list[str]]:
    """Of each checkpoint that was asked with its inputs taken away."""

    def row(step: int, each: Ablation) -> list[str]:
        kind, _, key = each.input.partition(".")
        return [str(step), f"{kind} {key}".strip(), each.change, figure_text(each.mse), f"{each.relative:+.1%}"]

    return [row(step, each) for step, found in evaluations.items() for each in found.ablations]


def _commands(report: Report, shown: int) -> dict[str, str]:
    run_id, preset = report.run_id, report.spec.preset
    found = {}
    if report.checkpoints:
        found["Download the checkpoint"] = f"pippa checkpoints pull {run_id}/{shown} ./{preset}-checkpoint"
        found["Evaluate it again, or on another dataset"] = f"pippa evaluate {run_id}/{shown} --dataset NAME"
    if report.status in ("failed", "stopped", "running", "preparing"):
        found["Continue it" if report.status != "failed" else "Next"] = (
            next_command(report) if report.status == "failed" else f"pippa runs resume {run_id}"
        )
    found["Everything it left: events, log, plots"] = f"pippa runs pull {run_id} FOLDER"
    if report.offline_wandb:
        found["Upload what it recorded for W&B"] = f"pippa runs sync {run_id}"
    return found


def _episodes(store: ObjectStore, run_id: str, step: int, steps: Sequence[int]) -> list[EpisodeView]:
    """The open-loop plots of a checkpoint, from its evaluation's own files."""
    files = set(runs.list_files(store, run_id, "report"))
    # An evaluation by `pippa evaluate` has a separate folder; the run's own of the last checkpoint is at the top.
    folder = f"report/checkpoint-{step}"
    if not any(file.startswith(f"{folder}/") for file in files):
        if step != max(steps, default=0):
            return []
        folder = "report"
    numbers = sorted(
        int(name.removeprefix("open_loop_episode_").partition(".")[0])
        for file in files
        if (name := file.removeprefix(f"{folder}/")).startswith("open_loop_episode_")
        and name.removeprefix("open_loop_episode_").removesuffix(".png").isdigit()
    )
    views = _Views(store, run_id, folder, files)
    return [view for number in numbers if (view := views.of(number))]


class _Views:
    """Reads episodes as long as the page has room for them."""

    def __init__(self, store: ObjectStore, run_id: str, folder: str, files: set[str]) -> None:
        self._store, self._run_id, self._folder, self._files = store, run_id, folder, files
        self._charts = MOST_CHARTS
        self._bytes = MOST_PICTURE_BYTES

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
        content = self._read(episode_name(number), MOST_BYTES)
        with suppress(ValidationError):
            return RecordedEpisode.model_validate_json(content) if content else None
        return None

    def _picture(self, name: str, kind: str) -> Markup | None:
        content = self._read(name, MOST_BYTES)
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
    return JointChart(title, small_chart(lines, dots, least=LEAST_RANGE))
