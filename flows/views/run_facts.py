"""What the page of a run tells beside its figures: its curve, its time, its configuration, its data and its lineage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from flows.views.terminal import duration, size
from trainer.config.flags import flag
from trainer.config.presets import DEFAULT, PRESETS, all_presets
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.errors import PippaError
from trainer.events import Event, PhaseEvent, ProgressEvent
from trainer.store.manifest import Manifest, blob_key, read_manifest
from trainer.store.object_store import ObjectStore
from trainer.store.registry import CheckpointEntry

REFERENCE = "blog"
"""The preset that everybody knows, against which each run is shown."""
MAX_META_BYTES = 4 << 20
MAX_LISTED = 12


@dataclass(frozen=True)
class Curve:
    """What a training logged, by step."""

    loss: list[tuple[float, float]]
    learning_rate: list[tuple[float, float]]


def curve_of(events: Sequence[Event]) -> Curve:
    """The loss and the learning rate as they were logged; of a run that went back to a checkpoint, its last course."""
    logged: dict[int, ProgressEvent] = {}
    reported: tuple[float | None, float | None] | None = None
    last = 0
    for event in events:
        if not isinstance(event, ProgressEvent):
            continue
        if event.step < last:
            logged = {step: each for step, each in logged.items() if step < event.step}
            reported = None
        last = event.step
        # Between two logged steps an event tells the last one's again.
        if event.loss is not None and (event.loss, event.lr) != reported:
            reported = (event.loss, event.lr)
            logged[event.step] = event
    return Curve(
        [(step, each.loss) for step, each in logged.items() if each.loss is not None],
        [(step, each.lr) for step, each in logged.items() if each.lr is not None],
    )


def seconds_by_phase(events: Sequence[Event]) -> dict[str, float]:
    """How long each phase took, in the order they came; the time between two attempts counts for none."""
    found: dict[str, float] = {}
    phase = ""
    for before, event in pairwise(events):
        if isinstance(before, PhaseEvent):
            phase = before.phase
        again = isinstance(event, PhaseEvent) and event.phase == "prepare" != phase
        if phase and not again:
            found[phase] = found.get(phase, 0.0) + max((event.time - before.time).total_seconds(), 0.0)
    return found


def speed_of(events: Sequence[Event]) -> dict[str, str]:
    """Throughput and the most memory that was used, where the run reported it."""
    steps = [event for event in events if isinstance(event, ProgressEvent)]
    speeds = [event.samples_per_second for event in steps if event.samples_per_second]
    memory = max((event.memory_bytes or 0 for event in steps), default=0)
    gpu = max((event.gpu_memory_bytes or 0 for event in steps), default=0)
    found = {"throughput": f"{median(speeds):.4g} samples per second (median)" if speeds else "not recorded"}
    found["GPU memory"] = f"{size(gpu)} at most" if gpu else "none was used, or not recorded"
    found["memory"] = f"{size(memory)} at most in the engine's process" if memory else "not recorded"
    return found


@dataclass(frozen=True)
class Difference:
    """One argument of a run that is not the preset's, or not that of the reference."""

    flag: str
    value: str
    preset: str
    reference: str
    changed: bool
    """Whether it was changed for this run."""
    reason: str
    """Why the preset sets what it sets."""


def configuration(spec: RunSpec) -> tuple[list[Difference], list[tuple[str, str]]]:
    """What differs from the preset and from ``blog``, and the whole configuration by flag."""
    try:
        known = {**all_presets(), DEFAULT.name: DEFAULT}
    except PippaError:  # a presets file that is wrong says nothing against the run
        known = {**PRESETS, DEFAULT.name: DEFAULT}
    preset, reference = known.get(spec.preset), known[REFERENCE]
    differences = []
    for name in type(spec.config).fields():
        value = text_of(getattr(spec.config, name))
        theirs = text_of(preset.known.get(name, "")) if preset else "unknown here"
        usual = text_of(reference.known.get(name, ""))
        changed = spec.provenance.get(name) == "flag"
        if changed or value != usual or (preset and value != theirs):
            reason = preset.reason(name) if preset and not changed else ""
            differences.append(Difference(flag(name), value, theirs, usual, changed, reason))
    whole = [(flag(name), text_of(getattr(spec.config, name))) for name in type(spec.config).fields()]
    return sorted(differences, key=lambda each: not each.changed), whole


def text_of(value: object) -> str:
    """A value of a configuration as a page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def dataset_facts(store: ObjectStore, ref: SnapshotRef) -> dict[str, str]:
    """What a dataset is, from its ``info.json``. One that is gone or damaged is reported as such."""
    try:
        manifest = read_manifest(store, ref)
    except PippaError as error:
        return {"dataset": str(ref), "not readable": error.message}
    info = _info(store, manifest)
    facts = {"dataset": str(ref), "files": f"{len(manifest.files):,}, {size(manifest.size)}"}
    for title, name in (("robot", "robot_type"), ("episodes", "total_episodes"), ("frames", "total_frames")):
        if isinstance(info.get(name), str | int):
            facts[title] = str(info[name])
    rate, frames = info.get("fps"), info.get("total_frames")
    if isinstance(rate, int | float) and rate > 0:
        length = f"; {duration(frames / rate)} in all" if isinstance(frames, int) else ""
        facts["rate"] = f"{rate:g} frames per second{length}"
    features = info.get("features")
    if isinstance(features, dict):
        shapes = {name: each for name, each in features.items() if isinstance(each, dict)}
        cameras = [
            f"{name} ({_shape(each)})" for name, each in shapes.items() if each.get("dtype") in ("video", "image")
        ]
        if cameras:
            facts["cameras"] = "\n".join(cameras[:MAX_LISTED])
        for title, name in (("state", "observation.state"), ("action", "action")):
            if name in shapes:
                facts[title] = f"{_shape(shapes[name])} dimensions"
    if tasks := _tasks(store, manifest):
        more = f"\nand {len(tasks) - MAX_LISTED} more" if len(tasks) > MAX_LISTED else ""
        facts["instructions"] = "\n".join(each[:200] for each in tasks[:MAX_LISTED]) + more
    return {**facts, **_origin(manifest)}


def lineage(store: ObjectStore, spec: RunSpec, entries: Sequence[CheckpointEntry]) -> dict[str, str]:
    """Where the run's checkpoints come from, and under which licence."""
    facts = {"base model": f"{spec.base_model.name}@{spec.base_model.digest}"}
    try:
        origin = read_manifest(store, spec.base_model).origin
        facts["licence"] = origin.get("license", "none is recorded for this base model")
    except PippaError as error:
        facts["licence"] = f"unknown: {error.message}"
    for ref in spec.datasets:
        facts.setdefault("datasets", "")
        facts["datasets"] = f"{facts['datasets']}\n{ref.name}@{ref.digest}".strip()
    facts["engine"] = f"{spec.engine}, pippa {spec.git_sha or 'of unknown commit'}"
    if spec.image:
        facts["image"] = spec.image
    if entries and entries[-1].held_out:
        count = len(entries[-1].held_out)
        facts["held out"] = f"{count} episode{'' if count == 1 else 's'}"
    facts["started"] = f"{spec.created:%F %R} UTC"
    return facts


def _origin(manifest: Manifest) -> dict[str, str]:
    return (
        {"origin": "\n".join(f"{name}: {value}" for name, value in manifest.origin.items())} if manifest.origin else {}
    )


def _info(store: ObjectStore, manifest: Manifest) -> dict[str, object]:
    with suppress(PippaError, ValueError, RecursionError):
        found = json.loads(_file(store, manifest, "meta/info.json") or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _tasks(store: ObjectStore, manifest: Manifest) -> list[str]:
    """The instructions, where the layout has them as lines (v2)."""
    found: list[str] = []
    with suppress(PippaError, ValueError, RecursionError):
        for line in (_file(store, manifest, "meta/tasks.jsonl") or b"").splitlines():
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("task"), str):
                found.append(row["task"])
    return found


def _file(store: ObjectStore, manifest: Manifest, path: str) -> bytes | None:
    """A small file of a snapshot."""
    for file in manifest.files:
        if file.path == path:
            return store.read_bytes(blob_key(file.sha256), MAX_META_BYTES)
    return None


def _shape(feature: dict[str, object]) -> str:
    shape = feature.get("shape")
    return " × ".join(map(str, shape)) if isinstance(shape, list) else "shape unknown"
