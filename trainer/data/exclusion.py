"""What ``--exclude-episodes`` may say. Imports nothing heavy: the configuration is read in light processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.data.dataset_meta import DatasetMeta

_WRITTEN = re.compile(r"(?:(?P<dataset>\d{1,6}):)?(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?")
_NAMED = 8


class EpisodeRange(NamedTuple):
    """Episodes ``first`` to ``last``, both included, of the dataset with this number, counted from 1."""

    dataset: int
    first: int
    last: int


def parse_exclusion(texts: str | Iterable[str], datasets: int = 1) -> list[EpisodeRange]:
    """What ``--exclude-episodes`` says: ``3``, ``40-44``, and where there are several ``datasets`` ``2:17`` of one.

    In order, neighbours and overlaps merged, so that what means the same is equal. Commas separate as spaces do.
    Raises ``ValueError`` that says what is right.
    """
    words = (texts if isinstance(texts, str) else " ".join(texts)).replace(",", " ").split()
    merged: list[EpisodeRange] = []
    for each in sorted(_range(word, datasets) for word in words):
        before = merged[-1] if merged else None
        if before and before.dataset == each.dataset and each.first <= before.last + 1:
            merged[-1] = before._replace(last=max(before.last, each.last))
        else:
            merged.append(each)
    return merged


def as_texts(ranges: Sequence[EpisodeRange], datasets: int = 1) -> list[str]:
    """``ranges`` as ``parse_exclusion`` reads them, at their shortest."""
    return [
        (f"{each.dataset}:" if datasets > 1 else "")
        + (f"{each.first}" if each.first == each.last else f"{each.first}-{each.last}")
        for each in ranges
    ]


def named_episodes(texts: Sequence[str]) -> str:
    """``texts`` in a sentence: ``episode 3``, ``episodes 3, 40-44``."""
    one = len(texts) == 1 and "-" not in texts[0]
    return f"{'episode' if one else 'episodes'} {', '.join(texts)}"


def numbers_as_texts(episodes: Iterable[int]) -> list[str]:
    """Episodes of one dataset by their numbers, such as ``3``, ``17`` and ``40-44``."""
    return as_texts(parse_exclusion(map(str, episodes)))


def numbers_of(texts: Iterable[str]) -> Iterator[int]:
    """The episodes of one dataset that ``texts`` name."""
    for each in parse_exclusion(texts):
        yield from range(each.first, each.last + 1)


def of_dataset(texts: Iterable[str], number: int, datasets: int) -> tuple[str, ...]:
    """The part of ``texts`` that means the dataset ``number`` of several, as it is written for one alone."""
    ranges = parse_exclusion(texts, datasets)
    return tuple(as_texts([each._replace(dataset=1) for each in ranges if each.dataset == number]))


def left_in(episodes: Iterable[int], texts: Iterable[str]) -> list[int]:
    """Those of ``episodes``, of one dataset, that ``texts`` don't name."""
    ranges = parse_exclusion(texts)
    return [number for number in episodes if not any(each.first <= number <= each.last for each in ranges)]


def leave_out(meta: DatasetMeta, texts: Sequence[str], dataset: str | None = None) -> DatasetMeta:
    """``meta`` without the episodes that ``texts`` name; ``dataset`` is what people call it.

    Raises ``UsageError`` when it has no such episode, or none is left.
    """
    if not texts:
        return meta
    ranges, name = parse_exclusion(texts), dataset or meta.path.name
    asked = f"--exclude-episodes {' '.join(texts)}: {name}"
    known = {episode.episode_index for episode in meta.episodes} | set(meta.empty)
    missing = (number for each in ranges for number in range(each.first, each.last + 1) if number not in known)
    unknown = list(islice(missing, _NAMED + 1))
    if unknown:
        more = " …" if len(unknown) > _NAMED else ""
        raise UsageError(
            f"{asked} has no episode {', '.join(map(str, unknown[:_NAMED]))}{more}.",
            f"Its episodes are {min(known)} to {max(known)}; `pippa data show` lists them.",
        )
    left = set(left_in((each.episode_index for each in meta.episodes), texts))
    kept = [each for each in meta.episodes if each.episode_index in left]
    if not kept:
        raise UsageError(
            f"{asked} has {len(meta.episodes)} episodes, and none would be left to train on.", "Leave fewer out."
        )
    return replace(meta, episodes=kept)


def _range(word: str, datasets: int) -> EpisodeRange:
    found = _WRITTEN.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r} is neither an episode such as 17 nor a range such as 40-44")
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if last < first:
        raise ValueError(f"{word!r} ends before it begins: write {last}-{first}")
    if found["dataset"] is None and datasets > 1:
        raise ValueError(f"{word!r} may mean any of {datasets} datasets: write 1:{word} for the first, 2:{word} …")
    dataset = int(found["dataset"] or 1)
    if not 1 <= dataset <= datasets:
        raise ValueError(f"{word!r} means dataset {dataset}, and there {'is' if datasets == 1 else 'are'} {datasets}")
    return EpisodeRange(dataset, first, last)
