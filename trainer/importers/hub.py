"""Repositories of the Hugging Face hub, with its own client: resumed, and verified against the hub's hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.settings import hub_token
from trainer.disk import is_disk_full, require_space
from trainer.errors import PippaError, UsageError
from trainer.importers.downloads import ANOTHER_DISK, Log, Report, watched
from trainer.importers.names import HubRepository, Kind
from trainer.store.parallel import for_each

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

READERS = 4


@dataclass(frozen=True)
class HubFile:
    """What the hub says of one file."""

    path: str
    size: int
    git_sha1: str
    sha256: str | None
    """Of large files only; the others have their git hash."""

    def is_in(self, folder: Path) -> bool:
        """Whether ``folder`` has exactly this file. Reads and hashes it."""
        file = folder / self.path
        if not file.is_file() or file.stat().st_size != self.size:
            return False
        with file.open("rb") as stream:
            if self.sha256:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
            prefix = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
            return hashlib.file_digest(stream, lambda: prefix).hexdigest() == self.git_sha1


def commit_of(repository: HubRepository, kind: Kind, store_name: str) -> str:
    """The commit the repository's revision is now. Raises ``UsageError``."""
    api = client()
    with _explained(repository, kind, store_name):
        info = api.repo_info(repository.id, repo_type=kind, revision=repository.revision, timeout=30)
        return info.sha or "main"


def download(
    repository: HubRepository,
    commit: str,
    kind: Kind,
    folder: Path,
    store_name: str,
    log: Log,
    report: Report | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Fetch the repository at ``commit`` into ``folder``, verified; files that are there already are not fetched again.

    ``only`` names the files that are wanted. The client keeps its bookkeeping in ``folder/.cache``. Raises
    ``UsageError`` and ``DiskFullError``.
    """
    import huggingface_hub

    huggingface_hub.utils.disable_progress_bars()  # they tear the lines of a log and of our own bar
    with _explained(repository, kind, store_name):
        listed = client().list_repo_tree(repository.id, recursive=True, repo_type=kind, revision=commit)
        files = [
            _described(entry)
            for entry in listed
            if isinstance(entry, huggingface_hub.hf_api.RepoFile) and (only is None or entry.path in only)
        ]
    total = sum(file.size for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    for partial in (folder / ".cache").rglob("*.incomplete"):
        partial.unlink()  # of a killed client, which continues by files: it never looks at these again
    require_space(folder, total, repository.id, ANOTHER_DISK)
    log(f"Downloading {repository.id} from the Hugging Face hub: {len(files)} files, {total / 1e6:,.1f} MB.")
    for _ in range(2):
        with _explained(repository, kind, store_name), watched(folder, repository.id, total, log, report):
            huggingface_hub.snapshot_download(
                repository.id,
                repo_type=kind,
                revision=commit,
                local_dir=folder,
                token=hub_token(),
                allow_patterns=None if only is None else list(only),
            )
        whole = for_each(lambda file: file.is_in(folder), files, workers=READERS)
        broken = [file.path for file, fine in zip(files, whole, strict=True) if not fine]
        if not broken:
            return
        log(f"{len(broken)} files are not what the hub says they are, such as {broken[0]}; fetching them again.")
        for path in broken:
            (folder / path).unlink(missing_ok=True)
    raise PippaError(
        f"{broken[0]} of {repository.id} does not have the hash that the hub states, also when fetched again.",
        "Is a proxy in between that changes or cuts downloads? HF_ENDPOINT names another way to the hub.",
    )


def _described(entry: RepoFile) -> HubFile:
    lfs = entry.lfs
    return HubFile(entry.path, lfs.size if lfs else entry.size, entry.blob_id, lfs.sha256 if lfs else None)


def client() -> HfApi:
    """The hub's own client, with the token of the settings. Raises ``UsageError`` where it is not installed."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UsageError(
            "The Hugging Face client is not installed here.",
            "In a checkout: `uv sync`. The trainer image has it: the deployments `pull-dataset` and `pull-base-model` "
            "of the compose stack and `pippa train PRESET --launcher docker` import what is missing there.",
        ) from None
    return HfApi(token=hub_token())


@contextmanager
def _explained(repository: HubRepository, kind: Kind, store_name: str) -> Generator[None]:
    from huggingface_hub import errors

    try:
        yield
    except PippaError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at {repository.revision}" if repository.revision else ""
        raise UsageError(
            f"The Hugging Face hub has no {kind} {repository.id}{at} for this account.",
            "Check the spelling. For a private or gated one, accept its terms on the hub and set HF_TOKEN.",
        ) from error
    except Exception as error:  # the client lets through the errors of whichever HTTP library it is built on
        if is_disk_full(error):
            raise
        push = {"dataset": "pippa data push", "model": "pippa models add"}[kind]
        raise UsageError(
            f"{repository.id} is not in the store, and the Hugging Face hub does not provide it ({reason(error)}).",
            f"On a machine with network: `hf download {repository.id} --repo-type {kind} --local-dir FOLDER`; then "
            f"here: `{push} ./FOLDER --name {store_name}`.",
        ) from error


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
