"""Upstream's numbers, made on a CPU in float32, on a GPU: in float32 to rounding, in bfloat16 to what it can tell."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.gpu.conftest import Within
from tests.support.golden import expected, load_config, load_state, make_model
from trainer.gr00t.n15.model import GR00TN15

pytestmark = pytest.mark.gpu
VARIANTS = ["A_sdpa", "B_sdpa", "B_fa2ref"]
FLOAT32 = 1e-4
"""Sums of float32 in another order; upstream's own kernels differ by 6e-6 on a CPU."""
BFLOAT16 = 0.03
"""Of the norm. bfloat16 has 8 bits: each rounding is off by up to 0.4 %, and the errors add up like a random walk."""


class Golden:
    """The small model of the golden numbers and its batches, on the device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.config, self.state = load_config(folder), load_state(folder)
        self._made: dict[str | None, GR00TN15] = {}

    def model(self, padding: str | None, *, everything: bool = False) -> GR00TN15:
        """The model, in eval mode, without gradients; all of it trained, or the head."""
        if padding not in self._made:
            self._made[padding] = make_model(self.config, self.state, padding)
            self._made[padding].to(self.device)  # pyrefly: ignore[bad-argument-type]
        model = self._made[padding]
        model.zero_grad()
        model.set_trainable(everything, everything, True, True)
        return model.eval()

    def batch(self, name: str) -> dict[str, torch.Tensor]:
        """Batch A, or B with a padded prompt."""
        return self._moved(load_file(self.folder / f"batch_{name}.safetensors"))

    def expected(self, variant: str) -> dict[str, torch.Tensor]:
        """Upstream's numbers."""
        return self._moved(expected(self.folder, variant))

    def _moved(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def upstream(golden: Path, device: torch.device) -> Golden:
    return Golden(golden, device)


def most(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two values."""
    return (ours.float() - theirs.float()).abs().max().item()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference, of the norm."""
    return ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_velocity_and_loss_in_float32(upstream: Golden, float32: None, within: Within, variant: str) -> None:
    want, model = upstream.expected(variant), upstream.model(variant[2:])
    with torch.no_grad():
        got = model(upstream.batch(variant[0]), noise=want["noise"], time=want["t"])
    differences = (
        most(got["predicted_velocity"], want["predicted_velocity"]),
        most(got["loss"], want["loss"][0]),
    )
    within(max(differences), FLOAT32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_actions_in_float32(upstream: Golden, float32: None, within: Within, variant: str) -> None:
    want = upstream.expected(variant)
    got = upstream.model(variant[2:]).get_action(upstream.batch(variant[0]), noise=want["get_action_noise"])
    within(most(got["action_pred"], want["action_pred"]), FLOAT32)


@pytest.mark.parametrize("variant", ["A_sdpa", "A_sdpa_tune_all"])
def test_gradients_in_float32(upstream: Golden, float32: None, within: Within, golden: Path, variant: str) -> None:
    """The norm of each parameter's gradient, of upstream's."""
    norms: dict[str, float] = json.loads((golden / "results.json").read_text())[variant]["grad_norms"]
    model, want = upstream.model("sdpa", everything=variant.endswith("all")), upstream.expected("A_sdpa")
    model(upstream.batch("A"), noise=want["noise"], time=want["t"])["loss"].backward()
    found = {name: each.grad.norm().item() for name, each in model.named_parameters() if each.grad is not None}
    assert set(found) == set(norms)
    # What a key's bias adds to a query's scores is the same for all keys: its gradient is zero, but for rounding.
    real = [name for name in norms if not name.endswith(("to_k.bias", "k_proj.bias"))]
    within(max(abs(found[name] / norms[name] - 1) for name in real), 1e-3)


@pytest.mark.parametrize("name", ["A", "B"])
def test_velocity_and_loss_in_bfloat16(upstream: Golden, float32: None, within: Within, name: str) -> None:
    exact, rough = in_both(upstream, name)
    within(max(relative(rough[each], exact[each]) for each in ("predicted_velocity", "loss")), BFLOAT16)


def test_gradients_in_bfloat16(upstream: Golden, float32: None, within: Within) -> None:
    """All of them, as one vector."""
    exact, rough = in_both(upstream, "A")
    within(relative(rough["gradient"], exact["gradient"]), 3 * BFLOAT16)


def in_both(upstream: Golden, name: str) -> list[dict[str, torch.Tensor]]:
    """Velocity, loss and gradient in float32, and as it is trained: backbone in bfloat16, head under autocast."""
    want, batch, model = upstream.expected(f"{name}_sdpa"), upstream.batch(name), upstream.model(None)
    found = []
    for half in (False, True):
        model.zero_grad()
        trained = copy.deepcopy(model) if half else model
        if half:
            trained.backbone.to(torch.bfloat16)
        with torch.autocast(upstream.device.type, torch.bfloat16, enabled=half):
            got = trained(batch, noise=want["noise"], time=want["t"])
        got["loss"].backward()
        gradient = torch.cat([each.grad.flatten() for each in trained.parameters() if each.grad is not None])
        found.append({name: each.detach() for name, each in got.items()} | {"gradient": gradient})
    return found


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("padding", [1, 8])
def test_a_sample_does_not_feel_its_padding(
    upstream: Golden, float32: None, within: Within, padding: int, half: bool
) -> None:
    """A prompt alone, and with so many tokens of padding on its left: masked attention, whatever kernel runs it."""
    want, batch = upstream.expected("A_sdpa"), {name: each[:1] for name, each in upstream.batch("A").items()}
    padded = {**batch, "eagle_unpadded": False}
    for name in ("eagle_input_ids", "eagle_attention_mask"):
        padded[name] = torch.nn.functional.pad(batch[name], (padding, 0))
    model, velocities = upstream.model(None), []
    with torch.no_grad(), torch.autocast(upstream.device.type, torch.bfloat16, enabled=half):
        for inputs in (batch, padded):
            velocities.append(model(inputs, noise=want["noise"][:1], time=want["t"][:1])["predicted_velocity"])
    assert all(each.isfinite().all() for each in velocities)
    within(relative(velocities[1], velocities[0]), BFLOAT16 if half else FLOAT32)
