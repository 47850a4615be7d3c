"""The page of a run: one self-contained HTML file, the verdict first (docs/report.md).

It is drawn from what the object store has now, so it shows later evaluations too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.views.page import figure_text, render, share_text
from flows.views.report import Report, build_report, next_command, read_events
from flows.views.run_charts import episodes, error_chart, error_key, loss_chart, step_to_show
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
from trainer.evaluation.recorded import PAGE
from trainer.store import registry, runs
from trainer.store.evaluation import Ablation, Evaluation
from trainer.store.object_store import ObjectStore


def build_page(store: ObjectStore, run_id: str) -> str:
    """The page of ``run_id``. Raises ``UsageError`` for an unknown run."""
    report = build_report(store, run_id)
    events = read_events(store, run_id)
    spec, entries = report.spec, registry.list_checkpoints(store, run_id)
    steps = [entry.step for entry in entries]
    evaluations = dict(sorted(report.evaluations.items()))
    shown = step_to_show(report, steps)
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
        loss=loss_chart(curve_of(events), steps),
        errors=error_chart(evaluations),
        error_key=error_key(evaluations),
        error_rows=_error_rows(report, evaluations),
        best=[index for index, step in enumerate(evaluations) if report.judged and step == report.judged.take],
        joint_rows=_joint_rows(evaluations.get(shown)),
        shown=shown,
        episodes=episodes(store, run_id, shown, steps),
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
    if report.unsent_wandb:
        found["Upload what it recorded for W&B"] = f"pippa runs sync {run_id}"
    return found
