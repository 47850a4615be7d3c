"""Upstream's numbers for N1.7, made on a CPU in float32, on a GPU: to rounding, and under bf16 autocast as trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.gpu.conftest import Within
from tests.gpu.test_goldens import BFLOAT16, FLOAT32, most, relative
from tests.support.golden_n17 import load_state, make_model
from trainer.gr00t.n17.model import Gr00tN1d7

pytestmark = pytest.mark.gpu
BATCHES = ("A", "B")
ROUNDED = 2 * BFLOAT16
"""As N1.5's, with the backbone's products rounded as well: float32 weights, of which autocast makes copies."""


class GoldenN17:
    """The small model of the golden numbers and its batches, on the device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device, self._state = folder, device, load_state(folder)

    def model(self, *, upstream_exact: bool = True) -> Gr00tN1d7:
        """The model, in eval mode, without gradients; the head is trained."""
        model = make_model(self.folder, self._state, upstream_exact=upstream_exact)
        return model.to(self.device)  # pyrefly: ignore[bad-argument-type]

    def batch(self, name: str) -> dict[str, torch.Tensor]:
        """Batch A, or B with a padded prompt."""
        return self._moved(f"batch_{name}")

    def expected(self, name: str) -> dict[str, torch.Tensor]:
        """Upstream's numbers."""
        return self._moved(f"forward_{name}")

    def _moved(self, name: str) -> dict[str, torch.Tensor]:
        tensors = load_file(self.folder / f"{name}.safetensors")
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def upstream(golden_n17: Path, device: torch.device) -> GoldenN17:
    return GoldenN17(golden_n17, device)


@pytest.mark.parametrize("name", BATCHES)
def test_n17s_velocity_and_loss_in_float32(
    upstream: GoldenN17, float32: None, within: Within, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = upstream.expected(name)
    model = upstream.model()
    # Of 128 frequencies, one lies beside the middle of two floats, and which one `exp` gives is up to the processor.
    monkeypatch.setattr(model.action_head.model.timestep_encoder, "forward", lambda _: want["dit_timestep_emb"])
    with torch.no_grad():
        got = model(upstream.batch(name), noise=want["noise"], time=want["t"])
    velocity = most(got["predicted_velocity"], want["predicted_velocity"])
    within(max(velocity, most(got["loss"], want["loss"][0])), FLOAT32)


@pytest.mark.parametrize("name", BATCHES)
def test_n17s_actions_in_float32(upstream: GoldenN17, float32: None, within: Within, name: str) -> None:
    want = upstream.expected(name)
    got = upstream.model().get_action(upstream.batch(name), noise=want["get_action_noise"])
    within(most(got["action_pred"], want["action_pred"]), FLOAT32)


def test_n17s_gradients_in_float32(upstream: GoldenN17, float32: None, within: Within) -> None:
    """The norm of each parameter's gradient, of upstream's."""
    norms = json.loads((upstream.folder / "results.json").read_text())["A"]["grad_norms"]
    model, want = upstream.model(), upstream.expected("A")
    model(upstream.batch("A"), noise=want["noise"], time=want["t"])["loss"].backward()
    found = {name: each.grad.norm().item() for name, each in model.named_parameters() if each.grad is not None}
    real = [name for name in found if not name.endswith("to_k.bias")]  # those are zero, but for rounding
    within(max(abs(found[name] / norms[name] - 1) for name in real), 1e-3)


@pytest.mark.parametrize("name", BATCHES)
def test_n17s_velocity_and_loss_in_bfloat16(upstream: GoldenN17, float32: None, within: Within, name: str) -> None:
    """As it is trained: float32 weights under autocast."""
    want, found = upstream.expected(name), []
    for half in (False, True):
        with torch.no_grad(), torch.autocast(upstream.device.type, torch.bfloat16, enabled=half):
            found.append(upstream.model()(upstream.batch(name), noise=want["noise"], time=want["t"]))
    exact, rough = found
    within(max(relative(rough[each], exact[each]) for each in ("predicted_velocity", "loss")), ROUNDED)


@pytest.mark.parametrize("padding", [1, 8])
def test_n17s_sample_does_not_feel_its_padding(
    upstream: GoldenN17, float32: None, within: Within, padding: int
) -> None:
    """A prompt alone, and with so many tokens of padding on its left: masked attention, whatever kernel runs it."""
    want, whole = upstream.expected("A"), upstream.batch("A")
    images = len(whole["image_grid_thw"]) // len(whole["input_ids"])
    patches = int(whole["image_grid_thw"][:images].prod(dim=1).sum())
    one = {name: each[:1] for name, each in whole.items()}
    one |= {"pixel_values": whole["pixel_values"][:patches], "image_grid_thw": whole["image_grid_thw"][:images]}
    padded = {**one, "unpadded": False}
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(one[name], (padding, 0))
    model, velocities = upstream.model(upstream_exact=False), []
    with torch.no_grad():
        for inputs in (one, padded):
            velocities.append(model(inputs, noise=want["noise"][:1], time=want["t"][:1])["predicted_velocity"])
    within(relative(velocities[1], velocities[0]), FLOAT32)
