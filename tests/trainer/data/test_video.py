"""The right frame for any timestamp: h264 and AV1, long and short groups of pictures, cached or not."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.waiting import PATIENCE
from tests.trainer.data.videos import number_in, write_noise, write_video
from trainer.config.settings import DISK_RESERVE, frame_cache_bytes
from trainer.data import frame_cache
from trainer.data.alignment import align
from trainer.data.frame_cache import entry_names
from trainer.data.frames import FrameStore
from trainer.data.planar import Colours
from trainer.data.video import VideoDecoder, decode_video, index_frames, to_rgb
from trainer.errors import DatasetError, UsageError

FRAMES = 270

KINDS = [
    pytest.param(codec, gop, fps, suffix, id=f"{codec}-gop{gop}-{fps}fps{suffix}")
    for codec, gop, fps, suffix in (
        ("libx264", 250, 20, ".mp4"),
        ("libx264", 250, 30, ".mp4"),
        ("libx264", 2, 30, ".mp4"),
        ("libx264", 12, 30, ".mkv"),  # a time base of 1 ms, too coarse for 30 fps
        ("libsvtav1", 250, 30, ".mp4"),
        ("libsvtav1", 2, 20, ".mp4"),
    )
]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("videos")

    def video(codec: str = "libx264", gop: int = 250, fps: int = 20, suffix: str = ".mp4") -> Path:
        path = folder / f"{codec}-{gop}-{fps}{suffix}"
        return path if path.exists() else write_video(path, FRAMES, codec=codec, fps=fps, gop=gop)

    return video


@pytest.mark.parametrize(("codec", "gop", "fps", "suffix"), KINDS)
def test_float32_timestamps_give_their_frame(
    make: Callable[..., Path], tmp_path: Path, codec: str, gop: int, fps: int, suffix: str
) -> None:
    path = make(codec, gop, fps, suffix)
    positions = align((np.arange(FRAMES) / fps).astype(np.float32), index_frames(path), fps)
    assert isinstance(positions, np.ndarray)
    assert [number_in(frame) for frame in FrameStore().frames(path, positions)] == list(range(FRAMES))
    cached = FrameStore(tmp_path)
    assert cached.plan([(path, 1)]) == 1
    assert [number_in(frame) for frame in cached.frames(path, positions)] == list(range(FRAMES))


@pytest.mark.parametrize(("codec", "gop", "fps", "suffix"), KINDS)
def test_random_access_equals_sequential_decoding(
    make: Callable[..., Path], codec: str, gop: int, fps: int, suffix: str
) -> None:
    path = make(codec, gop, fps, suffix)
    expected = [frame for _, frame in decode_video(path)]
    decoder = VideoDecoder(path)
    order = list(range(FRAMES))
    random.Random(0).shuffle(order)
    for position in [*order[:60], FRAMES - 1, 0, 0, 1, FRAMES - 1]:
        np.testing.assert_array_equal(decoder.frame(position), expected[position], err_msg=str(position))


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"version https://git-lfs.github.com/spec/v1\noid"])
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "episode_000000.mp4"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"episode_000000\.mp4"):
        index_frames(path)


def test_a_new_recording_under_the_same_name_is_decoded_again(make: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    shutil.copyfile(make(fps=20), path)
    before = path.stat()
    first = FrameStore(tmp_path / "cache")
    first.plan([(path, 1)])
    assert number_in(first.frames(path, np.array([40]))[0]) == 40
    shutil.copyfile(make(fps=30), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = FrameStore(tmp_path / "cache")
    second.plan([(path, 1)])
    assert number_in(second.frames(path, np.array([60]))[0]) == 60


def test_videos_beyond_the_bound_are_decoded_on_the_fly(make: Callable[..., Path], tmp_path: Path) -> None:
    size = FRAMES * 48 * 64 * 3
    videos = [(make(fps=20), size), (make(fps=30), size)]
    store = FrameStore(tmp_path, max_bytes=size // 2 + 1000)
    assert store.plan(videos) == 1
    for path, _ in videos:
        assert number_in(store.frames(path, np.array([0]))[0]) == 0
    assert sum(file.stat().st_size for file in tmp_path.rglob("frames.npy")) <= size // 2 + 1000


@pytest.mark.parametrize(
    ("pixels", "options", "planar"),
    [
        ("yuv420p", {}, True),
        ("yuv420p", {"colorspace": 1, "color_range": 1}, True),  # BT.709
        ("yuv420p", {"colorspace": 5, "color_range": 2}, True),
        ("yuvj420p", {"color_range": 2}, True),
        ("yuv420p", {"width": 322, "height": 242}, True),
        ("yuv444p", {}, False),
        ("yuv422p", {}, False),
        ("yuv420p10le", {}, False),
    ],
)
def test_where_rgb_does_not_fit_planes_are_kept_and_give_the_same_frames(tmp_path, pixels, options, planar):
    videos = [write_noise(tmp_path / f"{number}.mp4", pixels, **options) for number in range(2)]
    videos[1].write_bytes(videos[1].read_bytes() + b"\0" * 8)  # another video
    expected = np.stack([frame for _, frame in decode_video(videos[0])])
    store = FrameStore(tmp_path / "cache", max_bytes=expected.nbytes + expected.nbytes // 2)
    assert store.plan([(video, expected.nbytes) for video in videos]) == 1 + planar
    store.prepare()
    entries = [np.load(file).shape for file in (tmp_path / "cache").rglob("frames.npy")]
    height, width = expected.shape[1:3]
    assert sorted(entries, key=len) == ([(20, height * 3 // 2, width)] if planar else []) + [expected.shape]
    for copy in (store, pickle.loads(pickle.dumps(store))):
        for video in videos:
            np.testing.assert_array_equal(copy.frames(video, np.arange(20)), expected)


def test_frames_whose_colours_change_are_kept_as_rgb(make: Callable[..., Path], tmp_path, monkeypatch):
    """Found out in the middle of decoding, when some planes are written already."""
    told = iter([(1, 1)] * 5 + [(2, 1)] * 1000)
    monkeypatch.setattr(Colours, "of", staticmethod(lambda _: Colours(*next(told))))
    monkeypatch.setattr(Colours, "rgb", lambda _, planes: to_rgb(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
    size = FRAMES * 48 * 64 * 3
    store = FrameStore(tmp_path, max_bytes=size // 2 + 1000)
    assert store.plan([(make(), size)]) == 1
    assert number_in(store.frames(make(), np.array([20]))[0]) == 20
    assert [np.load(file).ndim for file in tmp_path.rglob("frames.npy")] == [4]


def test_the_longest_unused_entries_make_room(make: Callable[..., Path], tmp_path: Path) -> None:
    size = FRAMES * 48 * 64 * 3 + 128
    paths = [make(fps=20), make(fps=30), make(gop=2, fps=30)]
    for age, path in ((300, paths[0]), (100, paths[1])):
        store = FrameStore(tmp_path)
        store.plan([(path, size)])
        store.prepare()
        os.utime(tmp_path / entry_names(path)[0], (tmp_path.stat().st_mtime - age,) * 2)
    FrameStore(tmp_path, max_bytes=2 * size).plan([(paths[2], size)])
    assert not (tmp_path / entry_names(paths[0])[0]).exists()
    assert (tmp_path / entry_names(paths[1])[0]).exists()


def test_checkpoints_to_come_are_left_their_room(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = FRAMES * 48 * 64 * 3 + 128
    videos = [(make(fps=20), size), (make(fps=30), size)]
    free = DISK_RESERVE + 2 * size
    usage = shutil.disk_usage(tmp_path)
    # What the cache takes is free no more.
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda _: usage._replace(free=free - sum(file.stat().st_size for file in tmp_path.rglob("frames.npy"))),
    )
    whole = FrameStore(tmp_path)
    assert whole.plan(videos) == 2
    whole.prepare()
    # Started again with checkpoints to come: the cache gives back what they need, its own entries included.
    assert pickle.loads(pickle.dumps(FrameStore(tmp_path, spare_bytes=size))).spare_bytes == size
    assert FrameStore(tmp_path, spare_bytes=size + size // 3).plan(videos) == 1
    assert not [video for video, _ in videos if (tmp_path / entry_names(video)[0]).exists()]
    assert FrameStore(tmp_path, spare_bytes=free).plan(videos) == 0
    assert not list(tmp_path.rglob("frames.npy"))


def test_a_full_disk_falls_back_to_decoding(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_cache, "_decode_into", full)
    store = FrameStore(tmp_path)
    store.plan([(make(), 1)])
    assert number_in(store.frames(make(), np.array([20]))[0]) == 20
    assert "the disk is full" in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_builder_left_is_no_entry(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make()
    store = FrameStore(tmp_path)
    store.plan([(path, 1)])
    left = tmp_path / f"{entry_names(path)[0]}.building"
    left.mkdir()
    (left / "frames.npy").write_bytes(b"half a file")
    assert number_in(store.frames(path, np.array([20]))[0]) == 20
    assert not left.exists()


BUILD = """
import sys, time
from pathlib import Path
from trainer.data.frame_cache import build_entry
folder, video, start = map(Path, sys.argv[1:])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
build_entry(folder, video)
"""


def test_processes_building_one_entry_at_once(make: Callable[..., Path], tmp_path: Path) -> None:
    path, cache, start = make(), tmp_path / "cache", tmp_path / "start"
    cache.mkdir()
    folder = cache / entry_names(path)[0]
    command = [sys.executable, "-c", BUILD, str(folder), str(path), str(start)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for builder in builders:
        assert builder.stdout is not None and builder.stdout.readline()
    start.touch()
    for builder in builders:
        builder.communicate(timeout=PATIENCE)
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    assert sorted(entry.name for entry in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert np.load(folder / "frames.npy").shape == (FRAMES, 48, 64, 3)


def test_a_store_goes_to_another_process_without_its_open_files(make: Callable[..., Path], tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    store.plan([(make(), 1)])
    store.frames(make(), np.array([0]))
    store.frames(make(fps=30), np.array([0]))  # not planned: an open decoder
    copy = pickle.loads(pickle.dumps(store))
    assert number_in(copy.frames(make(), np.array([20]))[0]) == 20


def test_what_is_missing_from_the_cache_is_known_and_a_stop_does_not_wait_for_it(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    videos = [(make(fps=20), 1), (make(fps=30), 1), (make(gop=2, fps=30), 1)]
    store = FrameStore(tmp_path)
    store.plan(videos)
    assert store.missing() == 3

    def stop(done: int, of: int) -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        store.prepare(stop)
    store.prepare()
    assert store.missing() == 0


def test_the_bound_of_the_frame_cache() -> None:
    assert frame_cache_bytes({}) is None and frame_cache_bytes({"PIPPA_FRAME_CACHE": ""}) is None
    assert frame_cache_bytes({"PIPPA_FRAME_CACHE": "1.5"}) == 1_500_000_000
    assert frame_cache_bytes({"PIPPA_FRAME_CACHE": "0"}) == 0
    for wrong in ("50 GB", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match="PIPPA_FRAME_CACHE"):
            frame_cache_bytes({"PIPPA_FRAME_CACHE": wrong})
