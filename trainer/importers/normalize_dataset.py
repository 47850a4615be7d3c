"""From a folder as it was recorded or downloaded to one that can be trained on: its layout, its modality, the check."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.data_options import DataOptions
from trainer.config.settings import pippa_home
from trainer.data.data_config import DataConfig
from trainer.data.n17.embodiments import registered
from trainer.data.problem import Problem
from trainer.errors import DatasetError, UsageError
from trainer.importers.downloads import Log
from trainer.store import tree

if TYPE_CHECKING:
    from trainer.data.checks import Checked

Progress = Callable[[int, int], None]
Warn = Callable[[Problem], None]

BOOKKEEPING = (".git", ".cache")
"""What git and the hub's client leave beside the files; no part of a snapshot."""


def ignored(path: str) -> bool:
    """Whether a POSIX path of a folder stays out of its snapshot."""
    return path in BOOKKEEPING


@contextlib.contextmanager
def normalized(
    folder: Path,
    data_config: str | DataConfig | None,
    name: str,
    work: Path,
    log: Log = lambda _: None,
    *,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    warn: Warn = lambda _: None,
    progress: Progress | None = None,
) -> Iterator[tuple[Path, dict[str, str]]]:
    """``folder``, or a temporary one in ``work`` made from it, as GR00T N1.5 reads it; and what was changed, as origin.

    LeRobot v3 becomes v2.1. A missing ``meta/modality.json`` is added for the arms pippa knows. ``folder`` itself is
    left as it is. What can be trained on and is probably not meant goes to ``warn``.
    Raises ``DatasetError`` for what can't be converted, does not fit ``data_config``, or is no data.
    """
    from trainer.data.known_robots import fitting_modality, to_json
    from trainer.data.layout_v3 import convert_to_v21, is_v3

    refuse_pointers(folder, name)
    _require_parts(folder, name, checked_later=data_config is not None)
    version = is_v3(folder)
    ready, changed = folder, {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_named(name, folder, work))

        def temporary() -> Path:
            work.mkdir(parents=True, exist_ok=True)
            return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work, prefix="fit-"))) / "dataset"

        if version:
            log(f"Converting {name} from LeRobot {version} to v2.1, which GR00T N1.5 reads.")
            ready = convert_to_v21(folder, temporary(), _used_cameras(folder, data_config), log)
            changed["converted"] = f"LeRobot {version}"
        if modality := fitting_modality(ready, data_config):
            if ready == folder:
                ready = linked(folder, temporary())
            (ready / "meta/modality.json").write_text(to_json(modality), encoding="utf-8")
            changed["modality"] = "added"
            log(f"{name} has no meta/modality.json; adding the one that fits its cameras and joints.")
        for warning in require_valid(ready, data_config, name, options, progress).warnings:
            warn(warning)
        yield ready, changed


def _require_parts(folder: Path, name: str, *, checked_later: bool) -> None:
    """Raise ``DatasetError`` for a folder without the parts that every LeRobot dataset has, whatever its version.

    Where a data config is given the check says more about what else is missing.
    """
    parts = {"meta/info.json": ["meta/info.json"]}
    if not checked_later:
        parts["meta/episodes.jsonl"] = ["meta/episodes.jsonl", "meta/episodes/**/*.parquet"]  # v2, v3
        parts["data/**/*.parquet"] = ["data/**/*.parquet"]
    missing = [part for part, patterns in parts.items() if not any(any(folder.glob(each)) for each in patterns)]
    if missing:
        raise DatasetError(
            f"{name} is not a LeRobot dataset: it has no {' and no '.join(missing)}.",
            "Name the folder that has `meta`, `data` and `videos` in it.",
        )


def _used_cameras(folder: Path, data_config: str | DataConfig | None) -> set[str] | None:
    """The features that the data config's cameras come from; None where that is not known yet."""
    from trainer.data.configs import get_data_config
    from trainer.data.dataset_meta import load_modality
    from trainer.data.known_robots import MODALITIES

    if data_config is None:
        return None
    try:
        modality = load_modality(folder)
    except DatasetError:
        modality = MODALITIES.get(str(data_config))
    if modality is None:
        return None
    return {modality.column("video", key) for key in get_data_config(data_config).video if key in modality.video}


def require_valid(
    folder: Path,
    data_config: str | DataConfig | None,
    name: str,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Checked:
    """Check a dataset before anything costly touches it, unless this machine has checked the same files before.

    What is said of its files names it ``name``. Without a ``data_config`` nothing is looked at.
    Raises ``DatasetError`` with every problem and its fix.
    """
    from trainer.data.checks import Checked, Memory, check_dataset, format_problems

    if data_config is None:
        return Checked([])
    memory = Memory(pippa_home() / "cache" / "data.sqlite")
    checked = check_dataset(folder, data_config, options=options, memory=memory, progress=progress)
    if checked.problems:
        known = isinstance(data_config, DataConfig) and registered().get(data_config.name) == data_config
        shown = str(data_config) if known or isinstance(data_config, str) else "FILE"
        if options.generation != "N1.5":
            shown += f" --generation {options.generation}"
        problems = format_problems(checked.problems).replace(f"{folder}/", f"{name}: ")
        raise DatasetError(
            f"{name} can't be trained on with --data-config {data_config}:\n{problems}",
            f"`pippa data check PATH --data-config {shown}` checks it again in seconds.",
        )
    named = [each._replace(message=each.message.replace(f"{folder}/", f"{name}: ")) for each in checked.warnings]
    return replace(checked, warnings=named)


def refuse_pointers(folder: Path, name: str) -> None:
    """Raise ``DatasetError`` when a file is git-lfs's placeholder instead of the data, or no file of the folder."""
    from trainer.data.meta_files import LFS_POINTER

    try:
        files = tree.scan(folder, ignored)
    except UsageError as error:
        raise DatasetError(error.message, error.hint) from error
    for file in files:
        # A pointer is some 130 bytes.
        if file.size < 1024:
            with file.source.open("rb") as stream:
                if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise DatasetError(
                        f"{name}: {file.path} is a git-lfs pointer, not the data.",
                        "In the clone: `git lfs install && git lfs pull`. Or let pippa fetch it: "
                        "`pippa data add git+https://HOST/OWNER/REPOSITORY@REF#FOLDER`.",
                    )


def linked(folder: Path, into: Path) -> Path:
    """A folder of links to the files of ``folder``, to which files can be added."""
    for file in tree.scan(folder, ignored):
        link = into / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.source.resolve())
    return into


@contextlib.contextmanager
def _named(name: str, folder: Path, work: Path) -> Iterator[None]:
    """Problems name the files of the dataset, not those of a temporary folder in ``work``."""
    try:
        yield
    except DatasetError as error:
        places = rf"{re.escape(str(work))}/fit-[^/]+/dataset/|{re.escape(str(folder))}/"
        raise DatasetError(re.sub(places, lambda _: f"{name}: ", error.message), error.hint) from error
