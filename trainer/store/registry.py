"""The checkpoint registry: snapshots with their lineage, and movable names (aliases) for them.

An entry is written once, after every blob was found in the store, and only its metrics change. ``latest``,
``<preset>/latest`` and ``<preset>/best`` are aliases that pippa moves itself; others are the user's. A damaged alias or
entry hurts only who asks for it: it is left out of lists, and replaced by what is registered or set again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from trainer.config.run_spec import RUN_ID
from trainer.errors import DamagedObjectError, StoreError, UsageError
from trainer.store.best import Best, best_of, replaces, track
from trainer.store.damage import quarantine, read_good
from trainer.store.evaluation import Evaluation
from trainer.store.gc_barrier import relying_on
from trainer.store.manifest import manifest_key, parse_manifest_key, read_manifest
from trainer.store.object_store import ObjectStore, damaged
from trainer.store.registry_entry import BEST_METRIC, CHECKPOINTS, CheckpointEntry
from trainer.store.snapshots import unsound_blobs
from trainer.wrong_values import first_problem

__all__ = ["BEST_METRIC", "CheckpointEntry"]

ALIASES = "aliases/"

_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")
_KEY = re.compile(rf"{CHECKPOINTS}({RUN_ID.pattern})/(\d+)\.json")


def register(store: ObjectStore, entry: CheckpointEntry) -> None:
    """Make a pushed checkpoint part of the registry, and ``latest`` of its preset and of all.

    Doing it again with the same snapshot changes nothing, and replaces a damaged entry. Of several contents for one run
    and step exactly one wins; the others, like a snapshot of which the store lacks a blob, raise ``StoreError``.
    """
    manifest = read_manifest(store, entry.snapshot)
    with relying_on(store, {entry.key, manifest_key(entry.snapshot), *manifest.blob_keys()}):
        # Read again under the intent's protection: a collection may have just ended.
        manifest = read_manifest(store, entry.snapshot)
        if missing := unsound_blobs(store, manifest):
            raise StoreError(
                f"Checkpoint {entry.name} can't be registered: the object store lacks {len(missing)} of its "
                f"{len(manifest.files)} files ({missing[0]} …).",
                "Push the checkpoint again.",
            )
        complete = entry.model_copy(update={"bytes_total": manifest.size})
        if not store.write_json(entry.key, complete.model_dump(mode="json"), if_absent=True):
            existing = _intact(store, complete)
            if existing is None or existing.snapshot.digest != entry.snapshot.digest:
                raise StoreError(
                    f"Checkpoint {entry.name} is registered already, with another content"
                    f"{f' ({existing.snapshot.digest[:12]}, not {entry.snapshot.digest[:12]})' if existing else ''}.",
                    "A registered checkpoint never changes: train into a new run.",
                )
        for alias in dict.fromkeys(("latest", f"{entry.spec.preset}/latest", f"{entry.spec.name}/latest")):
            current = _unless_damaged(store, alias)
            # A late registration of an older checkpoint does not move them back.
            if current is None or (current.created, current.step) <= (entry.created, entry.step):
                _write_alias(store, alias, entry)
        _move_best(store, complete)


def add_metrics(
    store: ObjectStore,
    run_id: str,
    step: int,
    metrics: dict[str, float],
    evaluation: Evaluation | None = None,
) -> CheckpointEntry:
    """Add (or replace) metrics and the evaluation of a checkpoint; a lower error moves ``<preset>/best``
    (``trainer.store.best``).

    Meant for the run that made the checkpoint: of two processes that do it at once, one may be lost. Raises
    ``UsageError`` when there is no such checkpoint.
    """
    key = f"{CHECKPOINTS}{run_id}/{step}.json"
    # Under an intent, lest a collection delete the entry between the reading and the writing.
    with relying_on(store, {key}):
        entry = read_entry(store, key)
        if entry is None:
            raise UsageError(f"There is no checkpoint {run_id}/{step}.", "`pippa checkpoints` lists them.")
        changes: dict[str, Any] = {"metrics": {**entry.metrics, **metrics}}
        entry = entry.model_copy(update=changes | ({"evaluation": evaluation} if evaluation else {}))
        store.write_json(key, entry.model_dump(mode="json"))
        _move_best(store, entry)
    return entry


def list_checkpoints(
    store: ObjectStore, run_id: str | None = None, damage: list[DamagedObjectError] | None = None
) -> list[CheckpointEntry]:
    """Registered checkpoints (of one run), the oldest first; those of one run by step.

    Damaged entries are left out, and their errors put into ``damage``.
    """
    prefix = f"{CHECKPOINTS}{run_id}/" if run_id else CHECKPOINTS
    keys = [found.key for found in store.list(prefix) if _KEY.fullmatch(found.key)]
    entries = read_good(lambda key: read_entry(store, key), keys, damage)
    started = {entry.run_id: entry.spec.created for entry in entries}
    return sorted(entries, key=lambda entry: (started[entry.run_id], entry.run_id, entry.step))


def find(store: ObjectStore, run_id: str, step: int) -> CheckpointEntry | None:
    """One checkpoint of a run; None when it is not registered. Raises ``DamagedObjectError``."""
    return read_entry(store, f"{CHECKPOINTS}{run_id}/{step}.json")


def steps_of(store: ObjectStore, run_id: str) -> list[int]:
    """The registered steps of a run, damaged entries included, lowest first."""
    found = (parse_entry_key(each.key) for each in store.list(f"{CHECKPOINTS}{run_id}/"))
    return sorted(each[1] for each in found if each)


def resolve(store: ObjectStore, name: str) -> CheckpointEntry:
    """The checkpoint called ``name``: an alias, ``<run id>`` (its newest step) or ``<run id>/<step>``.

    Raises ``UsageError``, with the nearest names, when there is none, and ``DamagedObjectError`` for a damaged one.
    """
    run_id, _, step = name.partition("/")
    if RUN_ID.fullmatch(run_id) and step.isdecimal() and (entry := read_entry(store, f"{CHECKPOINTS}{name}.json")):
        return entry
    if RUN_ID.fullmatch(name) and (steps := steps_of(store, name)) and (entry := find(store, name, steps[-1])):
        return entry
    if _ALIAS.fullmatch(name) and (entry := _aliased(store, name)):
        return entry
    names = [found.key for found in store.list(CHECKPOINTS)]
    known = {*aliases(store), *(m[1] for key in names if (m := _KEY.fullmatch(key)))}
    known |= {f"{m[1]}/{m[2]}" for key in names if (m := _KEY.fullmatch(key)) and m[1] == run_id}
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"There is no checkpoint {name!r}.", f"{hint}`pippa checkpoints` lists them all.")


def set_alias(store: ObjectStore, alias: str, entry: CheckpointEntry) -> None:
    """Make ``alias`` a name of ``entry``, wherever it pointed before; garbage collection keeps what has a name.

    Raises ``UsageError`` for a name that is no alias or that pippa moves itself.
    """
    check_alias(alias)
    with relying_on(store, {entry.key}):
        if not store.exists(entry.key):
            raise UsageError(f"There is no checkpoint {entry.name} any more.", "`pippa checkpoints` lists them.")
        _write_alias(store, alias, entry)


def remove_alias(store: ObjectStore, alias: str) -> None:
    """Forget an alias; the checkpoint stays. Raises ``UsageError`` for one that there is not."""
    check_alias(alias)
    key = f"{ALIASES}{alias}.json"
    if store.info(key) is None:
        raise UsageError(f"There is no alias {alias!r}.", "`pippa checkpoints` shows the aliases of each checkpoint.")
    store.delete(key)


def aliases(store: ObjectStore, damage: list[DamagedObjectError] | None = None) -> dict[str, str]:
    """All aliases: name to ``<run id>/<step>``. Damaged ones are left out, and their errors put into ``damage``."""

    def read(alias: str) -> tuple[str, str] | None:
        target = alias_target(store, alias)
        return None if target is None else (alias, target)

    names = (parse_alias_key(found.key) for found in store.list(ALIASES))
    return dict(read_good(read, [name for name in names if name], damage))


def check_alias(alias: str) -> None:
    """Raise ``UsageError`` unless a user may set ``alias``."""
    if not _ALIAS.fullmatch(alias) or RUN_ID.fullmatch(alias.partition("/")[0]):
        raise UsageError(
            f"{alias!r} can't be an alias.",
            "Use lower-case letters, digits, '.', '_' and '-', with at most one '/': for example table-cleanup/good.",
        )
    if alias == "latest" or alias.endswith(("/latest", "/best")):
        raise UsageError(f"The alias {alias!r} is moved by pippa itself.", "Choose another name.")


def parse_entry_key(key: str) -> tuple[str, int] | None:
    """Run id and step an entry's key stands for; None for another key."""
    found = _KEY.fullmatch(key)
    return (found[1], int(found[2])) if found else None


def best_of_track(store: ObjectStore, entry: CheckpointEntry) -> CheckpointEntry | None:
    """The best checkpoint of the preset of ``entry`` on the same dataset name and data config; None for none."""
    alias = f"{entry.spec.preset}/best"
    try:
        current = _aliased(store, alias)
    except DamagedObjectError:
        current = restore_alias(store, alias)
    if current is not None and track(current) == track(entry):
        return current
    target = _best(store, alias).of.get(track(entry))
    return read_entry(store, f"{CHECKPOINTS}{target}.json") if target else None


def rests_on(store: ObjectStore, alias: str) -> str:
    """On what an alias that pippa moves by errors was decided, for people; empty for another one."""
    return _best(store, alias).rests_on


def parse_alias_key(key: str) -> str | None:
    """The alias whose object a key names; None for another key."""
    name = key.removeprefix(ALIASES).removesuffix(".json")
    return name if key == f"{ALIASES}{name}.json" and _ALIAS.fullmatch(name) else None


def moved_by_pippa(store: ObjectStore, alias: str) -> CheckpointEntry | None:
    """What an alias that pippa moves itself should name, judged by all entries; None for none, or a user's alias."""
    preset, _, kind = alias.rpartition("/")
    entries = [entry for entry in list_checkpoints(store) if not preset or entry.spec.preset == preset]
    if kind == "latest":
        return max(entries, key=lambda entry: (entry.created, entry.step), default=None)
    if kind == "best" and preset:
        return best_of(entries)
    return None


def restore_alias(store: ObjectStore, alias: str) -> CheckpointEntry | None:
    """Make a damaged alias that pippa moves itself name what it should; returns that, None when there is nothing."""
    entry = moved_by_pippa(store, alias)
    if entry is not None:
        with relying_on(store, {entry.key}):
            if not store.exists(entry.key):
                return None
            _write_alias(store, alias, entry)
    return entry


def _move_best(store: ObjectStore, entry: CheckpointEntry) -> None:
    reason = replaces(entry, best_of_track(store, entry))
    if reason is not None:
        alias = f"{entry.spec.preset}/best"
        known = _best(store, alias)
        best = Best(rests_on=reason, of={**known.of, track(entry): entry.name})
        _write_alias(store, alias, entry, best.model_dump())


def _best(store: ObjectStore, alias: str) -> Best:
    try:
        return Best.model_validate(store.read_json(f"{ALIASES}{alias}.json") or {})
    except (ValidationError, DamagedObjectError):
        return Best()


def _write_alias(
    store: ObjectStore, alias: str, entry: CheckpointEntry, more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    document = {"checkpoint": entry.name, "set": datetime.now(UTC).isoformat(), **more}
    store.write_json(f"{ALIASES}{alias}.json", document)


def alias_target(store: ObjectStore, alias: str) -> str | None:
    """The ``<run id>/<step>`` an alias names; None when there is no such alias. Raises ``DamagedObjectError``."""
    key = f"{ALIASES}{alias}.json"
    document = store.read_json(key)
    if document is None:
        return None
    target = document.get("checkpoint") if isinstance(document, dict) else None
    if not isinstance(target, str) or not parse_entry_key(f"{CHECKPOINTS}{target}.json"):
        raise damaged(key, "it names no checkpoint")
    return target


def _aliased(store: ObjectStore, alias: str) -> CheckpointEntry | None:
    target = alias_target(store, alias)
    return None if target is None else read_entry(store, f"{CHECKPOINTS}{target}.json")


def _unless_damaged(store: ObjectStore, alias: str) -> CheckpointEntry | None:
    try:
        return _aliased(store, alias)
    except DamagedObjectError:
        return None


def _intact(store: ObjectStore, entry: CheckpointEntry) -> CheckpointEntry | None:
    """The entry that is registered as ``entry`` would be; a damaged one is replaced by it."""
    try:
        return read_entry(store, entry.key)
    except DamagedObjectError:
        quarantine(store, entry.key)
        store.write_json(entry.key, entry.model_dump(mode="json"), if_absent=True)
        return read_entry(store, entry.key)


def read_entry(store: ObjectStore, key: str) -> CheckpointEntry | None:
    """The entry at ``key``; None when there is none. Raises ``DamagedObjectError``."""
    document = store.read_json(key)
    if document is None:
        return None
    try:
        entry = CheckpointEntry.model_validate(document)
    except ValidationError as error:
        raise damaged(key, f"{first_problem(error, CheckpointEntry)} (or it comes from a newer pippa)") from error
    if entry.key != key:
        raise damaged(key, f"it is that of {entry.name}")
    if not parse_manifest_key(manifest_key(entry.snapshot)):
        raise damaged(key, f"{entry.snapshot} can't be a snapshot")
    return entry
