from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.trainer.data.videos import number_in, ordinary_priority, picture
from trainer.data.locations import Clip
from trainer.data.video import decode_video, index_frames
from trainer.data.video_cut import Part, cut
from trainer.errors import DatasetError

FPS = 20


def joined(path: Path, lengths: list[int], *, codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    """Videos of these lengths, each encoded alone and then put into one file, as LeRobot v3 does it."""
    number = 0
    with av.open(path, "w") as output:
        stream, shift = None, 0
        for position, length in enumerate(lengths):
            part = path.with_name(f"part-{position}.mp4")
            encoded(part, range(number, number + length), codec, options or {})
            number += length
            with av.open(part) as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0], opaque=True)
                ticks = round(1 / FPS / (source.streams.video[0].time_base or 1))
                for packet in source.demux(video=0):
                    if packet.size:
                        assert packet.pts is not None and packet.dts is not None
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        output.mux(packet)
            shift += length * ticks
    return path


def encoded(path: Path, numbers, codec: str, options: dict[str, str]) -> Path:
    with ordinary_priority(), av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"crf": "30", "preset": "veryfast", **options})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def frames(path: Path) -> np.ndarray:
    return np.stack([frame for _, frame in decode_video(path)])


def packets(path: Path) -> set[bytes]:
    with av.open(path) as container:
        return {bytes(packet) for packet in container.demux(video=0) if packet.size}


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "2"}),
        ("libx264", {"g": "250", "bf": "3", "b-pyramid": "normal"}),
        ("libsvtav1", {"g": "2", "preset": "10"}),
        ("libsvtav1", {"g": "100", "preset": "10"}),
        ("libx265", {"g": "250", "x265-params": "log-level=none"}),
    ],
)
def test_episodes_are_copied_exactly(tmp_path, codec, options):
    lengths = [23, 9, 32]
    file = joined(tmp_path / "file-000.mp4", lengths, codec=codec, options=options)
    whole, starts = frames(file), np.cumsum([0, *lengths])
    places = enumerate(zip(starts, lengths, strict=False))
    parts = [Part(tmp_path / f"{i}.mp4", Clip(file, s / FPS, n, FPS, i)) for i, (s, n) in places]
    cut(file, parts)
    for part, start, length in zip(parts, starts, lengths, strict=False):
        np.testing.assert_array_equal(frames(part.target), whole[start : start + length])
        index = index_frames(part.target)
        np.testing.assert_allclose(index.starts, np.arange(length) / FPS, atol=1e-9)
        assert packets(part.target) <= packets(file)  # copied, not encoded again
    assert [number_in(each) for each in frames(parts[2].target)] == list(range(32, 64))


@pytest.mark.parametrize(("start", "length"), [(5, 20), (0, 13), (30, 34), (63, 1)])
@pytest.mark.parametrize("options", [{"g": "250", "bf": "3"}, {"g": "12", "bf": "2", "x264-params": "open-gop=1"}])
def test_a_cut_within_a_group_of_pictures_is_exact_too(tmp_path, start, length, options):
    file = encoded(tmp_path / "file-000.mp4", range(64), "libx264", options)
    whole = frames(file)
    part = Part(tmp_path / "cut" / "episode_000000.mp4", Clip(file, start / FPS, length, FPS, 0))
    cut(file, [part])
    np.testing.assert_array_equal(frames(part.target), whole[start : start + length])
    np.testing.assert_allclose(index_frames(part.target).starts, np.arange(length) / FPS, atol=1e-9)


def test_frames_that_are_not_there_are_refused(tmp_path):
    file = encoded(tmp_path / "file-000.mp4", range(10), "libx264", {})
    with pytest.raises(DatasetError, match="it has 10 frames"):
        cut(file, [Part(tmp_path / "episode_000001.mp4", Clip(file, 0.25, 6, FPS, 1))])
    with pytest.raises(DatasetError, match="no 1 frames from"):
        cut(file, [Part(tmp_path / "episode_000001.mp4", Clip(file, 9.0, 1, FPS, 1))])
