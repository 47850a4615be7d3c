"""Frames of a dataset that the frame cache has no room for: contestants and tables of ``bench.data``.

As LeRobot writes one: 200 episodes with two cameras of 640x480, AV1 with a key frame every second frame; each frame is
of a random episode. A contestant is a process: ``python -m bench.beyond_cache NAME --videos FOLDER``. Four videos are
encoded and copied, as AV1 takes its time.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import av
import numpy as np
from av.packet import Packet

from bench.contest import Contestant, Turn, serve, times_faster
from bench.table import table
from bench.upstream_way.data import BACKENDS
from trainer.data.frames import FrameStore
from trainer.data.video import FrameIndex, index_frames, open_video, single_threaded, to_rgb

EPISODES, FRAMES, FPS = 200, 300, 30
DISTINCT = 4
SAMPLES = {"ours": 256, "limit": 256, "torchcodec": 64, "torchvision_av": 32}
"""Frames per turn."""
FASTER, DEARER = 2, 1.3
"""Bars: times the frames of upstream's torchcodec path, and times the cost of decoding just the frames needed."""

Read = Callable[[Path, FrameIndex, int], object]


def sections(work: Path, rounds: int, stack: ExitStack) -> list[str]:
    """Measure; a paragraph and two tables."""
    videos = work / "beyond-cache"
    command = [sys.executable, "-m", "bench.beyond_cache", "make", "--videos", str(videos)]
    subprocess.run(command, check=True, env={**os.environ, "SVT_LOG": "1"})
    found: dict[str, Contestant] = {}
    missing: list[str] = []
    for name in SAMPLES:
        command = [sys.executable, "-m", "bench.beyond_cache", name, "--videos", str(videos)]
        try:
            found[name] = stack.enter_context(Contestant(name, command))
        except RuntimeError as error:
            missing.append(f"{name}: {str(error).strip().splitlines()[-1]}")
    for seed in range(rounds):
        for name, contestant in found.items():
            contestant.turn(SAMPLES[name], seed)
    titles = {
        "ours": "ours: packets by the index, few decoders",
        "limit": "limit: one decoder, the packets needed in memory",
        **{backend: f"upstream's way, {backend}" for backend in BACKENDS},
    }
    ours = found["ours"].turns
    rows = [_row(titles[name], contestant.turns) for name, contestant in found.items()]
    ratios = [
        [titles[name], *times_faster(ours, contestant.turns), FASTER if name == "torchcodec" else "–"]
        for name, contestant in found.items()
        if name in BACKENDS
    ]
    dearer = 1 / times_faster(ours, found["limit"].turns)[1]
    return [
        f"Beyond the frame cache, frame by frame: {EPISODES} episodes of {FRAMES} frames, two cameras of 640x480, AV1 "
        "with a key frame every 2 frames, each frame of a random episode and camera. Indices are there, as the check "
        "leaves them.",
        table(["", "frames/s", "best", "frames per CPU-s", "ms CPU a frame"], rows),
        table(["times the frames of", "frames/s", "per CPU-s", "bar"], ratios),
        f"Times the CPU time of the limit: {dearer:.2f} (bar: at most {DEARER}).",
        *([f"Not measured: {'; '.join(missing)}."] if missing else []),
    ]


def _row(name: str, turns: list[Turn]) -> list[object]:
    cpu = median(turn.cpu_rate for turn in turns)
    rates = [turn.rate for turn in turns]
    return [name, median(rates), max(rates), cpu, 1e3 / cpu]


def make(folder: Path) -> None:
    """Write the videos."""
    folder.mkdir()
    pictures = [[_picture(clip, number) for number in range(FRAMES)] for clip in range(DISTINCT)]
    clips = [folder / f"clip-{clip}.mp4" for clip in range(DISTINCT)]
    for clip, path in enumerate(clips):
        _encode(path, pictures[clip])
    for number in range(2 * EPISODES):
        shutil.copyfile(clips[number % DISTINCT], folder / f"{number:03d}.mp4")
    for path in clips:
        path.unlink()


def _picture(clip: int, number: int) -> np.ndarray:
    """A textured table, an arm that moves over it, and the camera's noise."""
    rows, columns = np.mgrid[0:480, 0:640]
    wood = np.random.default_rng(clip).normal(0, 12, (60, 80)).repeat(8, 0).repeat(8, 1)
    image = np.stack([150 + wood, 120 + wood, 90 + wood + rows / 20], axis=-1)
    x, y = 320 + 200 * np.sin(number / 25 + clip), 240 + 120 * np.cos(number / 17)
    image[(columns - x) ** 2 + (rows - y) ** 2 < 3600] = (60, 60, 200)
    image[abs(columns - x) < 14] *= 0.5
    noise = np.random.default_rng([clip, number]).normal(0, 3, (480, 640, 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _encode(path: Path, pictures: list[np.ndarray]) -> None:
    written = io.BytesIO()
    # SVT-AV1 gives root's threads real-time priority, and nothing else on the machine would run.
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        with av.open(written, "w", format="mp4") as container:
            stream = container.add_stream("libsvtav1", rate=FPS, options={"g": "2", "crf": "30", "preset": "10"})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    finally:
        if root:
            os.seteuid(0)
    path.write_bytes(written.getvalue())


def ours(paths: Sequence[Path]) -> Read:
    """The frame store, without a cache; it knows the videos' indices, as when a training begins."""
    store = FrameStore()
    for path in paths:
        store.index(path)
    return lambda path, _, position: store.frame(path, position)


def limit(paths: Sequence[Path]) -> Read:
    """One decoder that is given the packets from the key frame on, out of memory, until the frame comes."""
    contents = {path: path.read_bytes() for path in paths}
    codec = single_threaded(open_video(paths[0])).codec_context

    def read(path: Path, index: FrameIndex, position: int) -> object:
        target = index.pts[position]
        codec.flush_buffers()
        first = index.packet_to_begin_at(target)
        for pts, _, offset, size, _ in index.packets[first : first + index.longest_group].tolist():
            packet = Packet(contents[path][offset : offset + size])
            packet.pts = pts
            for frame in codec.decode(packet):
                if frame.pts == target:
                    return to_rgb(frame)
        raise AssertionError(f"{path}: no frame {position}")

    return read


def upstream(backend: str) -> Read:
    """A video opened for each frame."""
    return lambda path, index, position: BACKENDS[backend](path, float(index.starts[position]))


def main() -> None:
    """Make the videos, or serve one contestant."""
    since = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--videos", type=Path, required=True)
    given = parser.parse_args()
    if given.name == "make":
        make(given.videos)
        return
    paths = sorted(given.videos.iterdir())
    indices = {path: index_frames(path) for path in paths}
    read = {"ours": ours, "limit": limit}[given.name](paths) if given.name not in BACKENDS else upstream(given.name)

    def turn(frames: int, seed: int, _: bool) -> None:
        draw = np.random.default_rng(seed)
        for which, position in draw.integers([len(paths), FRAMES], size=(frames, 2)).tolist():
            read(paths[which], indices[paths[which]], position)

    turn(2, 0, False)  # an absent backend shows here
    serve(turn, since)


if __name__ == "__main__":
    main()
