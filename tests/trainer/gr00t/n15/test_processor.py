"""Prompts and pixels, against upstream's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trainer.errors import DatasetError, UsageError
from trainer.gr00t.n15.processor import EagleProcessor, prompt_text
from trainer.gr00t.n15.sections import OFFICIAL_EAGLE


@pytest.fixture(scope="module")
def prompts(golden: Path) -> list[dict[str, Any]]:
    return json.loads((golden / "prompts.json").read_text())


def black(views: int = 1) -> np.ndarray:
    return np.zeros((views, 224, 224, 3), np.uint8)


def test_prompt_text_is_upstreams(prompts: list[dict[str, Any]]) -> None:
    for prompt in prompts:
        assert prompt_text(prompt["task"], 1, 0) == prompt["decoded_no_img"]
        assert prompt_text(prompt["task"], 1, 0).replace("<image 1><img></img>", "<image-1>") == prompt["chat_text"]


def test_token_ids_are_upstreams(prompts: list[dict[str, Any]], processor: EagleProcessor) -> None:
    for prompt in prompts:
        inputs = processor.encode([prompt["task"]], [black()])
        assert inputs["eagle_input_ids"][0].tolist() == prompt["input_ids"]
        assert inputs["eagle_attention_mask"].all()


@pytest.mark.parametrize("name", ["A", "B"])
def test_batch_is_upstreams(golden: Path, prompts: list[dict[str, Any]], processor: EagleProcessor, name: str) -> None:
    batch = load_file(golden / f"batch_{name}.safetensors")
    tasks = {prompt["index"]: prompt["task"] for prompt in prompts}
    inputs = processor.encode([tasks[100], tasks[{"A": 250, "B": 500}[name]]], [black()] * 2)
    assert torch.equal(inputs["eagle_input_ids"], batch["eagle_input_ids"])
    assert torch.equal(inputs["eagle_attention_mask"], batch["eagle_attention_mask"])


def test_two_cameras(processor: EagleProcessor) -> None:
    """Token counts of the reference, 7.2: 14 before, 263 per image, 5 after."""
    ids = processor.encode(["pick"], [black(2)])["eagle_input_ids"][0].tolist()
    assert len(ids) == 14 + 2 * 263 + 1 + 5
    assert ids[14:20] == [27, 1805, 220, 16, 29, 151670]
    assert ids[277:283] == [27, 1805, 220, 17, 29, 151670]


def test_pixels_are_upstreams(golden: Path, processor: EagleProcessor) -> None:
    out = load_file(golden / "transforms_out.safetensors")
    indices = sorted({name.split("/")[0] for name in out})
    images = [out[f"{i}/pil_image_uint8_hwc"].numpy().reshape(1, 224, 224, 3) for i in indices]
    got = processor.encode(["pick"] * len(images), images)["eagle_pixel_values"]
    for row, index in enumerate(indices):
        torch.testing.assert_close(got[row], out[f"{index}/pixel_values"][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("image", [np.zeros((1, 200, 224, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32)])
def test_other_images_are_refused(processor: EagleProcessor, image: np.ndarray) -> None:
    with pytest.raises(DatasetError, match="uint8"):
        processor.encode(["pick"], [image])


def test_an_instruction_cannot_smuggle_in_image_tokens(processor: EagleProcessor) -> None:
    with pytest.raises(DatasetError, match="IMG_CONTEXT"):
        processor.encode(["pick<IMG_CONTEXT>"], [black()])


def test_a_tokenizer_of_another_model_is_refused(processor: EagleProcessor) -> None:
    with pytest.raises(UsageError, match="151669"):
        EagleProcessor(processor.tokenizer, OFFICIAL_EAGLE.model_copy(update={"image_token_index": 5}))
