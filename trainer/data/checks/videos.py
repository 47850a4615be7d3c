"""Checks the videos of the data config's cameras: all for presence, a sample by container, a few by decoding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.data.checks.problem import Problem
from trainer.data.checks.tables import sample
from trainer.data.configs import DataConfig
from trainer.data.dataset_meta import DatasetMeta
from trainer.errors import PippaError

OPENED = 500
DECODED = 16
"""Videos per dataset whose container is read, and whose first and last frame are decoded."""

AGAIN = "Record or download the video again, or remove the episode from meta/episodes.jsonl."


def check_videos(meta: DatasetMeta, config: DataConfig) -> Iterator[Problem]:
    """Problems of the videos, camera by camera in the order of the episodes."""
    cameras = [
        key
        for key in config.video
        if key in meta.modality.video and meta.modality.column("video", key) in meta.info.features
    ]
    videos = [(key, episode.episode_index, episode.length) for key in cameras for episode in meta.episodes]
    if not videos:
        return
    opened, decoded = set(sample(len(videos), OPENED)), set(sample(len(videos), DECODED))

    def check(position: int) -> list[Problem]:
        key, episode, length = videos[position]
        try:
            file = meta.video_path(key, episode)
            problems = list(_check_file(file))
            if not problems and position in opened:
                problems += _check_container(meta, key, file, length)
            if not problems and position in decoded:
                problems += _check_frames(file)
        except PippaError as error:
            return [Problem.of(error)]
        return problems

    with ThreadPoolExecutor(max_workers=8) as pool:
        for problems in pool.map(check, range(len(videos))):
            yield from problems


def _check_file(file: Path) -> Iterator[Problem]:
    try:
        size = file.stat().st_size
    except OSError:
        yield Problem(f"{file}: missing", AGAIN)
        return
    if size == 0:
        yield Problem(f"{file}: empty", AGAIN)


def _check_container(meta: DatasetMeta, key: str, file: Path, length: int) -> Iterator[Problem]:
    from trainer.data.video import index_frames, open_video

    with open_video(file) as container:
        stream = container.streams.video[0]
        frames, resolution = stream.frames, (stream.width, stream.height)
        entries = stream.index_entries
        needed = max((entry.pos + entry.size for entry in entries), default=0)
        duration = float((stream.duration or 0) * (stream.time_base or 0))
    size = file.stat().st_size
    if needed > size:
        yield Problem(f"{file}: cut off, {size} of at least {needed} bytes", AGAIN)
        return
    if not frames:  # the container doesn't say
        frames = len(index_frames(file).pts)
    if frames != length:
        yield Problem(
            f"{file}: {frames} frames; meta/episodes.jsonl says {length} steps",
            "Record or download the video again, or remove the episode from meta/episodes.jsonl: "
            "every step needs its frame.",
        )
    try:
        announced = meta.info.camera(meta.modality.column("video", key))
    except (KeyError, ValueError, IndexError, TypeError):
        return  # reported with the metadata
    if resolution != announced.resolution:
        yield Problem(
            f"{file}: {resolution[0]}x{resolution[1]} pixels; meta/info.json says "
            f"{announced.resolution[0]}x{announced.resolution[1]}",
            "Correct the shape in meta/info.json (height, width, channels), or re-encode the video.",
        )
    expected = length / announced.fps
    if frames == length and duration and abs(duration - expected) > max(0.1 * expected, 1.5 / announced.fps):
        yield Problem(
            f"{file}: lasts {duration:.1f} s; {length} steps at {announced.fps:g} fps take {expected:.1f} s",
            "Frames are found by timestamp: re-encode the video at the dataset's frame rate, or correct the rate.",
        )


def _check_frames(file: Path) -> Iterator[Problem]:
    from trainer.data.video import VideoDecoder

    decoder = VideoDecoder(file)
    try:
        for position in (0, len(decoder.index.pts) - 1):
            decoder.frame(position)
    except PippaError as error:
        yield Problem(error.message.rstrip("."), AGAIN)
    finally:
        decoder.close()
