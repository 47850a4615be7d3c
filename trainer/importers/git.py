"""Folders of git repositories, with git and git-lfs: of the repository no more is fetched than the folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from trainer.errors import DiskFullError, UsageError
from trainer.importers.downloads import Log, Report, watched
from trainer.importers.names import GitFolder
from trainer.masking import without_our_secrets

_OTHER_REPOSITORY = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}


_POINTER = b"version https://git-lfs.github.com/spec/"
_WITHOUT_LFS = [part for name in ("process", "smudge", "clean") for part in ("-c", f"filter.lfs.{name}=")]
"""A user's settings may call a git-lfs that is not installed."""


def require(tool: str, source: GitFolder, why: str = "") -> None:
    """Raise ``UsageError`` unless ``tool`` is installed."""
    if shutil.which(tool) is None:
        raise UsageError(
            f"{tool} is not installed here{why}.",
            f"`apt-get install {tool}` (or your system's way). On a machine that has it: clone {source.url}, and "
            f"`pippa data push CLONE/{source.path} --name {source.store_name}`. The trainer image has it too: "
            "`pippa train PRESET --launcher docker` imports a dataset there.",
        )


def fetch(source: GitFolder, folder: Path, log: Log) -> str:
    """Fetch what ``source.ref`` is now into the repository ``folder``, without any file; returns its commit.

    Raises ``UsageError`` when the repository, the ref or the folder in it is not available.
    """
    require("git", source)
    log(f"Fetching {source.ref} of {source.url} with git.")
    if not (folder / ".git/HEAD").is_file():
        _git(source, folder, "init", "--quiet")
    for lock in (folder / ".git").rglob("*.lock"):
        lock.unlink()  # of a git that was killed; no other process works here
    for name, value in {
        "remote.origin.url": source.url,
        # Blobs are fetched when they are checked out, and only those.
        "remote.origin.promisor": "true",
        "remote.origin.partialclonefilter": "blob:none",
        # A link could lead anywhere on this machine, and its target would be pushed.
        "core.symlinks": "false",
        "core.autocrlf": "false",
        "gc.auto": "0",
    }.items():
        _git(source, folder, "config", name, value)
    _git(source, folder, "fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "origin", source.ref)
    commit = _git(source, folder, "rev-parse", "FETCH_HEAD^{commit}").strip()
    _require_folder(source, folder, commit)
    return commit


def check_out(source: GitFolder, folder: Path, commit: str, log: Log, report: Report | None) -> Path:
    """Fetch the files of ``source.path`` at ``commit``, git-lfs pointers resolved; returns where they are.

    git-lfs is needed only where there are pointers: Isaac-GR00T's demo data lies in plain git.

    Contents that an earlier attempt fetched are not fetched again; git and git-lfs verify each by its hash. Raises
    ``UsageError`` and ``DiskFullError``.
    """
    # git-lfs as a filter sees just the files that are checked out, and downloads them side by side. Its own `pull`
    # would look at every blob of the repository, and so fetch them all.
    has_lfs = shutil.which("git-lfs") is not None
    if has_lfs:
        _git(source, folder, "lfs", "install", "--local", "--skip-repo")
    pattern = f"/{source.path}/" if source.path else "/*"
    _git(source, folder, "sparse-checkout", "set", "--no-cone", pattern)
    with watched(folder, source.store_name, 0, log, report):
        options = [] if has_lfs else [*_WITHOUT_LFS, "-c", "filter.lfs.required=false"]
        _git(source, folder, *options, "checkout", "--quiet", "--force", "--detach", commit)
    if not has_lfs and (pointer := _first_pointer(folder / source.path)):
        require("git-lfs", source, f", and {pointer.relative_to(folder)} of {source.url} lies in git-lfs")
    return folder / source.path


def _first_pointer(folder: Path) -> Path | None:
    """A file under ``folder`` that git-lfs would have to replace; None where there is none."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and ".git" not in file.relative_to(folder).parts:
            with file.open("rb") as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    return file
    return None


def _require_folder(source: GitFolder, folder: Path, commit: str) -> None:
    # Trees are there, blobs are not; without --long git asks for none.
    paths = ["--", f"{source.path}/"] if source.path else []
    entries = _git(source, folder, "ls-tree", "-r", "-z", commit, *paths).split("\0")
    if not any(entries):
        raise UsageError(
            f"{source.url} has no folder {source.path} at {source.ref} (commit {commit[:12]}).",
            "Check the spelling; the part after # is the folder's path in the repository.",
        )
    for entry in entries:
        if entry.startswith(("120000", "160000")):
            what = "a link" if entry.startswith("12") else "a submodule"
            raise UsageError(
                f"{entry.partition(chr(9))[2]} in {source.url} is {what}; a snapshot holds files only.",
                f"Clone it, replace that by the files, and `pippa data push PATH --name {source.store_name}`.",
            )


def _git(source: GitFolder, folder: Path, *arguments: str) -> str:
    # Run from a git hook, it would inherit the other repository.
    environ = {name: value for name, value in without_our_secrets(os.environ).items() if name not in _OTHER_REPOSITORY}
    # It must fail, not ask, where it has no credentials; and a setting against downloading would leave pointers.
    environ |= {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env=environ,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    if "No space left on device" in done.stderr:
        raise DiskFullError(f"No space left in {folder.parent}.", "Free some; the download is continued then.")
    detail = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in detail if line.startswith(("fatal:", "error:", "batch response:", "Error "))] or detail
    at = "" if source.ref == "HEAD" else f" -b {source.ref}"
    raise UsageError(
        f"git can't fetch {source.path or 'the files'} of {source.url} at {source.ref}: {' '.join(telling[:3])[:700]}",
        f"On a machine that can: `git clone{at} {source.url} CLONE` with git-lfs installed; then here: "
        f"`pippa data push CLONE/{source.path} --name {source.store_name}`.",
    )
