"""Whether the episodes of a video that holds many (LeRobot v3) have each their own frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from trainer.data.checks.episode import EpisodeSeen
from trainer.data.clips import rows_to_frames
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.meta_files import AGAIN_V3
from trainer.data.problem import Problem


def overlaps(meta: DatasetMeta, seen: Sequence[EpisodeSeen]) -> Iterator[Problem]:
    """Episodes that share more frames than the one at which rounded times meet; ``seen`` are those of ``meta``."""
    by_file: dict[Path, list[tuple[int, int, int]]] = defaultdict(list)
    shared: dict[Path, float] = {}
    for episode, each in zip(meta.episodes, seen, strict=True):
        for file, index in each.clips.values():
            by_file[file].append((index.first, index.first + index.count, episode.episode_index))
            if file not in shared:
                shared[file] = max(1.0, rows_to_frames(index.whole, meta.info.fps or 1.0))
    for file, clips in by_file.items():
        for (start, end, one), (begin, _, other) in pairwise(sorted(clips)):
            if end - begin > shared[file]:
                yield Problem(
                    f"{file}: meta/episodes gives episodes {one} and {other} the same frames, {begin} to {end - 1}: "
                    f"episode {one} begins at frame {start} and has {end - start}",
                    f"from_timestamp or length in meta/episodes must be wrong. {AGAIN_V3}",
                )
