"""The report of a run, from what it left in the object store: for the terminal, Prefect, and ``pippa runs show``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from flows.views.evaluation import MARKS, evaluations_table, print_sentences
from flows.views.failure import can_be_resumed
from flows.views.presets_table import components
from flows.views.terminal import duration, size
from trainer.config.presets import goal_of
from trainer.config.run_spec import RunSpec
from trainer.config.settings import pippa_home
from trainer.evaluation.recorded import PAGE
from trainer.evaluation.verdict import Verdict, verdict
from trainer.events import CheckpointEvent, ErrorEvent, Event, ProgressEvent, WarningEvent, parse_event
from trainer.runner.wandb_setup import URL_FILE
from trainer.store import registry, runs
from trainer.store.evaluation import Evaluation
from trainer.store.object_store import ObjectStore

MSE = registry.BEST_METRIC
VARIANCE = "action_variance"


class CheckpointLine(BaseModel):
    """One registered checkpoint of the run."""

    name: str
    digest: str
    uploaded: int | None
    aliases: list[str]


class Report(BaseModel):
    """What a run was, and how it ended."""

    spec: RunSpec
    status: str
    message: str
    hint: str
    seconds: float | None
    step: int
    first_loss: float | None
    last_loss: float | None
    metrics: dict[str, float]
    checkpoints: list[CheckpointLine]
    evaluations: dict[int, Evaluation] = {}
    """Of the checkpoints that were evaluated, by step."""
    judged: Verdict | None = None
    """What they say; None for a run whose checkpoints have none."""
    best_rests_on: str = ""
    """On what the alias ``<preset>/best`` was decided, where it is one of this run's."""
    plots: list[str]
    """Files on this machine, or keys in the object store when the run was elsewhere."""
    page: str = ""
    """Its page on this machine; empty where there is none here."""
    log: str
    unsent_wandb: bool
    """Whether W&B's server lacks some of it, and W&B's files wait in the store for ``pippa runs sync``."""
    wandb_url: str | None
    warnings: list[str]
    exit_code: int | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.spec.run_id

    @property
    def verdict(self) -> str:
        """One sentence on what the numbers say."""
        if self.status != "done":
            return f"The run {self.status if self.status in ('failed', 'stopped') else 'is ' + self.status}."
        if self.judged is not None:
            return self.judged.summary
        mse, variance = self.metrics.get(MSE), self.metrics.get(VARIANCE)
        if mse is not None and variance:
            share = mse / variance
            judged = "it follows the demonstrations" if share < 0.5 else "it has hardly learned the demonstrations yet"
            return f"Open-loop error is {share:.0%} of the actions' variance: {judged}."
        if self.first_loss is not None and self.last_loss is not None:
            trend = "fell" if self.last_loss < self.first_loss else "did not fall"
            return f"The loss {trend} from {self.first_loss:.4f} to {self.last_loss:.4f}."
        return "The run is done."


def build_report(store: ObjectStore, run_id: str, home: Path | None = None) -> Report:
    """Read the report of ``run_id``. Raises ``UsageError`` for an unknown run."""
    home = home or pippa_home()
    spec = runs.read_spec(store, run_id)
    state = runs.read_state(store, run_id)
    events = read_events(store, run_id)
    losses = [event.loss for event in events if isinstance(event, ProgressEvent) and event.loss is not None]
    uploaded = {event.step: event.bytes_uploaded for event in events if isinstance(event, CheckpointEvent)}
    error = next((event for event in reversed(events) if isinstance(event, ErrorEvent)), None)
    failed = state is not None and state.status == "failed"
    names: dict[str, list[str]] = {}
    for alias, target in registry.aliases(store).items():
        names.setdefault(target, []).append(alias)
    folder = home / "runs" / run_id
    entries = registry.list_checkpoints(store, run_id)
    evaluations = {entry.step: entry.evaluation for entry in entries if entry.evaluation}
    best = f"{spec.preset}/best"
    is_best = any(best in names.get(entry.name, []) for entry in entries)
    return Report(
        spec=spec,
        status=state.status if state else "preparing",
        message=state.message if state else "",
        hint=error.hint if error and failed else "",
        seconds=(state.ended - state.started).total_seconds() if state and state.ended and state.started else None,
        step=state.step if state and state.step else 0,
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        metrics={**(state.metrics if state else {}), **(entries[-1].metrics if entries else {})},
        checkpoints=[
            CheckpointLine(
                name=f"{run_id}/{entry.step}",
                digest=entry.snapshot.digest,
                uploaded=uploaded.get(entry.step),
                aliases=sorted(names.get(f"{run_id}/{entry.step}", [])),
            )
            for entry in entries
        ],
        evaluations=evaluations,
        judged=verdict(evaluations, goal_of(spec.preset)),
        best_rests_on=registry.rests_on(store, best) if is_best else "",
        plots=_plots(store, folder, run_id),
        page=str(folder / PAGE) if _here(folder / PAGE) else "",
        log=str(folder / "log.txt") if _here(folder / "log.txt") else f"runs/{run_id}/log.txt in the object store",
        unsent_wandb=bool(runs.list_files(store, run_id, "wandb")),
        wandb_url=_wandb_url(spec, folder),
        exit_code=state.exit_code if state else None,
        warnings=list(dict.fromkeys(event.message for event in events if isinstance(event, WarningEvent))),
    )


def read_events(store: ObjectStore, run_id: str) -> list[Event]:
    """The events of a run that the store has."""
    content = runs.read_file(store, run_id, "events.jsonl") or b""
    return [event for line in content.decode(errors="replace").splitlines() if (event := parse_event(line))]


def _plots(store: ObjectStore, folder: Path, run_id: str) -> list[str]:
    local = sorted(str(path) for path in (folder / "report").glob("*.png") if _here(path))
    if local:
        return local
    return [f"runs/{run_id}/{name}" for name in runs.list_files(store, run_id, "report") if name.endswith(".png")]


def _here(file: Path) -> bool:
    """Whether ``file`` can be opened by a reader of the report: what is in our images' volumes can't."""
    return file.is_file() and os.environ.get("PIPPA_INSIDE") != "1"


def _wandb_url(spec: RunSpec, folder: Path) -> str | None:
    """The page of the W&B run; known only where it ran online, which leaves a folder ``run-*``."""
    if not list((folder / "wandb").glob("run-*")):
        return None
    reported = folder / "wandb" / URL_FILE
    return reported.read_text().strip() if reported.is_file() else spec.wandb.url


def _rows(report: Report) -> Mapping[str, str]:
    """The summary, line by line; the same for every reader."""
    spec = report.spec
    rows = {
        "run": report.run_id,
        "trained": f"{report.step} of {spec.config.max_steps} steps of {spec.preset}: {components(spec.config)}",
        "dataset": ", ".join(str(ref) for ref in spec.datasets),
        "base model": str(spec.base_model),
    }
    if report.first_loss is not None and report.last_loss is not None:
        rows["loss"] = f"{report.first_loss:.4f} → {report.last_loss:.4f}"
    if (mse := report.metrics.get(MSE)) is not None:
        variance = report.metrics.get(VARIANCE)
        against = f" (variance of the demonstrated actions: {variance:.4g})" if variance else ""
        rows["open-loop MSE"] = f"{mse:.4g}{against}"
    if report.best_rests_on:
        rows[f"{spec.preset}/best"] = f"decided on {report.best_rests_on}"
    if report.seconds is not None:
        rows["wall time"] = duration(report.seconds)
    return rows


def next_command(report: Report) -> str:
    """What most people do next."""
    if report.status == "failed" and not can_be_resumed(report.exit_code):
        return f"pippa train {report.spec.preset} --help"
    if report.status in ("failed", "stopped"):
        return f"pippa runs resume {report.run_id}"
    if report.judged is not None and report.judged.take is not None:
        return f"pippa checkpoints pull {report.run_id}/{report.judged.take} ./{report.spec.preset}-checkpoint"
    if report.checkpoints:
        return f"pippa checkpoints pull {report.checkpoints[-1].name} ./{report.spec.preset}-checkpoint"
    return f"pippa runs show {report.run_id}"


def _looks(report: Report) -> Mapping[str, str]:
    """Where to look further."""
    looks: dict[str, str] = {"page": f"pippa report {report.run_id} --open"}
    if report.page:
        looks["page"] = f"{shown(report.page)}\n{looks['page']}"
    if report.plots:
        looks["plots"] = "\n".join(shown(plot) for plot in report.plots)
        if not Path(report.plots[0]).is_absolute():
            looks["plots"] += f"\nin the object store; to have them here: pippa runs pull {report.run_id} FOLDER"
    if report.unsent_wandb:
        where = f"{report.wandb_url} lacks some of it" if report.wandb_url else "recorded offline"
        looks["W&B"] = f"{where}; to upload it: pippa runs sync {report.run_id}"
    elif report.wandb_url:
        looks["W&B"] = report.wandb_url
    looks["log"] = shown(report.log)
    return looks


def print_report(console: Console, report: Report) -> None:
    """The summary in a terminal."""
    console.print(f"\n{_mark(report)} [bold]{escape(report.verdict)}[/]", soft_wrap=True)
    if report.status == "done" and report.judged is not None:
        print_sentences(console, report.judged.reasons)
        print_sentences(console, report.judged.advice, "→")
    if report.message and report.status == "failed":
        console.print(f"  {escape(report.message)}", soft_wrap=True)
        if report.hint:
            console.print(f"  [dim]{escape(report.hint)}[/]", soft_wrap=True)
    lines = [
        escape(line.name)
        + (f"  [dim]{size(line.uploaded)} uploaded[/]" if line.uploaded is not None else "")
        + (f"  [cyan]{escape(', '.join(line.aliases))}[/]" if line.aliases else "")
        for line in report.checkpoints
    ]
    rows = {title: escape(value) for title, value in _rows(report).items()}
    rows["checkpoints"] = "\n".join(lines) or "none"
    rows |= {title: escape(value) for title, value in _looks(report).items()}
    rows["next"] = f"[bold]{escape(next_command(report))}[/]"
    if len(report.evaluations) > 1:
        console.print(evaluations_table([(str(step), each) for step, each in report.evaluations.items()]))
    # Not a table: rich would fold a path, and it could not be copied any more.
    width = max(map(len, rows))
    for title, value in rows.items():
        for index, line in enumerate(value.splitlines()):
            console.print(f"[dim]{'' if index else title:<{width}}[/]  {line}", soft_wrap=True)


def _mark(report: Report) -> str:
    if report.status == "done" and report.judged is not None:
        return MARKS[report.judged.level]
    return {"done": "[green]✓[/]", "failed": "[red]✗[/]"}.get(report.status, "[yellow]![/]")


def to_markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The report as a page; ``pictures`` are lines of Markdown that show more than the paths of plots."""
    lines = [f"# {report.run_id}", "", f"**{report.verdict}**", ""]
    if report.message and report.status == "failed":
        lines += [report.message, "", report.hint, ""]
    if report.status == "done" and report.judged is not None:
        lines += [*(f"- {reason}" for reason in report.judged.reasons), ""]
        lines += [*(f"- **{advice}**" for advice in report.judged.advice), ""]
    lines += [*pictures, "| | |", "|---|---|"]
    cells = {**_rows(report), **_looks(report), "next": f"`{next_command(report)}`"}
    if pictures:
        cells.pop("plots", None)
    lines += [f"| {title} | {value.replace(chr(10), '<br>')} |" for title, value in cells.items()]
    lines += ["", "## Checkpoints", "", "| name | digest | uploaded | aliases |", "|---|---|---|---|"]
    lines += [
        f"| `{line.name}` | `{line.digest[:12]}` | {size(line.uploaded) if line.uploaded is not None else ''} "
        f"| {', '.join(line.aliases)} |"
        for line in report.checkpoints
    ]
    if report.evaluations:
        lines += ["", "## Open-loop error", "", "| step | MSE | of holding still | of the mean action | on |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {step} | {each.mse:.4g} | {_percent(each.over_hold_still)} | {_percent(each.over_variance)} "
            f"| {each.on} |"
            for step, each in report.evaluations.items()
        ]
    if report.warnings:
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in report.warnings)]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def shown(path: str) -> str:
    """``path`` as it is shortest to type from here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
