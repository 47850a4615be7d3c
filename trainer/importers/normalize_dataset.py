"""From a folder as it was recorded or downloaded to one that can be trained on: its layout, its modality, the check."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.data_options import DataOptions
from trainer.config.settings import pippa_home
from trainer.data.configs import is_built_in
from trainer.data.data_config import DataConfig
from trainer.data.exclusion import named_episodes, numbers_as_texts, numbers_of
from trainer.data.problem import Problem
from trainer.errors import DatasetError, UsageError
from trainer.generation import DEFAULT
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
) -> Generator[tuple[Path, dict[str, str]]]:
    """``folder``, or a temporary one in ``work`` made from it, as it can be trained on; and what was changed.

    A missing ``meta/modality.json`` is added for the arms pippa knows. ``folder`` itself is left as it is. What can be
    trained on and is probably not meant goes to ``warn``. Raises ``DatasetError`` for what does not fit
    ``data_config``, or is no data.
    """
    from trainer.data.known_robots import fitting_modality, to_json

    refuse_pointers(folder, name)
    _require_parts(folder, name, checked_later=data_config is not None)
    ready, changed = folder, {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_named(name, folder, work))
        if data_config is None:
            _require_listed(folder)
        if modality := fitting_modality(ready, data_config):
            work.mkdir(parents=True, exist_ok=True)
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work, prefix="fit-")))
            ready = linked(folder, temporary / "dataset")
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


def _require_listed(folder: Path) -> None:
    """Raise ``DatasetError`` where a LeRobot v3 dataset lacks rows or a video of an episode that it lists.

    A data config's check looks at much more, but only at what it uses.
    """
    from trainer.data.info import InfoV3, load_info
    from trainer.data.layout_v3 import LayoutV3, is_v3, load_episodes_v3, load_tasks_v3
    from trainer.data.meta_files import AGAIN_V3

    if is_v3(folder) is None:
        return
    info = load_info(folder)
    assert isinstance(info, InfoV3)  # noqa: S101 - narrows the type
    layout = LayoutV3(folder, info, [each for each in load_episodes_v3(folder, info) if each.length])
    load_tasks_v3(folder)
    for episode in layout.episodes:
        layout.rows(episode.episode_index)
        for camera in episode.videos:
            if not (file := layout.video(camera, episode.episode_index).path).is_file():
                raise DatasetError(f"{file}: missing.", AGAIN_V3)


def require_valid(
    folder: Path,
    data_config: str | DataConfig | None,
    name: str,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    excluding: Callable[[list[int]], list[str]] | None = None,
) -> Checked:
    """Check a dataset before anything costly touches it, unless this machine has checked the same files before.

    Messages call it ``name``. Without a ``data_config`` nothing is looked at. ``excluding`` turns
    episodes into what ``--exclude-episodes`` says of them, where this is not the only dataset.
    Raises ``DatasetError`` with every problem and its fix.
    """
    from trainer.data.checks import Checked, ResultCache, check_dataset, format_problems

    if data_config is None:
        return Checked([])
    memory = ResultCache(pippa_home() / "cache" / "data.sqlite")
    checked = check_dataset(folder, data_config, options=options, memory=memory, progress=progress)
    if checked.problems:
        known = isinstance(data_config, DataConfig) and is_built_in(data_config)
        shown = str(data_config) if known or isinstance(data_config, str) else "FILE"
        if options.generation != DEFAULT.name:
            shown += f" --generation {options.generation}"
        # A name of the store is no folder that could be checked.
        path = shlex.quote(name) if Path(name).expanduser().is_dir() else "PATH"
        given = excluding or (lambda episodes: numbers_as_texts([*numbers_of(options.exclude_episodes), *episodes]))
        problems = format_problems(checked.problems).replace(f"{folder}/", f"{name}: ")
        raise DatasetError(
            f"{name} can't be trained on with --data-config {data_config}:\n{problems}",
            f"`pippa data check {path} --data-config {shown}` checks it again in seconds."
            + _without(checked.damaged, given),
        )
    named = [each._replace(message=each.message.replace(f"{folder}/", f"{name}: ")) for each in checked.warnings]
    return replace(checked, warnings=named)


def _without(damaged: list[int], excluding: Callable[[list[int]], list[str]]) -> str:
    """How to continue without some episodes; empty where there are none."""
    if not damaged:
        return ""
    which = named_episodes(numbers_as_texts(damaged))
    return f" To continue without {which}, add `--exclude-episodes {' '.join(excluding(damaged))}`."


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
def _named(name: str, folder: Path, work: Path) -> Generator[None]:
    """Problems name the files of the dataset, not those of a temporary folder in ``work``."""
    try:
        yield
    except DatasetError as error:
        places = rf"{re.escape(str(work))}/fit-[^/]+/dataset/|{re.escape(str(folder))}/"
        raise DatasetError(re.sub(places, lambda _: f"{name}: ", error.message), error.hint) from error
