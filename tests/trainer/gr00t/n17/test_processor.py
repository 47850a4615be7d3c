"""Prompts and patches of N1.7: against upstream's ids and bytes, and against transformers' own processor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from tests.support.golden_n17 import IMAGE_CASES
from trainer.errors import DatasetError, UsageError
from trainer.gr00t.n17.processor import IMAGE_TOKEN, ImageSettings, QwenProcessor
from trainer.gr00t.n17.sections import ModelConfig


@pytest.fixture(scope="module")
def tokenizer(golden_n17: Path) -> Tokenizer:
    """Qwen's, as far as the golden prompts need it."""
    document = json.loads((golden_n17 / "prompts.json").read_text())
    special = document["special"]
    pieces = {
        piece.replace("Ġ", " ").replace("Ċ", "\n"): int(number)
        for number, piece in document["pieces"].items()
        if piece not in special
    }
    made = Tokenizer(WordLevel({**pieces, **special}, unk_token="<|endoftext|>"))
    longest_first: list[str] = sorted(pieces, key=len, reverse=True)
    made.pre_tokenizer = Split(Regex("|".join(longest_first)), "isolated")
    made.decoder = ByteLevelDecoder()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


@pytest.fixture(scope="module")
def cases(golden_n17: Path) -> dict[str, Any]:
    return json.loads((golden_n17 / "image_cases.json").read_text())


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_ids_grids_and_pixels_are_upstreams(
    golden_n17: Path, cases: dict[str, Any], tokenizer: Tokenizer, name: str
) -> None:
    case, tensors = cases[name], load_file(golden_n17 / "images.safetensors")
    settings = ImageSettings(size={"shortest_edge": case["min_pixels"], "longest_edge": 16777216})
    processor = QwenProcessor(tokenizer, ModelConfig(), settings)
    texts, images = [], []
    for number, step in enumerate(case["steps"]):
        texts.append(step["text"].rpartition("<|vision_end|>")[2].removesuffix("<|im_end|>\n"))
        images.append([tensors[f"{name}/{number}/image_{i}"].numpy() for i in range(step["images"])])
    got = processor.encode(texts, images)
    assert torch.equal(got["input_ids"], tensors[f"{name}/input_ids"])
    assert torch.equal(got["attention_mask"], tensors[f"{name}/attention_mask"])
    assert got["unpadded"] == bool(tensors[f"{name}/attention_mask"].all())
    assert got["image_grid_thw"].tolist() == case["grid"]
    pixels = got["pixel_values"]
    if f"{name}/pixel_values" in tensors:
        assert torch.equal(pixels, tensors[f"{name}/pixel_values"])
    else:
        want = case["pixel_values"]
        assert list(pixels.shape) == want["shape"]
        assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == want["sha256"]


@pytest.mark.parametrize("batch", ["A", "B"])
def test_the_models_batches(golden_n17: Path, tokenizer: Tokenizer, batch: str) -> None:
    """The ids alone: the golden batches hold no images."""
    texts = json.loads((golden_n17 / "results.json").read_text())["prompts"][batch]
    want = load_file(golden_n17 / f"batch_{batch}.safetensors")
    sizes = {"A": [(96, 96)], "B": [(96, 96), (64, 128)]}[batch]
    processor = QwenProcessor(
        tokenizer, ModelConfig(), ImageSettings(size={"shortest_edge": 4096, "longest_edge": 10**6})
    )
    words = [text.rpartition("<|vision_end|>")[2].removesuffix("<|im_end|>\n") for text in texts]
    got = processor.encode(words, [[np.zeros((*size, 3), np.uint8) for size in sizes]] * len(words))
    for name in ("input_ids", "attention_mask", "image_grid_thw"):
        assert torch.equal(got[name], want[name])


@pytest.mark.parametrize("size", [(256, 256), (256, 340), (100, 80), (455, 256), (31, 400), (1000, 1000)])
def test_patches_are_those_of_transformers(tokenizer: Tokenizer, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    settings = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    stock = Qwen2VLImageProcessor(size={"shortest_edge": 65536, "longest_edge": 16777216}, **settings)
    want = stock(images=[torch.from_numpy(image).permute(2, 0, 1)], return_tensors="pt")
    got = QwenProcessor(tokenizer, ModelConfig()).encode(["open"], [[image]])
    assert torch.equal(got["pixel_values"], want["pixel_values"])
    assert torch.equal(got["image_grid_thw"], want["image_grid_thw"])
    tokens = int(want["image_grid_thw"].prod()) // 4
    assert int((got["input_ids"] == 151655).sum()) == tokens


def test_what_cant_be_encoded_is_refused(tokenizer: Tokenizer) -> None:
    processor = QwenProcessor(tokenizer, ModelConfig())
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(DatasetError, match="contains the model's own token"):
        processor.encode([f"open {IMAGE_TOKEN}"], [[image]])
    with pytest.raises(DatasetError, match="uint8"):
        processor.encode(["open"], [[image.astype(np.float32)]])
    with pytest.raises(DatasetError, match="aspect ratio"):
        processor.encode(["open"], [[np.zeros((2, 1000, 3), np.uint8)]])


def test_another_models_tokenizer_is_refused(tokenizer: Tokenizer) -> None:
    config = ModelConfig.model_validate(
        {"qwen3_vl_config": {**ModelConfig().qwen3_vl_config.model_dump(), "image_token_id": 7}}
    )
    with pytest.raises(UsageError, match="the id 151655, the model wants 7"):
        QwenProcessor(tokenizer, config)


def test_what_is_saved_is_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    processor = QwenProcessor(
        tokenizer, ModelConfig(), ImageSettings(size={"shortest_edge": 4096, "longest_edge": 8192})
    )
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "Gr00tN1d7"}')
    again = QwenProcessor.from_directory(tmp_path)
    assert again.images == processor.images
    image = np.zeros((64, 96, 3), np.uint8)
    ours, theirs = (each.encode(["open the drawer"], [[image]]) for each in (processor, again))
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"preprocessor_config\.json"):
        QwenProcessor.from_directory(tmp_path)
