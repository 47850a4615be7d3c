"""The rules on what the cameras saw, from a few numbers of each frame."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trainer.data.frame_cache import Source
from trainer.data.frames import FrameStore
from trainer.data.profile import rules
from trainer.data.profile.model import Finding, Still
from trainer.data.profile.motion import Episode, Robot, stretches
from trainer.data.result_cache import ResultCache, version

_SIDE = 64
"""Pixels of the shorter side of what is looked at; every n-th of the frame's own."""
_BLOCKS = 8
STILL_HEIGHT = 120
"""Pixels of a picture on a page."""
_SHOWN = 4


class Seen(NamedTuple):
    """What a camera saw in an episode, each ``[T]``: one number for each row."""

    brightness: np.ndarray
    spread: np.ndarray
    """Brightest less darkest part."""
    change: np.ndarray
    """Of the part that changes most since the row before; nothing is known of the first, which has infinity."""


def look(frames: FrameStore, source: Source, positions: np.ndarray, memory: ResultCache) -> Seen:
    """Look at the frame of each row, in order. What was seen before, ``memory`` knows.

    Raises ``DatasetError`` for one that can't be decoded.
    """
    rows = hashlib.sha256(np.asarray(positions, dtype=np.int64).tobytes()).hexdigest()
    key = f"seen {version()} {frames.name(source)} {rows}"
    kept = np.frombuffer(memory.get(key) or b"", dtype=np.float32)
    if kept.size == 3 * len(positions):
        return Seen(*kept.reshape(3, -1))
    seen = _looked(frames, source, positions)
    memory.put(key, np.stack(seen).tobytes())
    return seen


def _looked(frames: FrameStore, source: Source, positions: np.ndarray) -> Seen:
    numbers = np.zeros((3, len(positions)), dtype=np.float32)
    before: np.ndarray | None = None
    last = -1
    for row, position in enumerate(positions.tolist()):
        if position == last:
            numbers[:, row] = (*numbers[:2, row - 1], 0.0)
            continue
        parts = _parts(frames.frame(source, position))
        change = np.inf if before is None else float(_means(np.abs(parts - before)).max())
        means = _means(parts)
        numbers[:, row] = (means.mean(), means.max() - means.min(), change)
        before, last = parts, position
    return Seen(numbers[0], numbers[1], numbers[2])


def _parts(frame: np.ndarray) -> np.ndarray:
    """Brightness of a frame's parts, float32 ``[8, h, 8, w]``."""
    step = max(min(frame.shape[:2]) // _SIDE, 1)
    # Sums of whole planes: a mean over the last axis takes several times as long.
    red, green, blue = np.moveaxis(frame[::step, ::step], 2, 0)
    grey = (red.astype(np.uint16) + green + blue) / np.float32(3)
    height, width = (max(size // _BLOCKS, 1) for size in grey.shape)
    if min(grey.shape) < _BLOCKS:
        return grey.reshape(1, grey.shape[0], 1, grey.shape[1])
    return grey[: height * _BLOCKS, : width * _BLOCKS].reshape(_BLOCKS, height, _BLOCKS, width)


def _means(parts: np.ndarray) -> np.ndarray:
    """Of each part, ``[8, 8]``."""
    return parts.mean(axis=1).mean(axis=2)


def findings_of(camera: str, seen: Seen, episode: Episode, robot: Robot) -> Iterator[Finding]:
    """What the rules say of one camera in one episode."""
    blank = stretches((seen.brightness < rules.BLACK) | (seen.spread < rules.FLAT), 1)
    if blank:
        first, last = max(blank, key=lambda each: each[1] - each[0])
        count = sum(end - start + 1 for start, end in blank)
        black = np.concatenate([seen.brightness[start : end + 1] < rules.BLACK for start, end in blank])
        what = "black" if black.all() else "black or of one colour" if black.any() else "of one colour"
        yield Finding(
            rule=rules.BLANK.name,
            episode=episode.number,
            subject=camera,
            message=f"{camera} is {what} in {count} of {episode.rows} frames (the longest stretch: frames {first} to "
            f"{last}, mean brightness {seen.brightness[first : last + 1].mean():.0f} of 255)",
            frames=(first, last),
            figures={"frames": count, "brightness": float(seen.brightness[first : last + 1].mean())},
        )
    yield from _frozen(camera, seen, episode, robot)


def _frozen(camera: str, seen: Seen, episode: Episode, robot: Robot) -> Iterator[Finding]:
    least, movement = robot.rows_in(rules.FROZEN_SECONDS), robot.seen_movement(episode)
    found = []
    # A row that shows what the row before showed; the stretch begins with that one.
    for start, end in stretches(seen.change <= rules.SAME_PICTURE, 1):
        first = start - 1
        moved = float(np.ptp(movement[first : end + 1], axis=0).max()) if movement.shape[1] else 0.0
        if end - first + 1 >= least and moved >= rules.FROZEN_MOVE:
            found.append((first, end, moved))
    if found:
        first, last, moved = max(found, key=lambda each: each[1] - each[0])
        seconds = (last - first + 1) / robot.fps
        more = f", and {len(found) - 1} more times" if len(found) > 1 else ""
        yield Finding(
            rule=rules.FROZEN.name,
            episode=episode.number,
            subject=camera,
            message=f"{camera} shows one picture for {seconds:.1f} s (frames {first} to {last}), while a joint moves "
            f"by {moved:.0%} of its range{more}",
            frames=(first, last),
            figures={"seconds": seconds, "share of range": moved},
        )


def around(frames: tuple[int, int], rows: int) -> list[int]:
    """A few rows that show a stretch: one before it, its ends, one after it."""
    first, last = frames
    return sorted({max(first - 1, 0), first, last, min(last + 1, rows - 1)})[:_SHOWN]


def still(
    frames: FrameStore, source: Source, position: int, episode: int, row: int, height: int = STILL_HEIGHT
) -> Still:
    """The frame as a small picture. Raises ``DatasetError``."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frames.frame(source, position)))
    size = max(round(picture.width * height / picture.height), 1), height
    file = io.BytesIO()
    picture.resize(size).save(file, format="webp", quality=70)
    return Still(episode=episode, frame=row, webp=file.getvalue())
