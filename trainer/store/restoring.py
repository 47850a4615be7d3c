"""What is known of a checkpoint beside its registry entry, so that a lost entry is restored with its figures.

The checkpoint's own files have its loss and its held-out episodes. The run's record has what was measured: its events
tell each evaluation of the run itself, and ``report/checkpoint-STEP…/evaluation.json`` keeps those that came later.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from trainer.errors import DamagedObjectError
from trainer.events import EvaluationEvent, parse_event
from trainer.store import runs
from trainer.store.evaluation import Evaluation
from trainer.store.manifest import Manifest, blob_key
from trainer.store.object_store import ObjectStore
from trainer.store.registry_entry import CheckpointEntry

_MAX_BYTES = 64 << 20
"""The files read here are far smaller."""


def with_known_figures(store: ObjectStore, manifest: Manifest, entry: CheckpointEntry) -> CheckpointEntry:
    """``entry`` with the loss, the metrics, the newest evaluation and the held-out episodes that can still be found.

    What is missing or damaged is left out. Raises ``StoreError`` when the store does not answer.
    """
    evaluations, metrics = _from_events(store, entry)
    for label, found in _kept(store, entry):
        metrics |= {f"{name}{label}": value for name, value in found.metrics().items()}
        evaluations += [] if label else [found]
    newest = max(evaluations, key=lambda each: each.created, default=None)
    metrics = {**_loss(store, manifest), **metrics, **(newest.metrics() if newest else {})}
    document = {**entry.model_dump(), "metrics": metrics, "evaluation": newest}
    held_out = _file(store, manifest, "experiment_cfg/policy.json").get("held_out")
    try:
        return CheckpointEntry.model_validate({**document, "held_out": held_out or []})
    except ValidationError:
        return CheckpointEntry.model_validate(document)


def _from_events(store: ObjectStore, entry: CheckpointEntry) -> tuple[list[Evaluation], dict[str, float]]:
    """The evaluations of the checkpoint among the run's events, and all their metrics."""
    evaluations, metrics = [], {}
    for line in _read(store, f"{runs.RUNS}{entry.run_id}/events.jsonl").decode(errors="replace").splitlines():
        event = parse_event(line)
        if isinstance(event, EvaluationEvent) and event.step == entry.step:
            metrics |= event.metrics
            evaluations += _evaluation(event.evaluation)
    return evaluations, metrics


def _kept(store: ObjectStore, entry: CheckpointEntry) -> list[tuple[str, Evaluation]]:
    """The evaluations in the checkpoint's reports, each with the label of its metrics (empty for the usual one)."""
    found = []
    for name in runs.list_files(store, entry.run_id, "report"):
        folder, _, file = name.removeprefix("report/").partition("/")
        checkpoint, at, label = folder.partition("@")
        if checkpoint == f"checkpoint-{entry.step}" and file == "evaluation.json":
            document = _json(_read(store, f"{runs.RUNS}{entry.run_id}/{name}"))
            found += [(f"{at}{label}", each) for each in _evaluation(document)]
    return found


def _evaluation(document: object) -> list[Evaluation]:
    """The evaluation that a document is; empty for none."""
    try:
        return [Evaluation.model_validate(document)]
    except ValidationError:
        return []


def _loss(store: ObjectStore, manifest: Manifest) -> dict[str, float]:
    try:
        history = _file(store, manifest, "trainer_state.json")["log_history"]
        return {"loss": [float(row["loss"]) for row in history if "loss" in row][-1]}
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def _file(store: ObjectStore, manifest: Manifest, path: str) -> dict[str, Any]:
    """The JSON object in a file of a snapshot; empty where it is none."""
    keys = [blob_key(file.sha256) for file in manifest.files if file.path == path]
    return _json(_read(store, keys[0])) if keys else {}


def _json(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _read(store: ObjectStore, key: str) -> bytes:
    try:
        return store.read_bytes(key, _MAX_BYTES) or b""
    except DamagedObjectError:
        return b""
