"""Frames of many videos at random by a few decoders: the right ones, of every codec and container, with little open."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.trainer.data.videos import number_in, ordinary_priority, picture, write_video
from trainer.data import decoders as decoders_module
from trainer.data.decoders import DECODERS, FILES, Decoders
from trainer.data.video import decode_video, index_frames, open_video
from trainer.errors import DatasetError

FRAMES = 90
KINDS = {
    "h264-b-pyramid.mp4": ("libx264", {"bf": "4", "b_strategy": "0", "x264-params": "b-pyramid=normal", "g": "60"}),
    "h264-open-gop.mp4": ("libx264", {"bf": "3", "b_strategy": "0", "x264-params": "open-gop=1", "g": "20"}),
    "h264-plain-b.mkv": ("libx264", {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none", "g": "60"}),
    "h264-short.mp4": ("libx264", {"g": "2"}),
    "hevc-open-gop.mp4": ("libx265", {"x265-params": "bframes=4:keyint=40:open-gop=1:log-level=none"}),
    "av1.mp4": ("libsvtav1", {"g": "60", "preset": "10"}),
    "av1-short.mp4": ("libsvtav1", {"g": "2", "preset": "10"}),
    "vp9.webm": ("libvpx-vp9", {"g": "30", "deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2", "g": "30"}),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("kinds")

    def video(name: str) -> Path:
        path = folder / name
        if not path.exists():
            codec, options = KINDS[name]
            with ordinary_priority(), av.open(path, "w") as container:
                stream = container.add_stream(codec, rate=30, options=options)
                assert isinstance(stream, av.VideoStream)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                for number in range(FRAMES):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
                container.mux(stream.encode())
        return path

    return video


@pytest.mark.parametrize("name", KINDS)
def test_in_any_order_a_frame_is_what_decoding_all_gives(make: Callable[[str], Path], name: str) -> None:
    path = make(name)
    index, expected = index_frames(path), [frame for _, frame in decode_video(path)]
    assert index.in_file and len(index.pts) == len(expected) == FRAMES
    decoders, order = Decoders(), list(range(FRAMES))
    random.Random(0).shuffle(order)
    for position in [*range(FRAMES), *order, FRAMES - 1, FRAMES - 1, 0, 0, 1]:
        np.testing.assert_array_equal(decoders.frame(path, index, position), expected[position], str(position))
    for position in (5, 58, FRAMES - 1):
        np.testing.assert_array_equal(Decoders().frame(path, index, position), expected[position], str(position))


def test_what_lies_otherwise_in_its_file_keeps_its_container(make: Callable[[str], Path]) -> None:
    path = make("h264-open-gop.mp4")
    index = index_frames(path)
    packets = index.packets.copy()
    packets["offset"][3] = -1
    elsewhere = replace(index, packets=packets)
    assert not elsewhere.in_file
    for position in (50, 7, 8, 89):
        expected = Decoders().frame(path, index, position)
        np.testing.assert_array_equal(Decoders().frame(path, elsewhere, position), expected)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The videos whose container was opened."""
    paths: list[Path] = []

    def remembering(path: Path) -> av.container.InputContainer:
        paths.append(path)
        return open_video(path)

    monkeypatch.setattr(decoders_module, "open_video", remembering)
    return paths


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_many_videos_share_decoders_and_few_files_are_open(tmp_path: Path, codec: str, opened: list[Path]) -> None:
    """Each video begins with another number, so that a frame of the wrong one is seen."""
    paths = []
    for first in range(3):
        path = tmp_path / f"{first}.mp4"
        write_video(path, 10, codec=codec, gop=2, first=first * 10)
        paths += [path, *(path.with_name(f"{first}-{copy}.mp4") for copy in range(100))]
        for copy in paths[-100:]:
            os.link(path, copy)
    numbers = {path: int(path.stem.split("-")[0]) * 10 for path in paths}
    indices = {path: index_frames(path) for path in paths}
    before = len(list(Path("/proc/self/fd").iterdir()))
    decoders, draw = Decoders(), random.Random(0)
    for _ in range(1500):
        path, position = draw.choice(paths), draw.randrange(10)
        assert number_in(decoders.frame(path, indices[path], position)) == numbers[path] + position
    assert len(opened) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= FILES + 1


def test_videos_in_turn_go_on_each_from_its_last_frame(tmp_path: Path, opened: list[Path]) -> None:
    paths = [write_video(tmp_path / f"{first}.mp4", 60, gop=250, first=first) for first in range(DECODERS)]
    indices = {path: index_frames(path) for path in paths}
    decoders = Decoders()
    for position in range(60):
        for first, path in enumerate(paths):
            assert number_in(decoders.frame(path, indices[path], position)) == first + position
    assert len(opened) == DECODERS
    # One more takes the place of the one unused longest, and turns it to its own frames.
    another = write_video(tmp_path / "another.mp4", 60, gop=250, first=500)
    assert number_in(decoders.frame(another, index_frames(another), 5)) == 505
    assert number_in(decoders.frame(paths[0], indices[paths[0]], 3)) == 3
    assert len(opened) == DECODERS


def test_videos_of_another_kind_get_a_decoder_of_their_own(make: Callable[[str], Path]) -> None:
    decoders = Decoders()
    indices = {name: index_frames(make(name)) for name in KINDS}
    for position in (5, 60, 3):
        for name, index in indices.items():
            assert number_in(decoders.frame(make(name), index, position)) == position, name


def test_a_video_that_changed_is_refused_by_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "arm.mp4", 30, gop=2)
    index = index_frames(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"arm\.mp4: "):
        Decoders().frame(path, index, 29)
    path.unlink()
    with pytest.raises(DatasetError, match=r"arm\.mp4: "):
        Decoders().frame(path, index, 0)
