"""The generated base model of N1.7: deterministic, small, whole, and able to learn from what it sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.golden_steps import optimizer_steps
from trainer.data.n17 import processor_files
from trainer.errors import UsageError
from trainer.generation import N17, generation_in
from trainer.gr00t.base_model import has_tokenizer, require_whole
from trainer.gr00t.n17.model import EMBEDDINGS, LM_HEAD, Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.n17.sections import TINY_VOCABULARY
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.weights import save_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def batch(tiny: Path) -> dict[str, torch.Tensor]:
    """Four samples with random pictures and smooth actions."""
    rng = np.random.default_rng(0)
    images = [[image] for image in rng.integers(0, 255, (4, 128, 128, 3), dtype=np.uint8)]
    inputs = QwenProcessor.from_directory(tiny).encode(["pick the cube", "pick", "place", "put it"], images)
    steps = torch.linspace(-1, 1, 40)[None, :, None]
    return {
        **inputs,
        "state": torch.from_numpy(rng.normal(size=(4, 1, 64))),
        "action": steps * torch.from_numpy(rng.uniform(-1, 1, (4, 1, 32))),
        "action_mask": torch.ones(4, 40, 32),
        "embodiment_id": torch.full((4,), 10),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_and_global_randomness_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    assert contents(make_tiny_base_model(tmp_path / "again")) == contents(tiny)
    assert torch.equal(torch.rand(1), want)
    assert sum(map(len, contents(tiny).values())) < 15_000_000
    other = contents(make_tiny_base_model(tmp_path / "other", seed=1))
    assert {name for name, data in other.items() if contents(tiny)[name] != data} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_it_is_a_whole_base_model(tiny: Path) -> None:
    assert generation_in(tiny) == N17 and has_tokenizer(tiny)
    require_whole(tiny)
    assert QwenProcessor.from_directory(tiny).tokenizer.get_vocab_size() == TINY_VOCABULARY
    files = processor_files.read(tiny)
    assert files.slot("new_embodiment") == 10 and files.settings.max_action_horizon == 40


def test_a_constant_batch_is_learned(tiny: Path, batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = Gr00tN1d7.from_pretrained(tiny).train()
    noise, time = torch.randn(4, 40, 32), torch.rand(4)
    losses, _ = optimizer_steps(model, lambda: model(batch, noise, time)["loss"], 30, lr=1e-3)
    assert losses[-1] < losses[0] / 5


def test_the_head_starts_from_the_velocity_of_no_action(tiny: Path, batch: dict[str, torch.Tensor]) -> None:
    noise = torch.randn(4, 40, 32)
    with torch.no_grad():
        velocity = Gr00tN1d7.from_pretrained(tiny)(batch, noise, torch.zeros(4))["predicted_velocity"]
    assert torch.corrcoef(torch.stack([velocity.flatten(), -noise.flatten()]))[0, 1] > 0.9


def test_frozen_features_tell_where_things_are(tiny: Path) -> None:
    """A linear probe reads the place of a square from the backbone's features, on pictures it was not fitted to."""
    model, processor = Gr00tN1d7.from_pretrained(tiny), QwenProcessor.from_directory(tiny)
    rng = np.random.default_rng(0)
    images = rng.integers(80, 110, (320, 128, 128, 3), dtype=np.uint8)
    places = rng.integers(12, 116, (320, 2))
    for image, (x, y) in zip(images, places, strict=True):
        image[y - 8 : y + 8, x - 8 : x + 8] = (220, 40, 40)
    inputs = processor.encode(["pick"] * len(images), [[image] for image in images])
    with torch.inference_mode():
        features = model.backbone(inputs["input_ids"], None, inputs["pixel_values"], inputs["image_grid_thw"]).flatten(
            1
        )
    target = torch.tensor(places, dtype=torch.float32) / 64 - 1
    seen, unseen = features[:256], features[256:]
    seen, unseen = seen - features[:256].mean(0), unseen - features[:256].mean(0)
    gram = seen @ seen.T
    weights = torch.linalg.solve(gram + 1e-2 * gram.diagonal().mean() * torch.eye(256), target[:256])
    error = (unseen @ seen.T @ weights - target[256:]).square().mean()
    assert error < 0.05 * target[256:].var()


def test_a_checkpoint_is_a_base_model_again(tiny: Path, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = Gr00tN1d7.from_pretrained(tiny)
    with torch.no_grad():
        model.get_parameter("action_head.vlln.weight").add_(1)
    save_checkpoint(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Gr00tN1d7"] and config["dtype"] == "float32" and config["select_layer"] == 2
    again = Gr00tN1d7.from_pretrained(tmp_path)
    noise = torch.randn(4, 40, 32)
    assert torch.equal(model.get_action(batch, noise)["action_pred"], again.get_action(batch, noise)["action_pred"])


def test_published_files_load(tiny: Path, tmp_path: Path) -> None:
    """In bfloat16, with the output layer's copy of the embeddings, or under LeRobot's prefix: always to float32."""
    from safetensors.torch import load_file, save_file

    state = {name: t for file in sorted(tiny.glob("*.safetensors")) for name, t in load_file(file).items()}
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    save_file({**state, LM_HEAD: state[EMBEDDINGS].clone()}, tmp_path / "model.safetensors")
    model = Gr00tN1d7.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in Gr00tN1d7.from_pretrained(tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    save_file({f"_groot_model.{name}": tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    other = Gr00tN1d7.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop(EMBEDDINGS), r"1 missing \(backbone\.model\.model\.language_model\.embed_tokens"),
        (lambda state: state.update(more=torch.zeros(1)), r"1 unexpected \(more\)"),
        (lambda state: state.update({EMBEDDINGS: torch.zeros(7, 96)}), r"has shape \(7, 96\), config\.json means"),
    ],
)
def test_weights_that_contradict_config_json_are_refused(tiny: Path, tmp_path: Path, change, problem: str) -> None:
    from safetensors.torch import load_file, save_file

    state = {name: t for file in sorted(tiny.glob("*.safetensors")) for name, t in load_file(file).items()}
    change(state)
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=problem) as refused:
        Gr00tN1d7.from_pretrained(tmp_path)
    assert "model.safetensors" in refused.value.message
