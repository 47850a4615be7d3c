"""The generated base model: deterministic, small, and able to learn from what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.support.golden_steps import optimizer_steps
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.gr00t.n15.tiny import make_tiny_base_model


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    assert contents(make_tiny_base_model(tmp_path)) == contents(tiny)
    assert sum(map(len, contents(tiny).values())) < 15_000_000


def test_another_seed_gives_another_model_and_global_randomness_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    make_tiny_base_model(tmp_path, seed=1)
    assert torch.equal(torch.rand(1), want)
    different = [name for name, data in contents(tmp_path).items() if contents(tiny)[name] != data]
    assert different == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_a_constant_batch_is_learned(tiny: Path, batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = GR00TN15.from_pretrained(tiny).train()
    noise, time = torch.randn(4, 16, 32), torch.rand(4)
    losses, _ = optimizer_steps(model, lambda: model(batch, noise, time)["loss"], 30, lr=1e-3, betas=(0.95, 0.999))
    assert losses[-1] < losses[0] / 5


def test_the_head_starts_from_the_velocity_of_no_action(tiny: Path, batch: dict[str, torch.Tensor]) -> None:
    """Untrained, it predicts minus the noisy action, but for a scale."""
    noise = torch.randn(4, 16, 32)
    with torch.no_grad():
        velocity = GR00TN15.from_pretrained(tiny)(batch, noise, torch.zeros(4))["predicted_velocity"]
    correlation = torch.corrcoef(torch.stack([velocity.flatten(), -noise.flatten()]))[0, 1]
    assert correlation > 0.9


def test_frozen_features_tell_where_things_are(tiny: Path) -> None:
    """A linear probe reads the place of a square from the backbone's features, on pictures it was not fitted to."""
    model, processor = GR00TN15.from_pretrained(tiny), EagleProcessor.from_directory(tiny)
    rng = np.random.default_rng(0)
    images = rng.integers(80, 110, (160, 1, 224, 224, 3), dtype=np.uint8)
    places = rng.integers(20, 204, (160, 2))
    for image, (x, y) in zip(images, places, strict=True):
        image[0, y - 14 : y + 14, x - 14 : x + 14] = (220, 40, 40)
    inputs = processor.encode(["pick"] * len(images), list(images))
    with torch.inference_mode():
        features = model.backbone(
            inputs["eagle_input_ids"], inputs["eagle_attention_mask"], inputs["eagle_pixel_values"]
        ).flatten(1)
    target = torch.tensor(places, dtype=torch.float32) / 112 - 1
    seen, unseen = features[:128], features[128:]
    seen, unseen = seen - features[:128].mean(0), unseen - features[:128].mean(0)
    gram = seen @ seen.T
    weights = torch.linalg.solve(gram + 1e-2 * gram.diagonal().mean() * torch.eye(128), target[:128])
    error = (unseen @ seen.T @ weights - target[128:]).square().mean()
    assert error < 0.1 * target[128:].var()


def test_prompts_differ_by_instruction(tiny: Path) -> None:
    processor = EagleProcessor.from_directory(tiny)
    image = np.zeros((1, 224, 224, 3), np.uint8)
    inputs = processor.encode(["pick the red cube", "pick the green cube über"], [image, image])
    assert inputs["eagle_attention_mask"][0, 0] == 0 and inputs["eagle_attention_mask"][:, -1].all()
    text = processor.tokenizer.decode(inputs["eagle_input_ids"][1].tolist(), skip_special_tokens=False)
    assert text.endswith("</img>pick the green cube über<|im_end|>\n<|im_start|>assistant\n")
