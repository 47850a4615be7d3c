"""What a dataset's metadata lists, against itself and against the files that are there. All of it can be trained on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

from trainer.data.dataset_meta import DatasetMeta
from trainer.data.layout_v3 import LayoutV3
from trainer.data.problem import Problem

_NAMED = 3


def check_listing(meta: DatasetMeta) -> Iterator[Problem]:
    """What is listed and not there, there and not listed, or counted otherwise."""
    layout, info = meta.layout, meta.path / "meta/info.json"
    episodes = meta.path / layout.EPISODES
    if meta.empty:
        yield Problem(
            f"{episodes}: {_some(meta.empty)} {'has' if len(meta.empty) == 1 else 'have'} length 0",
            "It is skipped. Remove its line, or record it again.",
        )
    listed = {episode.episode_index for episode in meta.episodes}
    there = layout.tables.unlisted() if isinstance(layout, LayoutV3) else _tables(meta)
    unlisted = sorted(there - listed - set(meta.empty))
    if unlisted:
        yield Problem(
            f"{episodes} lists {len(listed)} of {len(listed) + len(unlisted)} episodes: there are tables of "
            f"{_some(unlisted)} as well",
            f"They are not trained on. Add them to {layout.EPISODES}, or download it again.",
        )
    detail = meta.info.model_extra or {}
    counts = {
        "total_episodes": {len(listed), len(listed) + len(meta.empty), len(listed) + len(unlisted)},
        "total_frames": {meta.total_frames},
        "total_tasks": {len(meta.tasks)},
    }
    for name, right in counts.items():
        count = detail.get(name)
        if (name == "total_frames" and unlisted) or (name == "total_tasks" and meta.no_tasks is not None):
            continue
        if isinstance(count, int | float) and not isinstance(count, bool) and count not in right:
            file = layout.TASKS if name == "total_tasks" else layout.EPISODES
            yield Problem(
                f"{info}: {name} is {count}; {file} has {min(right)}",
                f"{file} counts. If some are missing there, download the dataset again.",
            )
    if meta.no_tasks is None:
        yield from _unknown_tasks(meta)


def _unknown_tasks(meta: DatasetMeta) -> Iterator[Problem]:
    known = set(meta.tasks.values())
    for episode in meta.episodes:
        if unknown := [task for task in episode.tasks if task not in known]:
            yield Problem(
                f"{meta.path / meta.layout.EPISODES}: episode {episode.episode_index} has the task {unknown[0]!r}, "
                f"which {meta.layout.TASKS} lacks",
                f"The instruction is taken from the table and {meta.layout.TASKS}: see that it is the one you mean.",
            )
            return


def _tables(meta: DatasetMeta) -> set[int]:
    """The episodes whose tables are there, by the names of the files."""
    pattern, fixed = "", True
    root = Path()
    parts = meta.info.data_path.split("/")
    for number, part in enumerate(parts):
        fixed = fixed and "{" not in part and number < len(parts) - 1
        root = root / part if fixed else root
    for text, field, _, _ in Formatter().parse(meta.info.data_path):
        pattern += re.escape(text)
        pattern += {None: "", "episode_index": r"(?P<episode>\d+)"}.get(field, r"[^/]+")
    if pattern.count("?P<episode>") != 1:
        return set()
    named = re.compile(pattern)
    found = set()
    for folder, _, files in os.walk(meta.path / root):
        for file in files:
            path = (Path(folder) / file).relative_to(meta.path).as_posix()
            if match := named.fullmatch(path):
                found.add(int(match["episode"]))
    return found


def _some(episodes: list[int]) -> str:
    names = ", ".join(map(str, episodes[:_NAMED]))
    return f"episode{'s' if len(episodes) > 1 else ''} {names}{' …' if len(episodes) > _NAMED else ''}"
