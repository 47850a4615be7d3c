"""From the name of a dataset or a base model to a snapshot in the object store, skipping what is already there.

What a name means, first rule that fits:

1. It begins with ``/``, ``.`` or ``~``: a folder. So is ``some/folder`` when it exists here.
2. ``synthetic.PickNPlace`` (a dataset), ``tiny`` and ``tiny-n17`` (base models): generated.
3. ``git+https://HOST/REPOSITORY@REF#FOLDER`` and ``s3://BUCKET/PREFIX``: from there, once; then from the store.
4. ``NAME`` or ``NAME@DIGEST``: a snapshot in the store, by default the latest of that name. Isaac-GR00T's demo data,
   ``robot_sim.PickNPlace`` and ``cube_to_bowl_5``, is fetched from its git repository when the store has none.
5. ``OWNER/NAME`` or ``OWNER/NAME@REVISION``: the snapshot of that name in the store; when there is none, that
   repository of the Hugging Face hub.

What the store has is never asked of its source again, unless ``refresh`` says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.config.data_options import DataOptions
from trainer.config.run_spec import SnapshotRef
from trainer.data.data_config import DataConfig
from trainer.errors import UsageError
from trainer.importers import generated, git, hub, models, normalize_dataset, s3
from trainer.importers.downloads import Log, Report, folder_for
from trainer.importers.names import (
    DEMO,
    DEMOS,
    GENERATED,
    SYNTHETIC,
    TINY,
    Folder,
    Generated,
    GitFolder,
    HubRepository,
    Kind,
    S3Prefix,
    Source,
    Stored,
    default_name,
    describe,
    is_folder,
    parse,
)
from trainer.importers.normalize_dataset import require_valid
from trainer.store import snapshots
from trainer.store.object_store import ObjectStore

__all__ = [
    "DEMO",
    "SYNTHETIC",
    "TINY",
    "Kind",
    "Log",
    "Report",
    "base_model",
    "dataset",
    "describe",
    "downloads_folder",
    "existing",
    "find",
    "is_folder",
    "require_known",
    "require_valid",
]  # fmt: skip


def downloads_folder(home: Path) -> Path:
    """Where downloads lie until the store has them: in the cache, which containers share, so that one continues."""
    return home / "cache" / "downloads"


def dataset(
    store: ObjectStore,
    name: str,
    work: Path,
    *,
    data_config: str | DataConfig | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    store_name: str | None = None,
    refresh: bool = False,
    log: Log = lambda _: None,
    warn: normalize_dataset.Warn = lambda _: None,
    report: Report | None = None,
) -> SnapshotRef:
    """The snapshot of the dataset called ``name`` (the module says what a name means), imported or made if need be.

    A dataset is made fit for training (``normalized``) and checked against ``data_config``, where one is given, before
    it is pushed, read as ``options`` say. ``work`` is a folder for downloads and temporary files, ``store_name`` the
    name in the store.
    ``report`` gets the bytes downloaded, then those pushed, ``warn`` what is odd about a dataset that will do. Raises
    ``UsageError`` for a name that leads nowhere, ``DatasetError`` for a dataset that training would fail on,
    ``StoreError``, ``DiskFullError``.
    """
    source, ref = _looked_up(store, "dataset", name, store_name, refresh)
    if ref:
        return ref
    called = store_name or default_name(source)
    with _fetched(store, "dataset", source, called, work, refresh, log, report) as found:
        if isinstance(found, SnapshotRef):
            return found
        folder, origin = found
        if isinstance(source, Generated):
            return _push(store, folder, "dataset", called, origin, log, report)
        with normalize_dataset.normalized(folder, data_config, name, work, log, options=options, warn=warn) as made:
            ready, changed = made
            return _push(store, ready, "dataset", called, {**origin, **changed}, log, report, links_into=folder)


def base_model(
    store: ObjectStore,
    name: str,
    work: Path,
    *,
    store_name: str | None = None,
    refresh: bool = False,
    log: Log = lambda _: None,
    report: Report | None = None,
) -> SnapshotRef:
    """The snapshot of the base model called ``name``, imported or made if need be; see ``dataset``.

    A GR00T without a tokenizer, as in NVIDIA's repositories, gets the official one, so that training needs no hub.
    Another architecture, and weights that are not whole, are refused. The licence of the weights is shown, and kept.
    """
    source, ref = _looked_up(store, "model", name, store_name, refresh)
    if ref:
        return ref
    called = store_name or default_name(source)
    with _fetched(store, "model", source, called, work, refresh, log, report) as found:
        if isinstance(found, SnapshotRef):
            return found
        folder, origin = found
        with models.completed(folder, name, work, log) as (whole, more):
            if not isinstance(source, Generated):
                more = {**more, **models.licensed(whole, log)}
            return _push(store, whole, "model", called, {**origin, **more}, log, report, links_into=folder)


def find(store: ObjectStore, kind: Kind, name: str, store_name: str | None = None) -> SnapshotRef | None:
    """The snapshot that ``name`` means when the store has it already; None for a folder and for what must be imported.

    Something generated counts only when this version's generator made it. Imports nothing heavy, so that one who only
    orchestrates can ask.
    """
    source = parse(kind, name)
    return None if source is None else _found(store, kind, source, store_name)


def existing(store: ObjectStore, name: str) -> SnapshotRef:
    """The dataset in the store that ``name`` means; nothing is imported. Raises ``UsageError`` where there is none."""
    if ref := find(store, "dataset", name):
        return ref
    raise UsageError(f"There is no dataset {name!r} in the store.", "`pippa data list` lists them.")


def require_known(kind: Kind, names: Sequence[str], store: Callable[[], ObjectStore | None]) -> None:
    """Raise ``UsageError`` for the first of ``names`` that must be in the store and is not, or that means nothing.

    ``store`` opens it, and is called only if need be; None stands for an empty one.
    """
    for name in names:
        source = parse(kind, name)
        if source is None or isinstance(source, Stored):
            opened = store()
            if source is None or opened is None or _found(opened, kind, source, None) is None:
                raise _unknown(opened, kind, name)


def _looked_up(
    store: ObjectStore, kind: Kind, name: str, store_name: str | None, refresh: bool
) -> tuple[Source, SnapshotRef | None]:
    """What ``name`` means, and the snapshot of it that will do. Raises ``UsageError`` for a name that leads nowhere."""
    source = parse(kind, name)
    if source is None:
        raise _unknown(store, kind, name)
    ref = None if refresh and not isinstance(source, Stored) else _found(store, kind, source, store_name)
    if ref is None and isinstance(source, Stored):
        raise _unknown(store, kind, name)
    return source, ref


def _found(store: ObjectStore, kind: Kind, source: Source, called: str | None) -> SnapshotRef | None:
    match source:
        case Folder():
            return None
        case Generated(name):
            return generated.stored(store, kind, name)
        case Stored(name, None):
            return snapshots.latest(store, kind, name)
        case HubRepository(id, None):
            return snapshots.latest(store, kind, called or id)
        case GitFolder(store_name=name) if name in DEMOS:
            # A person who pushed the demo data by hand means it, too.
            return snapshots.latest(store, kind, called or name)
    name = called or default_name(source)
    # Listed the oldest first.
    for info in reversed(snapshots.list_snapshots(store, kind)):
        if info.ref.name == name and _is_of(source, info):
            return info.ref
    return None


def _is_of(source: Source, info: snapshots.SnapshotInfo) -> bool:
    """Whether a snapshot of the right name was taken from ``source``, at the revision it names."""
    origin = info.origin
    match source:
        case Stored(_, str(digest)):
            return info.ref.digest.startswith(digest)
        case HubRepository(_, str(revision)):
            return info.ref.digest.startswith(revision) or revision in (origin.get("revision"), origin.get("ref"))
        case GitFolder(url, ref, path):
            same = (origin.get("git"), origin.get("path", "")) == (url, path)
            return same and ref in (origin.get("revision"), origin.get("ref"))
        case S3Prefix():
            return origin.get("s3") == source.url
    return False


@contextmanager
def _fetched(
    store: ObjectStore,
    kind: Kind,
    source: Source,
    called: str,
    work: Path,
    refresh: bool,
    log: Log,
    report: Report | None,
) -> Generator[tuple[Path, dict[str, str]] | SnapshotRef]:
    """The files of ``source`` in a folder, and their origin; or the snapshot, when the store has that revision."""
    match source:
        case Folder():
            folder = source.existing()
            yield folder, {"folder": str(folder)}
        case Generated(name):
            with folder_for(work, called, f"generated {name}") as folder:
                # As below: several first trainings at once would make it several times, each with its own torch.
                if not refresh and (ref := generated.stored(store, kind, name)):
                    yield ref
                    return
                with generated.made(kind, name, folder, log) as made:
                    yield made
        case HubRepository():
            commit = hub.commit_of(source, kind, called)
            origin = {"hub": source.id, "revision": commit}
            with folder_for(work, called, f"hub {kind} {source.id} {commit}") as folder:
                # Asked under the lock: its holder before may have just pushed it.
                if ref := _with_origin(store, kind, called, origin):
                    yield ref
                    return
                if kind == "model":
                    # What it is says the smallest file, before gigabytes are fetched.
                    hub.download(source, commit, kind, folder, called, lambda _: None, only=("config.json",))
                    models.require_supported(folder)
                hub.download(source, commit, kind, folder, called, log, report)
                yield folder, origin | _asked(source.revision, commit)
        case GitFolder():
            with folder_for(work, called, f"git {source.url} {source.path}") as folder:
                commit = git.fetch(source, folder, log)
                origin = {"git": source.url, "path": source.path, "revision": commit}
                if ref := _with_origin(store, kind, called, origin):
                    yield ref
                    return
                yield git.check_out(source, folder, commit, log, report), origin | _asked(source.ref, commit)
        case S3Prefix():
            settings = s3.settings_for(source, store)
            listing = s3.listing(source, settings)
            origin = {"s3": source.url, "endpoint": settings.endpoint, "revision": listing.revision}
            with folder_for(work, called, f"s3 {settings.endpoint} {source.url} {listing.revision}") as folder:
                if ref := _with_origin(store, kind, called, origin):
                    yield ref
                    return
                s3.download(source, listing, folder, log, report)
                yield folder, origin
        case Stored():
            raise AssertionError("what the store lacks was refused before")


def _asked(ref: str | None, commit: str) -> dict[str, str]:
    """The requested branch or tag, so that the same request is answered from the store next time."""
    return {"ref": ref} if ref and ref != commit else {}


def _with_origin(store: ObjectStore, kind: Kind, called: str, origin: dict[str, str]) -> SnapshotRef | None:
    """The latest snapshot of that name when it is what ``origin`` says."""
    ref = snapshots.latest(store, kind, called)
    if ref is None:
        return None
    known = next(info.origin for info in snapshots.list_snapshots(store, kind) if info.ref == ref)
    return ref if origin.items() <= known.items() else None


def _push(
    store: ObjectStore,
    folder: Path,
    kind: Kind,
    name: str,
    origin: dict[str, str],
    log: Log,
    report: Report | None = None,
    links_into: Path | None = None,
) -> SnapshotRef:
    ignored = normalize_dataset.ignored
    result = snapshots.push(
        store, folder, kind, name, origin=origin, ignore=ignored, links_into=links_into, progress=report
    )
    log(f"{result.ref}: {result.files} files, {result.bytes_uploaded:,} of {result.bytes_total:,} bytes uploaded.")
    return result.ref


def _unknown(store: ObjectStore | None, kind: Kind, name: str) -> UsageError:
    what = "dataset" if kind == "dataset" else "base model"
    if Path(name).is_dir():
        return UsageError(f"There is no {what} called {name!r} in the store.", f"For the folder, write ./{name}")
    stored = [] if store is None else snapshots.list_snapshots(store, kind)
    known = sorted({info.ref.name for info in stored} | set(GENERATED[kind]))
    what_else = (
        "`pippa data push PATH --name NAME` adds a folder, `pippa data add` one of the hub, git or S3."
        if kind == "dataset"
        else "`pippa models add` imports one from the hub, git, S3 or a folder."
    )
    near = difflib.get_close_matches(name.partition("@")[0], [*known, *DEMOS], n=1, cutoff=0.5)
    return UsageError(
        f"There is no {what} called {name!r}.",
        (f"Did you mean {near[0]}? " if near else f"The store has {', '.join(known)}. ") + what_else,
    )
