"""Planes that are converted where a training's images are processed: FFmpeg's pixels, and the samples of RGB."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product, starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader

from tests.support.pictures import as_bytes
from tests.trainer.data.videos import write_noise
from trainer.data.collate import Collator, finish_images
from trainer.data.dataset import TrainingDataset, decoded_videos
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.frames import FrameStore
from trainer.data.planar import Colours
from trainer.data.transforms import planes
from trainer.data.transforms.augment import jitter_array
from trainer.data.transforms.images import draw_augmentation
from trainer.data.transforms.planes import factors_of, rgb_of
from trainer.data.video import decoded, to_rgb
from trainer.events import Event, PhaseEvent
from trainer.training.loading import prepare_frames

CONFIG = "fourier_gr1_arms_only"


class Encoder:
    """Stands in for the tokenizer."""

    def encode(self, texts: Sequence[str], images: object) -> dict[str, Any]:
        raise AssertionError

    def encode_prompts(self, texts: Sequence[str], views: Sequence[int]) -> dict[str, Any]:
        return {"views": torch.tensor(views)}


def differences(frame: np.ndarray, colours: Colours, expected: np.ndarray) -> np.ndarray:
    factors = factors_of(colours)
    assert factors is not None
    pixels = rgb_of(torch.from_numpy(frame), torch.tensor(factors))
    assert pixels.dtype == torch.float32 and torch.equal(pixels, pixels.round())
    return np.abs(pixels.permute(1, 2, 0).numpy() - expected)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        ("yuv420p", {}),
        ("yuv420p", {"colorspace": 1, "color_range": 1}),  # BT.709, limited range
        ("yuv420p", {"colorspace": 1, "color_range": 2}),
        ("yuv420p", {"colorspace": 5, "color_range": 1}),  # BT.601
        ("yuv420p", {"colorspace": 6, "color_range": 2}),
        ("yuv420p", {"colorspace": 9, "color_range": 1}),  # BT.2020
        ("yuvj420p", {"color_range": 2}),
        ("yuv420p", {"width": 322, "height": 242}),
    ],
)
def test_decoded_frames_get_ffmpegs_pixels(tmp_path: Path, pixels: str, options: dict[str, Any]) -> None:
    seen = set()
    for _, frame in decoded(write_noise(tmp_path / "noise.mp4", pixels, **options)):
        seen.add(Colours.of(frame))
        assert differences(frame.to_ndarray(), Colours.of(frame), to_rgb(frame)).max() <= 1
    (found,) = seen
    assert found.range == options.get("color_range", found.range)
    assert found.space == options.get("colorspace", found.space)


def test_real_frames_get_ffmpegs_pixels(demo_dataset: Path) -> None:
    for number, (_, frame) in enumerate(decoded(min(demo_dataset.rglob("*.mp4")))):
        if number % 50 == 0:
            assert differences(frame.to_ndarray(), Colours.of(frame), to_rgb(frame)).max() <= 1


def test_all_that_planes_can_hold_in_all_colours_that_ffmpeg_converts() -> None:
    """Noise reaches what no camera records, where sums go beyond a byte."""
    noise = np.random.default_rng(0).integers(0, 256, (360, 320), dtype=np.uint8)
    for colours in starmap(Colours, product((0, 1, 2), (0, 1, 2, 4, 5, 6, 7, 9))):
        assert differences(noise, colours, colours.rgb(noise)).max() <= 1
    assert factors_of(Colours(1, 3)) is None
    with pytest.raises(OSError, match="not supported"):
        Colours(1, 3).rgb(noise)


def dataset(path: Path, cache: Path, share: float, *, on_gpu: bool) -> TrainingDataset:
    """With room for ``share`` of its frames as RGB."""
    rgb = 3 * 256 * 256 * DatasetMeta.load(path).total_frames
    made = TrainingDataset(
        [path], CONFIG, "new_embodiment", cache_dir=cache, cache_bytes=int(share * rgb), on_gpu=on_gpu
    )
    made.prepare()
    return made


def test_a_gpus_batches_are_planes_and_become_the_images_of_rgb(synthetic: Path, tmp_path: Path) -> None:
    """Through the loader and its workers; here the kernels of a GPU run on the CPU."""
    usual = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=False)
    planar = dataset(synthetic, tmp_path / "planes", 0.75, on_gpu=True)
    assert planar.frames.planar == 3 and usual.frames.planar == 0
    said: list[Event] = []
    for each in (planar, usual):
        prepare_frames(each.frames, each.held_out, said.append, on_gpu=True)
    (event,) = said
    assert isinstance(event, PhaseEvent) and "3 videos are kept as 4:2:0, converted to RGB on the GPU" in event.message
    indices = [0, 80, len(usual) - 1, 3, 100]
    batch = planar.__getitems__(indices)
    assert batch.frames.shape == (5, 1, 384, 256) and batch.frames.dtype == torch.uint8

    def load(source: TrainingDataset, workers: int) -> list[dict[str, Any]]:
        loader = DataLoader(source, 3, sampler=indices, num_workers=workers, collate_fn=Collator(Encoder()))
        return [finish_images(each) for each in loader]

    for workers in (0, 2):
        for one, other in zip(load(planar, workers), load(usual, 0), strict=True):
            images, expected = (as_bytes(each.pop("eagle_pixel_values")) for each in (one, other))
            assert np.abs(images - expected).max() <= 1 and (images != expected).mean() < 0.002
            assert one.pop("one_embodiment") is other.pop("one_embodiment") is True
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_gpu_keeps_planes_where_rgb_would_fit(synthetic: Path, tmp_path: Path) -> None:
    made = dataset(synthetic, tmp_path / "planes", 1, on_gpu=True)
    assert made.frames.planar == 3 and kept(tmp_path / "planes") == [3, 3, 3]
    whole = 256 * 256 * 3 // 2
    assert made.sample_bytes == whole
    assert made.__getitems__([0]).planes and made.__getitems__([0]).frames.numel() == whole


def test_what_lies_in_the_cache_as_rgb_is_used_so(synthetic: Path, tmp_path: Path) -> None:
    """As after `data show`: no second copy."""
    usual = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=False)
    fitting = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=True)
    assert fitting.frames.planar == 0 and kept(tmp_path / "rgb") == [4, 4, 4]
    batch, expected = (each.__getitems__([0, 100]) for each in (fitting, usual))
    assert not batch.planes and torch.equal(batch.frames, expected.frames)


def test_what_lies_in_the_cache_as_planes_is_used_so(synthetic: Path, tmp_path: Path) -> None:
    """As by the evaluation of what a GPU has trained: the same pixels as RGB's."""
    dataset(synthetic, tmp_path / "planes", 1, on_gpu=True)
    usual = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=False)
    found = dataset(synthetic, tmp_path / "planes", 1, on_gpu=False)
    assert kept(tmp_path / "planes") == [3, 3, 3]
    one, other = (each.__getitems__([0, len(usual) - 1, 100]) for each in (found, usual))
    assert not one.planes and torch.equal(one.frames, other.frames)


@pytest.mark.parametrize(("as_rgb", "form"), [(1, 3), (2, 4)])
def test_a_gpus_frames_have_one_form_that_of_most(synthetic: Path, tmp_path: Path, as_rgb: int, form: int) -> None:
    """As after some episodes were added."""
    videos = decoded_videos(TrainingDataset([synthetic], CONFIG, "new_embodiment").readers[0])
    store = FrameStore(tmp_path)
    for each in videos[as_rgb:]:
        store.plan([each], as_planes=True)
        store.prepare()
    store.plan(videos[:as_rgb])
    store.prepare()
    assert kept(tmp_path) == [3] * (3 - as_rgb) + [4] * as_rgb
    store.plan(videos, as_planes=True)
    store.prepare()
    assert kept(tmp_path) == [form] * 3


def kept(cache: Path) -> list[int]:
    """The dimensions of what it holds: 3 of planes, 4 of RGB."""
    return sorted(np.load(file, mmap_mode="r").ndim for file in cache.rglob("frames.npy"))


@pytest.mark.parametrize(("height", "width"), [(240, 320), (242, 322), (98, 130), (720, 1280)])
def test_a_devices_images_need_nothing_of_the_host(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor without values fails where the host would ask for one, and so wait for the device."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda each: each)  # it takes CUDA's driver
    batch = planes_of(height, width)
    monkeypatch.setattr(planes, "AT_ONCE", 2 * batch["frames"][0].numel())  # the last part is a smaller one
    pixels = finish_images(dict(batch))["eagle_pixel_values"]
    on_meta = {key: each.to("meta") if isinstance(each, torch.Tensor) else each for key, each in batch.items()}
    shapes = finish_images(on_meta)["eagle_pixel_values"]
    assert shapes.shape == pixels.shape == (3 * 2, 3, 224, 224)
    assert shapes.dtype == pixels.dtype == torch.float32 and shapes.device.type == "meta"
    assert pixels.abs().max() <= 1
    monkeypatch.undo()
    assert torch.equal(pixels, finish_images(dict(batch))["eagle_pixel_values"])


def test_planes_stay_on_a_gpu_while_they_are_converted() -> None:
    """CUDA's tensors without a GPU: every operation is checked for devices that don't go together."""
    batch = planes_of(242, 322)
    with FakeTensorMode() as mode:
        frames, factors = (mode.from_tensor(batch[name]) for name in ("frames", "factors"))
        images = planes.resized_rgb(frames.to("cuda"), factors.to("cuda"), batch["corners"])
        assert images.device.type == "cuda" and images.dtype == torch.float32 and images.shape == (3, 2, 3, 224, 224)
        with pytest.raises(RuntimeError, match="device"):
            planes.resized_rgb(frames.to("cuda"), factors, batch["corners"])


def planes_of(height: int, width: int) -> dict[str, Any]:
    """A batch of three samples of two cameras, as the loader gives it: noise."""
    drawn = [draw_augmentation(height, width, torch.Generator().manual_seed(seed)) for seed in range(3)]
    return {
        "frames": torch.randint(0, 256, (3, 2, height * 3 // 2, width), dtype=torch.uint8),
        "jitter": jitter_array(drawn),
        "factors": torch.tensor([factors_of(Colours(1, 1))] * 6).view(3, 2, 6),
        "corners": np.array([(each.top, each.left) for each in drawn]),
    }


@pytest.mark.parametrize(("height", "width"), [(97, 130), (96, 129)])
def test_videos_of_odd_sizes_stay_rgb(tmp_path: Path, height: int, width: int) -> None:
    video = write_noise(tmp_path / "noise.mp4", "yuv420p", width, height, codec="mpeg4")
    store = FrameStore(tmp_path / "cache")
    store.plan([(video, 20 * height * width * 3)], as_planes=True)
    store.prepare()
    assert kept(tmp_path / "cache") == [4] and store.planes(video) is None and store.planar == 0


def test_batches_that_are_not_all_planes_are_rgb(synthetic: Path, tmp_path: Path) -> None:
    """Where even planes don't fit."""
    usual = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=False)
    some = dataset(synthetic, tmp_path / "some", 0.35, on_gpu=True)
    assert 0 < some.frames.planar < 3 and some.__getitems__([0, 1]).planes
    indices = [0, len(usual) - 1]
    batch, expected = some.__getitems__(indices), usual.__getitems__(indices)
    assert not batch.planes
    assert torch.equal(batch.frames, expected.frames) and np.array_equal(batch.jitter, expected.jitter)


def test_a_cpus_batches_are_rgb_whatever_the_cache_holds(synthetic: Path, tmp_path: Path) -> None:
    usual = dataset(synthetic, tmp_path / "rgb", 1, on_gpu=False)
    planar = dataset(synthetic, tmp_path / "planes", 0.75, on_gpu=False)
    assert 0 < planar.frames.planar < 3  # as many as there is room for are RGB
    one, other = (each.__getitems__([0, len(usual) - 1, 100]) for each in (planar, usual))
    assert torch.equal(one.frames, other.frames) and not one.planes
