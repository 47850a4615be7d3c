"""From the name of a dataset or a base model to a snapshot in the object store, skipping what is already there.

What a name means, first rule that fits:

1. It begins with ``/``, ``.`` or ``~``: a folder. So is ``some/folder`` when it exists here.
2. ``synthetic.PickNPlace`` (a dataset) and ``tiny`` (a base model): generated.
3. ``NAME`` or ``NAME@DIGEST``: a snapshot in the store, by default the latest of that name.
4. ``OWNER/NAME`` or ``OWNER/NAME@REVISION``: the snapshot of that name in the store; when there is none, that
   repository of the Hugging Face hub.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer import base_model as base_model_folder
from trainer.errors import DatasetError, PippaError, UsageError
from trainer.spec import SnapshotRef
from trainer.store import snapshots
from trainer.store.client import ObjectStore
from trainer.store.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

SYNTHETIC = "synthetic.PickNPlace"
TINY = "tiny"
DEMO = "robot_sim.PickNPlace"
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_STORED = re.compile(r"([\w.-]+)(?:@([0-9a-f]{6,64}))?")

Kind = Literal["dataset", "model"]
Log = Callable[[str], None]


def dataset(
    store: ObjectStore,
    name: str,
    work: Path,
    *,
    data_config: str | None = None,
    store_name: str | None = None,
    log: Log = lambda _: None,
) -> SnapshotRef:
    """The snapshot of the dataset called ``name`` (the module says what a name means), made or pushed if need be.

    A folder or download is checked against ``data_config``, where one is given, before it is pushed. ``work`` is a
    folder for temporary files; ``store_name`` is what a folder is called in the store, by default its own name.
    Raises ``UsageError`` for a name that leads nowhere, ``DatasetError`` for a dataset that training would fail on,
    ``StoreError``.
    """
    if is_folder(name):
        folder = _existing(name)
        require_valid(folder, data_config, name)
        return _push(store, folder, "dataset", store_name or _plain(folder.name), {"folder": str(folder)}, log)
    if name == SYNTHETIC:
        return _generated(store, "dataset", name, work, log)
    if ref := find(store, "dataset", name):
        return ref
    if not (match := _HUB_ID.fullmatch(name)):
        raise _unknown(store, "dataset", name)
    with _download(match[1], match[2], "dataset", work, log) as (folder, revision):
        require_valid(folder, data_config, name)
        return _push(store, folder, "dataset", match[1], {"hub": match[1], "revision": revision}, log)


def base_model(
    store: ObjectStore, name: str, work: Path, *, store_name: str | None = None, log: Log = lambda _: None
) -> SnapshotRef:
    """The snapshot of the base model called ``name``, made or pushed if need be; see ``dataset``.

    A GR00T N1.5 without a tokenizer, as NVIDIA's repository, gets the official one, so that training needs no hub.
    Another architecture, and weights that are not whole, are refused.
    """
    if is_folder(name):
        folder = _existing(name)
        if not (folder / "config.json").is_file():
            raise UsageError(f"{name} is not a model: it has no config.json.", "Name the folder that has one.")
        with _complete(folder, work, log) as (whole, origin):
            origin = {"folder": str(folder), **origin}
            return _push(store, whole, "model", store_name or _plain(folder.name), origin, log)
    if name == TINY:
        return _generated(store, "model", name, work, log)
    if ref := find(store, "model", name):
        return ref
    if not (match := _HUB_ID.fullmatch(name)):
        raise _unknown(store, "model", name)
    with _download(match[1], match[2], "model", work, log) as (folder, revision):
        if not (folder / "config.json").is_file():
            raise UsageError(f"{match[1]} is not a model: it has no config.json.", "Check the spelling.")
        with _complete(folder, work, log) as (whole, origin):
            return _push(store, whole, "model", match[1], {"hub": match[1], "revision": revision, **origin}, log)


@contextmanager
def _complete(folder: Path, work: Path, log: Log) -> Iterator[tuple[Path, dict[str, str]]]:
    """``folder``, or a temporary one of links to its files and a tokenizer, and where the tokenizer came from."""
    if not base_model_folder.is_groot(folder):
        yield folder, {}
        return
    base_model_folder.require_whole(folder)
    if base_model_folder.has_tokenizer(folder):
        yield folder, {}
        return
    tokenizer = base_model_folder.HUB_TOKENIZER
    log(f"The model has no tokenizer; taking {tokenizer} from the Hugging Face hub.")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="model-") as temporary:
        whole = Path(temporary)
        for file in folder.rglob("*"):
            if file.is_file():
                link = whole / file.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
        try:
            origin = base_model_folder.fetch_tokenizer(whole)
        except Exception as error:  # as in _download
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UsageError(
                f"The model has no tokenizer.json, and {tokenizer} can't be had from the Hugging Face hub "
                f"({_reason(error)}).",
                f"On a machine with network: `hf download {tokenizer} --local-dir TOKENIZER`; copy its *.json (not "
                "config.json) and merges.txt beside the model's files, then `trainer prepare base-model FOLDER`.",
            ) from error
        yield whole, {"tokenizer": origin}


def is_folder(name: str) -> bool:
    """Whether ``name`` means a folder, by the rule above."""
    return name.startswith(("/", ".", "~")) or ("/" in name and Path(name).is_dir())


def require_valid(folder: Path, data_config: str | None, name: str) -> None:
    """Check a dataset before anything costly touches it. Raises ``DatasetError`` with every problem and its fix."""
    if data_config is None:
        return
    from trainer.data.checks import check_dataset, format_problems

    problems = check_dataset(folder, data_config)
    if problems:
        raise DatasetError(
            f"{name} can't be trained on with --data-config {data_config}:\n{format_problems(problems)}",
            f"`pippa data check PATH --data-config {data_config}` checks it again in seconds.",
        )


def _existing(name: str) -> Path:
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise UsageError(f"There is no folder {name}.", f"It would be {folder}.")
    return folder


def _plain(name: str) -> str:
    """A folder's name as the store takes it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-_") or "folder"


def find(store: ObjectStore, kind: Kind, name: str) -> SnapshotRef | None:
    """The snapshot that ``name`` means when the store has it already; None for a folder and for what must be brought.

    Something generated counts only when this version's generator made it. Imports nothing heavy, so that whoever only
    orchestrates can ask.
    """
    if is_folder(name):
        return None
    if name == _GENERATED[kind][0]:
        return _made(store, kind, name)
    if (match := _STORED.fullmatch(name)) or (match := _HUB_ID.fullmatch(name)):
        plain, digest = match[1], match[2]
    else:
        return None
    if digest is None:
        return snapshots.latest(store, kind, plain)
    for info in snapshots.list_snapshots(store, kind):
        if info.ref.name == plain and (info.ref.digest.startswith(digest) or info.origin.get("revision") == digest):
            return info.ref
    return None


def _unknown(store: ObjectStore, kind: Kind, name: str) -> UsageError:
    what = "dataset" if kind == "dataset" else "base model"
    if Path(name).is_dir():
        return UsageError(f"There is no {what} called {name!r} in the store.", f"For the folder, write ./{name}")
    if kind == "dataset" and name.partition("@")[0] == DEMO:
        return UsageError(
            f"The demo dataset {DEMO} is not in the store.",
            f"It comes with Isaac-GR00T, in its demo_data folder: `pippa data push PATH --name {DEMO}`, "
            f"or train on the folder itself: --dataset-path ./PATH",
        )
    known = sorted({info.ref.name for info in snapshots.list_snapshots(store, kind)} | {_GENERATED[kind][0]})
    near = difflib.get_close_matches(name.partition("@")[0], known, n=1, cutoff=0.5)
    push = "pippa data push PATH --name NAME" if kind == "dataset" else "trainer prepare base-model PATH"
    return UsageError(
        f"There is no {what} called {name!r}.",
        (f"Did you mean {near[0]}? " if near else f"The store has {', '.join(known)}. ")
        + f"`{push}` adds one; OWNER/NAME takes one from the Hugging Face hub, ./PATH from a folder.",
    )


_GENERATED: dict[Kind, tuple[str, str, str]] = {
    "dataset": (SYNTHETIC, "trainer.data.synthetic", "make_synthetic"),
    "model": (TINY, "trainer.gr00t.tiny", "make_tiny_base_model"),
}
"""What can be generated: its name, and the module and function that make it."""


def _made(store: ObjectStore, kind: Kind, name: str) -> SnapshotRef | None:
    """What this version of the generator made, when the store has it."""
    ref = snapshots.latest(store, kind, name)
    if ref and read_manifest(store, ref).origin.get("generator_sha256") == _generator_sha256(kind):
        return ref
    return None


def _generator_sha256(kind: Kind) -> str:
    module = _GENERATED[kind][1]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise PippaError(f"{module} is missing.", "Install pippa with its `trainer` dependencies: `uv sync`.")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _generated(store: ObjectStore, kind: Kind, name: str, work: Path, log: Log) -> SnapshotRef:
    """Generate ``name`` unless the store has what this version of the generator makes."""
    if ref := _made(store, kind, name):
        return ref
    _, module, function = _GENERATED[kind]
    source = _generator_sha256(kind)
    log(f"Making {name}.")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="make-") as temporary:
        folder = Path(temporary) / name
        # In a child: the generator may import torch, and this process stays light.
        code = f"import sys, pathlib; from {module} import {function}; {function}(pathlib.Path(sys.argv[1]))"
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PippaError(f"{name} could not be made:\n{done.stderr.strip()[-2000:]}")
        return _push(store, folder, kind, name, {"generator": module, "generator_sha256": source}, log)


def _push(store: ObjectStore, folder: Path, kind: Kind, name: str, origin: dict[str, str], log: Log) -> SnapshotRef:
    result = snapshots.push(store, folder, kind, name, origin=origin)
    log(f"{result.ref}: {result.files} files, {result.bytes_uploaded:,} of {result.bytes_total:,} bytes uploaded.")
    return result.ref


@contextmanager
def _download(hub_id: str, revision: str | None, kind: Kind, work: Path, log: Log) -> Iterator[tuple[Path, str]]:
    """A temporary download of a repository of the hub, and its commit."""
    import huggingface_hub
    from huggingface_hub import errors

    log(f"Downloading {hub_id} from the Hugging Face hub.")
    work.mkdir(parents=True, exist_ok=True)
    command = f"hf download {hub_id} --repo-type {kind} --local-dir FOLDER"
    push = {"dataset": "pippa data push", "model": "trainer prepare base-model"}[kind] + f" FOLDER --name {hub_id}"
    with tempfile.TemporaryDirectory(dir=work, prefix="hub-") as temporary:
        try:
            info = huggingface_hub.HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=30)
            commit = info.sha or "main"
            folder = Path(temporary) / "snapshot"
            huggingface_hub.snapshot_download(hub_id, repo_type=kind, revision=commit, local_dir=folder)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError) as error:
            raise UsageError(
                f"The Hugging Face hub has no {kind} {hub_id}{f' at {revision}' if revision else ''} for this account.",
                "Check the spelling. For a private or gated one, accept its terms on the hub and set HF_TOKEN.",
            ) from error
        except Exception as error:  # the client lets through the errors of whichever HTTP library it is built on
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _unreachable(hub_id, error, command, push) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own bookkeeping
        yield folder, commit


def _unreachable(hub_id: str, error: Exception, download: str, push: str) -> UsageError:
    return UsageError(
        f"{hub_id} is not in the store, and it can't be had from the Hugging Face hub ({_reason(error)}).",
        f"On a machine with network: `{download}`; then here: `{push}`.",
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
