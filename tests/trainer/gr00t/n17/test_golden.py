"""Upstream's own numbers for N1.7, reproduced through the public classes (golden-n17/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden_n17 import forward
from tests.support.golden_steps import assert_weights_after_ten_steps, optimizer_steps
from trainer.errors import UsageError
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.positions import find_positions
from trainer.gr00t.parts.chunking import Chunking

MakeModel = Callable[..., Gr00tN1d7]
NO_GRADIENT = "backbone.model.model.language_model.norm.weight"


@pytest.fixture(scope="module")
def results(golden_n17: Path) -> dict[str, Any]:
    return json.loads((golden_n17 / "results.json").read_text())


def assert_close(ours: torch.Tensor, upstream: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, upstream, atol=tolerance, rtol=0)


@pytest.mark.parametrize("batch", ["A", "B"])
@torch.no_grad()
def test_every_part_of_the_forward_pass(
    golden_n17: Path, golden_model: MakeModel, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the arithmetic of the machine at hand. The timestep embedding, which feels it most, is upstream's: of 128
    frequencies, one lies beside the middle of two floats, and which one ``exp`` gives is up to the processor.
    """
    model, inputs = golden_model(), load_file(golden_n17 / f"batch_{batch}.safetensors")
    want = load_file(golden_n17 / f"forward_{batch}.safetensors")
    mask = inputs["attention_mask"]
    real = mask != 0
    grids = [(rows, columns) for _, rows, columns in inputs["image_grid_thw"].tolist()]
    positions = find_positions(inputs["input_ids"], mask, grids, model.config.checked.qwen3_vl_config)
    # At padding, other versions say otherwise.
    assert torch.equal(positions.position_ids[:, real], want["position_ids"][:, real])
    encoded, levels = model.backbone.encode_images(inputs["pixel_values"], inputs["image_grid_thw"], positions)
    assert_close(encoded, want["vision_features"], 5e-5)
    for level, features in enumerate(levels):
        assert_close(features, want[f"deepstack_{level}"], 5e-5)
    features = model.backbone(inputs["input_ids"], mask, inputs["pixel_values"], inputs["image_grid_thw"])
    assert_close(features[real], want["backbone_features"][real], 5e-5)
    images = inputs["input_ids"] == model.backbone.image_token
    assert torch.equal(images, want["image_mask"] != 0)
    head = model.action_head
    context = head.context(features, images, real)
    assert_close(head.vlln(features), want["vlln_out"], 5e-5)
    assert_close(context.features, want["vl_self_attention_out"], 1e-4)
    assert_close(head.encode_state(inputs["state"], inputs["embodiment_id"]), want["state_features"], 1e-5)
    assert_close(head.model.timestep_encoder(want["t_discretized"]), want["dit_timestep_emb"], 2e-5)
    assert_close(inputs["action"] - want["noise"], want["target_velocity"], 0)
    assert_close(forward(model, golden_n17, batch)[0]["loss"], want["loss"][0], 2e-5)
    monkeypatch.setattr(head.model.timestep_encoder, "forward", lambda _: want["dit_timestep_emb"])
    got, _ = forward(model, golden_n17, batch)
    assert_close(got["predicted_velocity"], want["predicted_velocity"], 1e-4)
    assert_close(got["loss"], want["loss"][0], 2e-5)


@pytest.mark.parametrize("batch", ["A", "B"])
def test_sampled_actions(golden_n17: Path, golden_model: MakeModel, batch: str) -> None:
    inputs, want = (load_file(golden_n17 / f"{name}_{batch}.safetensors") for name in ("batch", "forward"))
    got = golden_model().get_action(inputs, noise=want["get_action_noise"])
    assert_close(got["action_pred"], want["action_pred"], 1e-4)


def test_a_chunk_that_continues_another(golden_n17: Path, golden_model: MakeModel, results: dict[str, Any]) -> None:
    inputs, want = (load_file(golden_n17 / f"{name}_B.safetensors") for name in ("batch", "forward"))
    options = results["rtc_options"]
    chunking = Chunking(
        want["rtc_previous_action"],
        horizon=options["action_horizon"],
        overlap=options["rtc_overlap_steps"],
        frozen=options["rtc_frozen_steps"],
        ramp_rate=options["rtc_ramp_rate"],
    )
    got = golden_model().get_action(inputs, noise=want["rtc_noise"], chunking=chunking)["action_pred"]
    assert_close(got, want["rtc_action_pred"], 1e-4)
    kept = chunking.previous[:, chunking.horizon - chunking.overlap :][:, : chunking.frozen]
    assert torch.equal(got[:, : chunking.frozen], kept)


@pytest.mark.parametrize("steps", [{"frozen": 9}, {"overlap": 17}, {"horizon": 17}, {"frozen": -1}, {"ramp_rate": 0.0}])
def test_steps_of_a_chunk_that_contradict_are_refused(steps: dict[str, Any]) -> None:
    right: dict[str, Any] = {"horizon": 16, "overlap": 8, "frozen": 2, "ramp_rate": 6.0}
    Chunking(torch.zeros(1, 16, 132), **right)
    with pytest.raises(UsageError, match="impossible"):
        Chunking(torch.zeros(1, 16, 132), **{**right, **steps})


@torch.no_grad()
def test_a_dropped_state(golden_n17: Path, golden_model: MakeModel) -> None:
    inputs, want = (load_file(golden_n17 / f"{name}_B.safetensors") for name in ("batch", "forward"))
    noise, time = want["statedrop_noise"], want["statedrop_t"]
    got = golden_model()(inputs, noise=noise, time=time, keep_state=torch.zeros(2))
    assert_close(got["loss"], want["statedrop_loss"][0], 2e-5)


@torch.no_grad()
@pytest.mark.parametrize(("probability", "seed"), [(1.0, 0), (0.5, 0), (0.5, 4)])
def test_in_training_a_state_is_dropped_by_the_first_draw_of_the_step(
    golden_n17: Path, golden_model: MakeModel, probability: float, seed: int
) -> None:
    config = golden_model().config.checked
    parts = {"diffusion_model_cfg": config.diffusion_model_cfg, "vl_self_attention_cfg": config.vl_self_attention_cfg}
    still = {name: {**part.model_dump(), "dropout": 0.0} for name, part in parts.items() if part}
    model = golden_model(state_dropout_prob=probability, **still)
    inputs, want = (load_file(golden_n17 / f"{name}_B.safetensors") for name in ("batch", "forward"))
    drawn = {"noise": want["noise"], "time": want["t"]}
    torch.manual_seed(seed)
    keep = (torch.rand(2) >= probability).float()
    told = model(inputs, **drawn, keep_state=keep)["loss"]
    torch.manual_seed(seed)
    assert torch.equal(model.train()(inputs, **drawn)["loss"], told)
    whole = model.eval()(inputs, **drawn)["loss"]
    assert bool(whole == told) == bool(keep.all())
    assert_close(whole, want["loss"][0], 2e-5)


@torch.no_grad()
def test_a_sample_does_not_feel_what_it_is_batched_with(golden_n17: Path, golden_model: MakeModel) -> None:
    """Batch B's padded sample, alone and beside the longer one; upstream's actions differ by 2.2."""
    inputs, want = (load_file(golden_n17 / f"{name}_B.safetensors") for name in ("batch", "forward"))
    noise = want["get_action_noise"]
    real = inputs["attention_mask"][1] != 0
    assert not real.all()
    patches = inputs["image_grid_thw"].prod(-1)
    alone = {name: value[1:] for name, value in inputs.items()} | {
        "input_ids": inputs["input_ids"][1:, real],
        "attention_mask": inputs["attention_mask"][1:, real],
        "image_grid_thw": inputs["image_grid_thw"][2:],
        "pixel_values": inputs["pixel_values"][patches[:2].sum() :],
    }

    def change(upstream_exact: bool) -> float:
        model = golden_model(upstream_exact=upstream_exact)
        together = model.get_action(inputs, noise=noise)["action_pred"][1:]
        return (together - model.get_action(alone, noise=noise[1:])["action_pred"]).abs().max().item()

    assert change(False) < 1e-4
    assert change(True) == pytest.approx(2.2126, abs=1e-3)


@torch.no_grad()
def test_without_padding_upstreams_way_is_ours(golden_n17: Path, golden_model: MakeModel) -> None:
    ours, theirs = (forward(golden_model(upstream_exact=exact), golden_n17, "A")[0] for exact in (False, True))
    assert torch.equal(ours["predicted_velocity"], theirs["predicted_velocity"])


VARIANTS: dict[str, dict[str, Any]] = {
    "A": {},
    "B": {},
    "A_tune_all": {"tune_llm": True, "tune_visual": True},
    "B_tune_all": {"tune_llm": True, "tune_visual": True},
    "A_no_projector": {"tune_projector": False},
    "A_no_diffusion": {"tune_diffusion_model": False},
    "A_top_2_llm_layers": {"tune_top_llm_layers": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(golden_n17: Path, golden_model: MakeModel, results: dict[str, Any], variant: str) -> None:
    flags, want = VARIANTS[variant], results[variant]
    top = {"tune_top_llm_layers": flags["tune_top_llm_layers"]} if "tune_top_llm_layers" in flags else {}
    model = golden_model(**top)
    model.set_trainable(
        flags.get("tune_llm", False),
        flags.get("tune_visual", False),
        flags.get("tune_projector", True),
        flags.get("tune_diffusion_model", True),
    )
    loss = forward(model, golden_n17, variant[0])[0]["loss"]
    assert loss.item() == pytest.approx(want["loss"], abs=2e-5)
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name: p.grad.norm().item() for name, p in trained.items() if p.grad is not None}
    assert sum(p.numel() for p in trained.values()) == want["n_trainable"]
    assert sorted(set(trained) - set(norms)) == sorted(want["trainable_without_grad"])
    assert set(norms) == set(want["grad_norms"])
    for name, norm in norms.items():
        # What a key's bias adds to a query's scores is the same for all keys: its gradient is zero, but for rounding.
        if name.endswith("to_k.bias"):
            assert norm < 1e-4
        elif name.endswith("attn.qkv.bias"):
            assert norm == pytest.approx(want["grad_norms"][name], rel=1e-3)
        else:
            assert norm == pytest.approx(want["grad_norms"][name], rel=1e-4), name
    if variant == "A":
        for name, grad in load_file(golden_n17 / "grads_A_selected.safetensors").items():
            parameter, _, slot = name.partition("[")
            ours = trained[parameter].grad
            assert ours is not None
            ours = ours[int(slot.rstrip("]"))] if slot else ours
            assert (ours - grad).norm() <= 1e-4 * grad.norm(), name


def test_in_training_every_trained_parameter_has_a_gradient(golden_n17: Path, golden_model: MakeModel) -> None:
    """As DistributedDataParallel wants it: also the norm that nothing reads."""
    model = golden_model()
    model.set_trainable(True, True, True, True)
    forward(model.train(), golden_n17, "A")[0]["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    norm = gradients[NO_GRADIENT]
    assert norm is not None and not norm.any()


def test_ten_steps_of_adamw(golden_n17: Path, golden_model: MakeModel, results: dict[str, Any]) -> None:
    model, want = golden_model(), results["adamw_10_steps_batch_A_fixed_noise"]
    options = {name: want[name] for name in ("lr", "eps", "weight_decay")} | {"betas": tuple(want["betas"])}
    losses, norms = optimizer_steps(
        model, lambda: forward(model, golden_n17, "A")[0]["loss"], 10, want["clip"], **options
    )
    assert losses == pytest.approx(want["losses"], rel=1e-4)
    assert norms == pytest.approx(want["grad_norm_before_clip"], rel=1e-3)
    assert_weights_after_ten_steps(model, golden_n17)
