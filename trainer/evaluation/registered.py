"""``trainer evaluate --checkpoint NAME …``: open-loop evaluation of registered checkpoints, kept in the registry.

Checkpoints and dataset come from the object store into the cache that all runs of the machine share; the data is loaded
once for all of them. What is measured as a run measures it, on a checkpoint's own dataset and by the full protocol,
becomes its evaluation, and decides ``<preset>/best``. On another dataset, or another stretch of it, numbers mean
something else: their metrics get names that say so.
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
from trainer.data.exclusion import numbers_as_texts, numbers_of
from trainer.data.policy_config import FILE, recorded_data_config
from trainer.errors import UsageError
from trainer.evaluation.checkpoint import Protocol, evaluate_checkpoint
from trainer.evaluation.dataset import Chosen, EvaluationDataset, first_of_each, named
from trainer.evaluation.report import write_report
from trainer.events import Emitter, EvaluationEvent, PhaseEvent
from trainer.generation import GENERATIONS
from trainer.heavy_imports import heavy_imports
from trainer.store import registry, runs
from trainer.store.evaluation import FULL_EPISODES, FULL_STEPS, Evaluation, merged
from trainer.store.local_cache import cached
from trainer.store.manifest import read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry
from trainer.store.stores import existing_store

_SAYS_ITS_CONFIG = {
    f"experiment_cfg/{FILE}",
    *(each.processor_files[0] for each in GENERATIONS if each.processor_files),
}
"""A checkpoint with one of these files knows its data config."""


class RegisteredOptions(BaseModel):
    """Open-loop evaluation of registered checkpoints. Metrics and plots are kept with them in the object store."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: tuple[str, ...]
    """RUN/STEP, RUN (its newest), or an alias such as latest or smoke/best; several to compare them."""
    all: bool = False
    """Of each RUN all checkpoints."""
    dataset: str | None = None
    """Another dataset of the object store, as NAME or NAME@DIGEST; default: the (first) one it was trained on."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes to evaluate; default: the first that were held out of the training, or else its first."""
    trajs: int = FULL_EPISODES
    """Episodes to evaluate, at most."""
    steps: int = FULL_STEPS
    """Frames of each episode to compare, at most."""
    denoising_steps: int | None = None
    """Steps of the flow-matching sampler; default: the checkpoint's (4)."""
    ablations: bool = True
    """Also evaluate with each input taken away: does it look, does it listen?"""


def main(argv: Sequence[str]) -> int:
    """Evaluate as ``argv`` says, with events on stdout. Returns the exit code."""
    evaluate_registered(parse(RegisteredOptions, argv, "trainer evaluate"), Emitter())
    return 0


def evaluate_registered(options: RegisteredOptions, emit: Emitter) -> dict[str, dict[str, float]]:
    """Evaluate and keep what came out; the metrics of each checkpoint, under the names they are kept by.

    Raises ``UsageError`` for an unknown checkpoint or dataset, ``DatasetError`` for a dataset that contradicts a
    checkpoint, ``StoreError``, and ``EngineError``.
    """
    store = existing_store("checkpoint")
    entries = named_entries(store, options.checkpoint, all_of=options.all)
    refs = [dataset_of(store, entry, options.dataset) for entry in entries]
    for entry in entries:  # before gigabytes are fetched
        _require_config(store, entry)
    if options.episodes and options.trajs != FULL_EPISODES:
        raise UsageError("--episodes and --trajs both say which episodes.", "Give one of them.")
    context = EvaluationContext(store, emit)
    return {entry.name: evaluate_entry(context, entry, ref, options) for entry, ref in zip(entries, refs, strict=True)}


def _require_config(store: ObjectStore, entry: CheckpointEntry) -> None:
    """Raise ``UsageError`` for a checkpoint whose data config is known from its lineage alone, as a program."""
    if not {file.path for file in read_manifest(store, entry.snapshot).files} & _SAYS_ITS_CONFIG:
        recorded_data_config(entry.spec.config.data_config, entry.name)


def named_entries(store: ObjectStore, names: Sequence[str], *, all_of: bool) -> list[CheckpointEntry]:
    """The checkpoints that ``names`` mean, with ``all_of`` all those of each run that is named; each of them once.

    Raises ``UsageError``.
    """
    found: dict[str, CheckpointEntry] = {}
    for name in names:
        entry = registry.resolve(store, name)
        several = all_of and entry.run_id == name
        for each in registry.list_checkpoints(store, name) if several else [entry]:
            found[each.name] = each
    return list(found.values())


class EvaluationContext:
    """The store, where events go, and the checkpoints and datasets on this machine; each dataset is opened once."""

    def __init__(self, store: ObjectStore, emit: Emitter) -> None:
        self.store = store
        self.emit = emit
        self.home = pippa_home()
        self._datasets: dict[tuple[SnapshotRef, tuple[str, ...]], EvaluationDataset] = {}

    def dataset(self, ref: SnapshotRef, exclude: tuple[str, ...] = ()) -> EvaluationDataset:
        """The dataset ``ref``, from the store if need be, without the episodes that ``exclude`` names."""
        if (ref, exclude) not in self._datasets:
            self._datasets[ref, exclude] = EvaluationDataset(self._fetched(ref), ref, exclude)
        return self._datasets[ref, exclude]

    def checkpoint(self, entry: CheckpointEntry) -> Path:
        """The folder of a checkpoint, from the store if need be."""
        return self._fetched(entry.snapshot)

    def say(self, message: str, done: int | None = None, of: int | None = None) -> None:
        """Tell how far it is."""
        sys.stderr.write(message + "\n")
        self.emit(PhaseEvent(phase="evaluate", message=message, done=done, of=of))

    def _fetched(self, ref: SnapshotRef) -> Path:
        return cached(self.store, ref, self.home, self.say)


def evaluate_entry(
    context: EvaluationContext, entry: CheckpointEntry, ref: SnapshotRef, options: RegisteredOptions
) -> dict[str, float]:
    """Evaluate one checkpoint on the dataset ``ref`` and keep what came out."""
    store, label = context.store, label_of(entry, ref, options)
    (context.home / "tmp").mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=context.home / "tmp", prefix="evaluate-") as report:
        found = measure(
            context,
            entry,
            context.checkpoint(entry),
            ref,
            Protocol(steps=options.steps, full=not label),
            count=options.trajs,
            numbers=options.episodes,
            denoising_steps=options.denoising_steps,
            ablate=options.ablations,
            report=Path(report),
        )
        metrics = {f"{name}{label}": value for name, value in found.metrics().items()}
        if (before := entry.evaluation) is not None:
            # What was measured before and isn't now stays.
            found = found.model_copy(
                update={"ablations": found.ablations or before.ablations, "compared": before.compared}
            )
        if not label:
            compare_with_best(context, entry, ref, found)
        registry.add_metrics(store, entry.run_id, entry.step, metrics, found if not label else None)
        runs.upload_folder(store, entry.run_id, Path(report), f"report/checkpoint-{entry.step}{label}")
    context.emit(event_of(entry, found, metrics))
    return metrics


def event_of(entry: CheckpointEntry, found: Evaluation, metrics: dict[str, float]) -> EvaluationEvent:
    """The event of an evaluation."""
    return EvaluationEvent(
        step=entry.step,
        metrics=metrics,
        checkpoint=entry.name,
        on=found.on,
        full=found.full,
        evaluation=found.model_dump(mode="json"),
    )


def measure(
    context: EvaluationContext,
    entry: CheckpointEntry,
    folder: Path,
    ref: SnapshotRef,
    protocol: Protocol,
    *,
    count: int = FULL_EPISODES,
    numbers: Sequence[int] = (),
    hashes: Sequence[str] = (),
    denoising_steps: int | None = None,
    ablate: bool = False,
    report: Path | None = None,
) -> Evaluation:
    """Evaluate the checkpoint ``entry``, whose files are in ``folder``, on ``ref``: on the episodes with these
    ``numbers`` or ``hashes``, or on the first ``count`` that it was not trained on and as many that it was.
    """
    from trainer.evaluation.compatibility import require_fit
    from trainer.gr00t.checkpoint import described

    checkpoint = described(folder, entry.name, entry)
    data, alignment = context.dataset(ref, _left_out(entry, ref, numbers)), entry.spec.config.video_alignment
    reader = data.reader(checkpoint.data_config, alignment)
    for warning in require_fit(reader.meta, checkpoint):
        context.emit(warning)
    everything = data.all_of(checkpoint.data_config, alignment, _trained_on(entry, checkpoint.known, ref))
    episodes: list[Chosen]
    if numbers:
        episodes = named(everything, numbers, data.name)
    elif hashes:
        episodes = [each for each in everything if each.hash in hashes]
    else:
        episodes = first_of_each(everything, count)
    with heavy_imports():
        from trainer.gr00t.policy import Policy

        checkpoint.generation.module("gr00t", "policy")  # the model comes with it
    policy = Policy(checkpoint, denoising_steps=denoising_steps)
    found, trajectories = evaluate_checkpoint(
        policy,
        data,
        episodes,
        protocol,
        alignment=alignment,
        all_count=bool(numbers),
        ablate=ablate,
        say=lambda what, done, of: context.say(f"{entry.name}: {what}", done, of),
    )
    if report is not None:
        write_report(report, folder, found, trajectories, reader, checkpoint.data_config.keys("video"))
    return found


def compare_with_best(context: EvaluationContext, entry: CheckpointEntry, ref: SnapshotRef, found: Evaluation) -> None:
    """Evaluate the best checkpoint so far on the episodes of ``found`` where it was evaluated on none of them, as when
    the dataset has grown: only the same episodes show which is better.
    """
    from trainer.store.best import compare_evaluations

    best = registry.best_of_track(context.store, entry)
    if best is None or best.name == entry.name or best.evaluation is None:
        return
    if compare_evaluations(found, best.evaluation) is not None:
        return
    context.say(f"{best.name}, the best so far, is evaluated on the same episodes.")
    again = measure(
        context, best, context.checkpoint(best), ref, Protocol(), hashes=[each.hash for each in found.episodes]
    )
    registry.add_metrics(context.store, best.run_id, best.step, {}, merged(best.evaluation, again))


def label_of(entry: CheckpointEntry, dataset: SnapshotRef, options: RegisteredOptions) -> str:
    """What tells the metrics of this evaluation from those that the run itself measured; empty when nothing does."""
    parts = []
    if dataset != entry.spec.datasets[0]:
        parts.append(f"{dataset.name.replace('/', '_')}-{dataset.digest[:12]}")
    if options.episodes:
        parts.append(f"episodes-{'-'.join(map(str, options.episodes))}")
    for name, value, usual in (
        ("trajs", options.trajs, FULL_EPISODES),
        ("steps", options.steps, FULL_STEPS),
        ("denoising-steps", options.denoising_steps, None),
    ):
        if value != usual:
            parts.append(f"{name}-{value}")
    return f"@{','.join(parts)}" if parts else ""


def dataset_of(store: ObjectStore, entry: CheckpointEntry, name: str | None) -> SnapshotRef:
    """The dataset to evaluate ``entry`` on. Raises ``UsageError`` for an unknown one."""
    return entry.spec.datasets[0] if name is None else importers.existing(store, name)


def _left_out(entry: CheckpointEntry, ref: SnapshotRef, asked: Sequence[int]) -> tuple[str, ...]:
    """The episodes of ``ref``, in whichever version, that were left out of the training: they say nothing about it,
    unless they are ``asked`` for by their numbers.
    """
    for each, options in zip(entry.spec.datasets, entry.spec.config.data_options, strict=False):
        if each.name == ref.name:
            return tuple(numbers_as_texts(set(numbers_of(options.exclude_episodes)) - set(asked)))
    return ()


def _trained_on(entry: CheckpointEntry, known: object, ref: SnapshotRef) -> Sequence[str] | None:
    """The hashes of the episodes that a checkpoint has seen; None for all of the dataset."""
    from trainer.data.policy_config import PolicyConfig

    if isinstance(known, PolicyConfig) and known.trained_on:
        return known.trained_on
    return None if ref.name in {each.name for each in entry.spec.datasets} else ()
