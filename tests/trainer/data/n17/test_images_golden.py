"""The image pipeline of N1.7 against upstream's own outputs, which albumentations and OpenCV made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.support.golden_n17 import IMAGE_CASES
from trainer.data.n17 import area, images, kernels
from trainer.data.n17.colour import turned
from trainer.data.n17.images import Augmentation, draw_augmentation, transform
from trainer.data.n17.settings import ProcessorSettings


@pytest.fixture(scope="module")
def tensors(golden_n17: Path) -> dict[str, np.ndarray]:
    return load_file(golden_n17 / "images.safetensors")


@pytest.fixture(scope="module")
def cases(golden_n17: Path) -> dict[str, Any]:
    return json.loads((golden_n17 / "image_cases.json").read_text())


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_evaluation_images_are_equal(cases: dict[str, Any], tensors: dict[str, np.ndarray], name: str) -> None:
    case = cases[name]
    settings = ProcessorSettings(**case["processor_kwargs"], letter_box_transform=case["letter_box"])
    for number, step in enumerate(case["steps"]):
        source = "demo" if name.startswith("demo") else "ds"
        cameras = case["modality_config"]["video"]["modality_keys"]
        raw = [tensors[f"raw/{source}/{step['episode']}/{step['step']}/{camera}"] for camera in cameras]
        # Time first, then cameras.
        frames = [views[time] for time in range(len(raw[0])) for views in raw]
        got = transform(frames, settings)
        for index, image in enumerate(got):
            np.testing.assert_array_equal(image, tensors[f"{name}/{number}/image_{index}"])
        assert len(got) == step["images"]


def test_odd_sizes_are_equal(cases: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    for case in cases["geometry"]:
        name = "geometry/{}x{}_e{}_f{}".format(*case["size"], case["edge"], case["crop_fraction"])
        settings = ProcessorSettings(
            shortest_image_edge=case["edge"],
            crop_fraction=case["crop_fraction"],
            letter_box_transform=case["letter_box"],
        )
        kept = f"{name}_in" in tensors  # of the large ones, upstream's sizes alone
        (got,) = transform([tensors[f"{name}_in"] if kept else np.zeros((*case["size"], 3), np.uint8)], settings)
        assert list(got.shape[:2]) == case["out"]
        if kept:
            np.testing.assert_array_equal(got, tensors[f"{name}_{'box' if case['letter_box'] else 'nobox'}"])


@pytest.fixture(scope="module")
def augmented(golden_n17: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    cases = json.loads((golden_n17 / "augmentation_cases.json").read_text())
    return cases, load_file(golden_n17 / "augmentation.safetensors")


def differing(ours: np.ndarray, upstreams: np.ndarray) -> float:
    """The share of values that differ, none of them by more than one."""
    difference = np.abs(ours.astype(int) - upstreams)
    assert difference.max() <= 1
    return float((difference != 0).mean())


@pytest.mark.parametrize("number", range(7))
def test_colours_are_jittered_alike(augmented: tuple[dict[str, Any], dict[str, np.ndarray]], number: int) -> None:
    cases, tensors = augmented
    drawn = cases["jitter"][number]
    factors = np.array([drawn[name] for name in ("brightness", "contrast", "saturation", "hue")])
    got = tensors["jitter/in"].transpose(2, 0, 1).copy()
    kernels.jitter(got, np.array(drawn["order"]), factors)
    assert differing(got.transpose(1, 2, 0), tensors[f"jitter/{number}"]) <= 2e-4


@pytest.mark.parametrize("number", range(4))
def test_training_images_are_equal(augmented: tuple[dict[str, Any], dict[str, np.ndarray]], number: int) -> None:
    """With the crop, the angle and the colours that upstream drew, which one draw gives both cameras."""
    cases, tensors = augmented
    params = {step["name"]: step["params"] for step in cases[f"train/{number}"]["replay"]}
    left, top, *_ = params["FractionalRandomCrop"]["crop_coords"]
    jitter = params["ColorJitter"]
    room = 64 - int(64 * 0.95) + 1
    drawn = Augmentation(
        top=(top + 0.5) / room,
        left=(left + 0.5) / room,
        angle=params["Rotate"]["angle"] if "Rotate" in params else None,
        order=tuple(jitter["order"]),
        factors=tuple(jitter[name] for name in ("brightness", "contrast", "saturation", "hue")),
    )
    settings = ProcessorSettings(shortest_image_edge=64, crop_fraction=0.95, letter_box_transform=True)
    cameras = ("front", "wrist")
    got = transform([tensors[f"train/{camera}_in"] for camera in cameras], settings, drawn)
    for camera, image in zip(cameras, got, strict=True):
        assert differing(image, tensors[f"train/{number}/{camera}"]) <= 3e-4


def test_an_image_turned_by_nothing_is_itself() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 30), dtype=np.uint8))
    assert torch.equal(turned(image, [0.0]), image)
    assert not torch.equal(turned(image, [5.0]), image)


def test_a_draw_is_known_from_its_generator_and_within_its_limits() -> None:
    jitter = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08}
    settings = ProcessorSettings(color_jitter_params=jitter, random_rotation_angle=8)
    draws = [draw_augmentation(settings, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert draws[3] == draw_augmentation(settings, torch.Generator().manual_seed(3))
    assert len(set(draws)) == 200
    assert all(0 <= draw.top < 1 and 0 <= draw.left < 1 and abs(draw.angle or 9) <= 8 for draw in draws)
    factors = np.array([draw.factors for draw in draws])
    for column, size, middle in zip(factors.T, jitter.values(), (1, 1, 1, 0), strict=True):
        assert (np.abs(column - middle) <= size).all() and np.abs(column - middle).max() > 0.9 * size
    assert {draw.order[0] for draw in draws} == {0, 1, 2, 3}
    plain = draw_augmentation(ProcessorSettings(), torch.Generator().manual_seed(0))
    assert plain.angle is None and plain.order == ()


def test_cameras_of_different_size_are_cropped_at_the_same_place_in_proportion() -> None:
    """Upstream crops the second at the first one's pixels."""
    drawn = Augmentation(top=0.999, left=0.0)
    first, second = np.zeros((200, 400, 3), np.uint8), np.zeros((100, 100, 3), np.uint8)
    first[-1], second[-1] = 255, 255
    for image in (first, second):
        part = images.cropped(image, 0.9, drawn)
        assert part.shape[:2] == (int(image.shape[0] * 0.9), int(image.shape[1] * 0.9)) and part[-1].all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 64), (65, 64), (128, 128)])
def test_any_size_is_resized(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 77, dtype=np.uint8)
    assert (area.resize(image, 64, 64) == 77).all()
