"""Upstream's own numbers, reproduced through the public classes (golden/README.md says how they were made)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden import VARIANTS, expected, forward
from tests.support.golden_steps import assert_weights_after_ten_steps, optimizer_steps
from trainer.gr00t.n15.model import GR00TN15

MakeModel = Callable[..., GR00TN15]
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def results(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "results.json").read_text())


def assert_close(ours: torch.Tensor, upstream: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, upstream, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward(golden: Path, golden_model: MakeModel, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arithmetic of the machine at hand; the timestep embedding, which feels it most, is upstream's."""
    model = golden_model(padding=variant[2:])
    inputs = load_file(golden / f"batch_{variant[0]}.safetensors")
    want = expected(golden, variant)
    encoder = model.action_head.model.timestep_encoder
    with torch.no_grad():
        features = model.backbone(
            inputs["eagle_input_ids"], inputs["eagle_attention_mask"], inputs["eagle_pixel_values"]
        )
        assert_close(features, want["backbone_features"], 2e-5)
        assert_close(model.action_head.context(features), want["vl_self_attention_out"], 2e-5)
        assert_close(encoder(want["t_discretized"]), want["dit_timestep_emb"], 2e-5)
        assert_close(forward(model, golden, variant)[0]["loss"], want["loss"][0], 2e-5)
        monkeypatch.setattr(encoder, "forward", lambda _: want["dit_timestep_emb"])
        got, _ = forward(model, golden, variant)
    assert_close(got["predicted_velocity"], want["predicted_velocity"], 2e-5)
    assert_close(got["loss"], want["loss"][0], 2e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has no MKL here")
def test_with_upstreams_arithmetic(golden: Path, tmp_path: Path) -> None:
    """Velocity, loss and actions with nothing put in, where ``exp`` is the one the golden numbers were made with.

    MKL evaluates ``exp`` differently on different processors. Of the 128 frequencies of the timestep, one (0.75, the
    fifth) lies a hundredth of a unit beside the middle of two floats. MKL for AVX2 and AVX-512 gives the nearer one, as
    an exact ``exp`` would; MKL for any x86 processor gives the other, and so do the golden numbers. At bucket 800 that
    shifts an angle by some 5e-5, and the velocity by 2.4e-5. MKL_CBWR is Intel's switch for equal results on different
    processors. It is read once in a process, hence a process for this test.
    """
    out = tmp_path / "ours.safetensors"
    command = [sys.executable, "-m", "tests.support.golden", str(golden), str(out)]
    subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, "MKL_CBWR": "COMPATIBLE"})
    for name, ours in load_file(out).items():
        variant, quantity = name.split("/")
        assert_close(ours, expected(golden, variant)[quantity], 2e-6 if quantity == "dit_timestep_emb" else 2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sampled_actions(golden: Path, golden_model: MakeModel, variant: str) -> None:
    want = expected(golden, variant)
    inputs = load_file(golden / f"batch_{variant[0]}.safetensors")
    got = golden_model(padding=variant[2:]).get_action(inputs, noise=want["get_action_noise"])
    assert_close(got["action_pred"], want["action_pred"], 2e-5)


def test_without_padding_our_masks_change_nothing(golden: Path, golden_model: MakeModel) -> None:
    """The default model and both of upstream's kinds give the same bits on prompts of equal length."""
    losses = [forward(golden_model(padding=padding), golden, "A_sdpa")[0] for padding in (None, "sdpa", "fa2ref")]
    for other in losses[1:]:
        assert torch.equal(losses[0]["predicted_velocity"], other["predicted_velocity"])
        assert torch.equal(losses[0]["loss"], other["loss"])


def test_a_sample_does_not_feel_what_it_is_batched_with(golden: Path, golden_model: MakeModel) -> None:
    """Batch B's padded sample, alone and beside the longer one; upstream's differs by 0.2 (golden/results.json)."""
    inputs = load_file(golden / "batch_B.safetensors")
    want = expected(golden, "B_fa2ref")
    alone = {name: value[:1] for name, value in inputs.items()}
    alone["eagle_input_ids"], alone["eagle_attention_mask"] = (
        inputs["eagle_input_ids"][:1, 1:],
        inputs["eagle_attention_mask"][:1, 1:],
    )
    assert alone["eagle_attention_mask"].all() and not inputs["eagle_attention_mask"][0, 0]

    def change(padding: str | None) -> float:
        model = golden_model(padding=padding)
        with torch.no_grad():
            together = model(inputs, noise=want["noise"], time=want["t"])["predicted_velocity"][:1]
            by_itself = model(alone, noise=want["noise"][:1], time=want["t"][:1])["predicted_velocity"]
        return (together - by_itself).abs().max().item()

    assert change(None) < 2e-5
    assert change("fa2ref") == pytest.approx(0.2118, abs=1e-3)


@pytest.mark.parametrize("variant", [*VARIANTS, "A_sdpa_tune_all"])
def test_gradients(golden: Path, golden_model: MakeModel, results: Any, variant: str) -> None:
    tune_all = variant.endswith("tune_all")
    model, want = golden_model(llm=tune_all, visual=tune_all, padding=variant.split("_")[1]), results[variant]
    forward(model, golden, variant)[0]["loss"].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name: p.grad.norm().item() for name, p in trained.items() if p.grad is not None}
    assert sum(p.numel() for p in trained.values()) == want["n_trainable"]
    assert sorted(set(trained) - set(norms)) == sorted(want["trainable_without_grad"])
    assert set(norms) == set(want["grad_norms"])
    for name, norm in norms.items():
        # What a key's bias adds to a query's scores is the same for all keys: its gradient is zero, but for rounding.
        floor = 1e-5 if name.endswith(("to_k.bias", "k_proj.bias")) else 0
        assert norm == pytest.approx(want["grad_norms"][name], rel=1e-4, abs=floor), name
    if variant == "A_sdpa":
        for name, grad in load_file(golden / "grads_A_sdpa_selected.safetensors").items():
            ours = trained[name].grad
            assert ours is not None
            ours = ours[31] if name.endswith("W2.W") else ours
            assert (ours - grad).norm() <= 1e-4 * grad.norm(), name


def test_ten_steps_of_adamw(golden: Path, golden_model: MakeModel, results: Any) -> None:
    model, want = golden_model(), results["adamw_10_steps_batch_A_fixed_noise"]
    options = {"lr": 5e-4, "betas": (0.95, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    losses, norms = optimizer_steps(model, lambda: forward(model, golden, "A_sdpa")[0]["loss"], 10, 1.0, **options)
    assert losses == pytest.approx(want["losses"], rel=1e-4)
    assert norms == pytest.approx(want["grad_norm_before_clip"], rel=1e-3)
    assert_weights_after_ten_steps(model, golden)
