"""``trainer evaluate --checkpoint NAME``: open-loop evaluation of a registered checkpoint, kept in the registry.

Checkpoint and dataset come from the object store into the cache that all runs of the machine share. What its run itself
would have measured is added to the checkpoint's metrics under the same names; on another dataset, or another stretch of
it, numbers mean something else and get names that say so, since the lowest ``open_loop_mse`` decides ``<preset>/best``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict

from trainer import importers
from trainer.config.flags import parse
from trainer.config.run_spec import SnapshotRef
from trainer.config.settings import pippa_home
from trainer.data.config_file import as_argument
from trainer.data.configs import DATA_CONFIGS
from trainer.errors import UsageError
from trainer.evaluation.folder import EvaluateOptions, evaluate
from trainer.events import Emitter, EvaluationEvent, Event, PhaseEvent
from trainer.runner.run import EVALUATED_EPISODES, EVALUATED_STEPS
from trainer.runner.workspace import cached
from trainer.store import registry, runs
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import open_store


class RegisteredOptions(BaseModel):
    """Open-loop evaluation of a registered checkpoint. Its metrics and plots are kept with it in the object store."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: str
    """RUN/STEP, RUN (its newest), or an alias such as latest or smoke/best."""
    dataset: str | None = None
    """Another dataset of the object store, as NAME or NAME@DIGEST; default: the (first) one it was trained on."""
    trajs: int = EVALUATED_EPISODES
    """Episodes to evaluate, at most."""
    steps: int = EVALUATED_STEPS
    """Frames of each episode to compare, at most."""
    denoising_steps: int | None = None
    """Steps of the flow-matching sampler; default: the checkpoint's (4)."""


def main(argv: Sequence[str]) -> int:
    """Evaluate as ``argv`` says, with events on stdout. Returns the exit code."""
    evaluate_registered(parse(RegisteredOptions, argv, "trainer evaluate"), Emitter())
    return 0


def evaluate_registered(options: RegisteredOptions, emit: Emitter) -> dict[str, float]:
    """Evaluate and keep what came out; the metrics, under the names they are kept by.

    Raises ``UsageError`` for an unknown checkpoint or dataset, ``StoreError``, and what ``evaluate`` raises.
    """
    store = open_store()
    entry = registry.resolve(store, options.checkpoint)
    dataset = _dataset(store, entry, options.dataset)
    emit(PhaseEvent(phase="prepare", message=f"Fetching {entry.name} and {dataset} from the store."))

    def log(line: str) -> None:
        sys.stderr.write(line + "\n")

    home = pippa_home()
    folder = cached(store, entry.snapshot, home, log)
    label = label_of(entry, dataset, options)
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home / "tmp", prefix="evaluate-") as report:
        found = evaluate(
            EvaluateOptions(
                model_path=folder,
                dataset_path=cached(store, dataset, home, log),
                data_config=_data_config(entry),
                embodiment_tag=entry.spec.config.embodiment_tag,
                video_alignment=entry.spec.config.video_alignment,
                trajs=options.trajs,
                steps=options.steps,
                denoising_steps=options.denoising_steps,
                report_dir=Path(report),
            ),
            _Named(emit, entry.step, label),
        )
        metrics = {f"{name}{label}": value for name, value in found.items()}
        registry.add_metrics(store, entry.run_id, entry.step, metrics)
        runs.upload_folder(store, entry.run_id, Path(report), f"report/checkpoint-{entry.step}{label}")
    return metrics


def label_of(entry: CheckpointEntry, dataset: SnapshotRef, options: RegisteredOptions) -> str:
    """What tells the metrics of this evaluation from those that the run itself measured; empty when nothing does."""
    parts = []
    if dataset != entry.spec.datasets[0]:
        parts.append(f"{dataset.name.replace('/', '_')}-{dataset.digest[:12]}")
    for name, value, usual in (
        ("trajs", options.trajs, EVALUATED_EPISODES),
        ("steps", options.steps, EVALUATED_STEPS),
        ("denoising-steps", options.denoising_steps, None),
    ):
        if value != usual:
            parts.append(f"{name}-{value}")
    return f"@{','.join(parts)}" if parts else ""


def _data_config(entry: CheckpointEntry) -> str:
    """The data config a checkpoint was trained with. Raises ``UsageError`` for one that is a program: whoever wrote
    into the store does not decide what runs here.
    """
    config = entry.spec.config.data_config
    if isinstance(config, str) and config not in DATA_CONFIGS:
        raise UsageError(
            f"{entry.name} was trained with the data config {config}, a Python module, which is not run from a store.",
            f"Pull it, and where the module is: `trainer evaluate --model-path FOLDER --dataset-path FOLDER "
            f"--data-config {config}`.",
        )
    return as_argument(config)


def _dataset(store: ObjectStore, entry: CheckpointEntry, name: str | None) -> SnapshotRef:
    if name is None:
        return entry.spec.datasets[0]
    if ref := importers.find(store, "dataset", name):
        return ref
    raise UsageError(f"There is no dataset {name!r} in the store.", "`pippa data list` lists them.")


class _Named(Emitter):
    """Passes events on, those of an evaluation with the step and the names they are kept by."""

    def __init__(self, emit: Emitter, step: int, label: str) -> None:
        self._emit, self._step, self._label = emit, step, label

    def __call__(self, event: Event) -> None:
        if isinstance(event, EvaluationEvent):
            metrics = {f"{name}{self._label}": value for name, value in event.metrics.items()}
            event = event.model_copy(update={"step": self._step, "metrics": metrics})
        self._emit(event)
