"""``trainer evaluate --run RUN``: the checkpoints of a run, after its training, one after the other.

It runs when the engine has ended, in a separate process: it shares no GPU with the training, and what goes wrong here
takes nothing from it. Every checkpoint is evaluated on the same two episodes; the best of them and the last by the full
protocol, the best with its ablations. Those that the engine has deleted on this disk are pulled, and removed at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainer.config.finetune_config import Evaluate
from trainer.config.flags import parse
from trainer.config.presets import goal_of
from trainer.errors import PippaError
from trainer.evaluation.checkpoint import Protocol
from trainer.evaluation.registered import EvaluationContext, compare_with_best, event_of, measure
from trainer.evaluation.to_wandb import add_to_wandb
from trainer.evaluation.verdict import Verdict, best_step, verdict
from trainer.events import Emitter, WarningEvent
from trainer.runner import checkpoint_folder
from trainer.store import registry, snapshots
from trainer.store.evaluation import FULL_EPISODES, SUBSET_EPISODES, Evaluation
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import open_store


class RunOptions(BaseModel):
    """Evaluation of a run's checkpoints on its own dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: str
    """The run's id."""
    output_dir: Path | None = None
    """Where its engine left checkpoints; others are pulled from the store."""
    report_dir: Path | None = None
    """Where the plots of the last checkpoint go, and evaluations.json with all figures; default: the run's folder."""
    which: Evaluate = "every"
    """Every checkpoint, or the last."""
    foreign: tuple[int, ...] = ()
    """Steps of checkpoints in output_dir that are of another training."""


def main(argv: Sequence[str]) -> int:
    """Evaluate as ``argv`` says, with events on stdout. Returns the exit code."""
    evaluate_run(parse(RunOptions, argv, "trainer evaluate"), Emitter())
    return 0


def evaluate_run(options: RunOptions, emit: Emitter) -> dict[int, Evaluation]:
    """Evaluate the checkpoints, keep what came out, move ``<preset>/best``; the evaluations by step.

    A checkpoint that can't be evaluated is left out with a warning, unless it is the only one. Raises what ``measure``
    raises.
    """
    context = EvaluationContext(open_store(), emit)
    entries = {entry.step: entry for entry in registry.list_checkpoints(context.store, options.run)}
    if not entries:
        return {}
    work = _Work(options, context, entries)
    last = max(entries)
    found: dict[int, Evaluation] = {}
    if options.which == "every" and len(entries) > 1:
        for number, step in enumerate(entries, start=1):
            context.say(f"Evaluating checkpoint {number} of {len(entries)}: step {step}.")
            work.tolerated(step, found, Protocol(full=False), SUBSET_EPISODES)
    best = best_step(found) if found else last
    for step in dict.fromkeys((best, last)):
        context.say(f"Evaluating step {step} by the full protocol.")
        work.tolerated(step, found, Protocol(), ablate=step == best, report=True)
    # The last one first, so that of two that are equally good the later one is best.
    for step in sorted(found, reverse=True):
        work.keep(step, found[step])
    judged = verdict(found, goal_of(entries[last].spec.preset))
    _write(work.report, found, last, judged)
    add_to_wandb(found, judged, emit)
    return found


class _Work:
    """One run's checkpoints on this machine."""

    def __init__(self, options: RunOptions, context: EvaluationContext, entries: dict[int, CheckpointEntry]) -> None:
        self.options = options
        self.context = context
        self.entries = entries
        self.report = options.report_dir or context.home / "runs" / options.run / "report"

    def tolerated(
        self,
        step: int,
        found: dict[int, Evaluation],
        protocol: Protocol,
        count: int = FULL_EPISODES,
        *,
        ablate: bool = False,
        report: bool = False,
    ) -> None:
        """Evaluate one checkpoint into ``found``; what goes wrong with one of several is a warning."""
        entry, last = self.entries[step], max(self.entries)
        folder = self.report if step == last else self.report / f"checkpoint-{step}"
        try:
            with self._files(entry) as files:
                found[step] = measure(
                    self.context,
                    entry,
                    files,
                    entry.spec.datasets[0],
                    protocol,
                    count=count,
                    ablate=ablate,
                    report=folder if report else None,
                )
        except (PippaError, OSError) as error:
            if step == last and not found:
                raise
            self.context.emit(
                WarningEvent(
                    message=f"Step {step} was not evaluated: {error}",
                    hint=f"The checkpoint is safe; `pippa evaluate {entry.name}` tries it again.",
                )
            )

    def keep(self, step: int, evaluation: Evaluation) -> None:
        """Put an evaluation into the registry, and tell it."""
        entry = self.entries[step]
        if evaluation.full:
            compare_with_best(self.context, entry, entry.spec.datasets[0], evaluation)
        metrics = evaluation.metrics()
        registry.add_metrics(self.context.store, entry.run_id, step, metrics, evaluation)
        self.context.emit(event_of(entry, evaluation, metrics))

    @contextmanager
    def _files(self, entry: CheckpointEntry) -> Generator[Path]:
        """The folder of a checkpoint: the engine's own while it is there, else one that is removed afterwards."""
        if self.options.output_dir is not None and entry.step not in self.options.foreign:
            local = self.options.output_dir / f"checkpoint-{entry.step}"
            if checkpoint_folder.problem(local, entry.step) is None:
                yield local
                return
        folder = self.context.home / "tmp" / f"evaluate-{entry.run_id}-{entry.step}"
        marker = folder.with_name(f".{folder.name}.snapshot")
        try:
            yield snapshots.pull(self.context.store, entry.snapshot, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            marker.unlink(missing_ok=True)


def _write(folder: Path, found: dict[int, Evaluation], last: int, judged: Verdict | None) -> None:
    """All figures of the run in one file, beside the last checkpoint's plots."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "metrics": found[last].metrics() if last in found else {},
        "verdict": judged.model_dump(mode="json") if judged else None,
        "checkpoints": {str(step): {**each.model_dump(mode="json"), "on": each.on} for step, each in found.items()},
    }
    (folder / "evaluations.json").write_text(json.dumps(document, indent=2) + "\n")
