"""What a training holds in memory, counted from sizes, against the model itself at its full size."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.support.fake_training import meta_model, peak_bytes, saved_bytes
from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import DATA_CONFIGS
from trainer.forecast import forecast
from trainer.gr00t.lora import merged_state
from trainer.gr00t.n15.memory import parts
from trainer.gr00t.n15.sections import Sections, tiny_sections
from trainer.gr00t.weights import GrootModel

OFFICIAL = Sections.of({})
FLAGS = ("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model")
ALL = {"tune_llm": True, "tune_visual": True}


WIDE = replace(DATA_CONFIGS["so100_dualcam"], name="wide", action_horizon=50, max_action_dim=48)
"""A data config with another horizon and other widths than the model's."""


def config(**flags: Any) -> FinetuneConfig:
    if flags.get("data_config") == WIDE.name:
        flags["data_config"] = WIDE
    return FinetuneConfig.model_validate({"dataset_path": ["any"], "data_config": "so100_dualcam", **flags})


def test_the_parts_have_the_parameters_that_upstreams_have() -> None:
    head, mixing, language, vision = (part.parameters for part in parts(OFFICIAL, config()))
    assert vision == 427_680_704 + 2_361_344
    assert language == 914_674_688
    assert mixing == 201_433_088 + 4_096
    assert head == 550_386_688 + 52_510_720 + 228_212_736 + 34_636_800 + 1_572_864 + 49_152
    assert forecast(config(), OFFICIAL).gpu.trained == 1_068_806_144


@pytest.mark.parametrize("sizes", [{}, tiny_sections()], ids=["3B", "tiny"])
def test_the_largest_piece_that_fsdp_gathers(sizes: dict[str, Any]) -> None:
    model = meta_model(config(), **sizes)
    assert largest_piece(model) == max(part.width * part.piece for part in parts(Sections.of(sizes), config()))


def largest_piece(model: GrootModel) -> int:
    """Bytes of the parameters that FSDP gathers at a time, at the most."""
    left, largest = {id(each) for each in model.parameters()}, 0
    for piece in (*model.pieces(), model):
        own = [each for each in piece.parameters() if id(each) in left]
        left -= {id(each) for each in own}
        largest = max(largest, sum(each.numel() * each.element_size() for each in own))
    assert not left
    return largest


@pytest.mark.parametrize("data_config", ["so100_dualcam", "wide"])
@pytest.mark.parametrize("sizes", [{}, tiny_sections()], ids=["3B", "tiny"])
def test_parameters_gradients_and_moments_are_exact_for_every_combination_of_flags(
    sizes: dict[str, Any], data_config: str
) -> None:
    model = meta_model(config(data_config=data_config), **sizes)
    parameters = list(model.parameters())
    for tuned in itertools.product([False, True], repeat=4):
        given = config(data_config=data_config, **dict(zip(FLAGS, tuned, strict=True)))
        model.set_trainable(*tuned)
        trained = [each for each in parameters if each.requires_grad]
        memory = forecast(given, Sections.of(sizes)).gpu
        assert memory.parameters == sum(each.numel() for each in parameters)
        assert memory.trained == sum(each.numel() for each in trained)
        assert memory.weights == sum(each.numel() * each.element_size() for each in parameters)
        assert memory.gradients == sum(each.numel() * each.element_size() for each in trained)
        assert memory.moments == 2 * memory.gradients


@pytest.mark.parametrize(("full", "projector"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("sizes", [{}, tiny_sections()], ids=["3B", "tiny"])
def test_adapters_and_what_a_checkpoint_merges_them_into_are_exact(
    sizes: dict[str, Any], full: bool, projector: bool
) -> None:
    given = config(lora_rank=24, lora_full_model=full, tune_projector=projector, data_config="wide")
    model = meta_model(given, **sizes)
    trained = [each for each in model.parameters() if each.requires_grad]
    needs = forecast(given, Sections.of(sizes))
    assert needs.gpu.parameters == sum(each.numel() for each in model.parameters())
    assert needs.gpu.trained == sum(each.numel() for each in trained)
    assert needs.gpu.gradients == sum(each.numel() * each.element_size() for each in trained)
    state, changing = merged_state(model)
    kept = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    assert needs.disk.changing == sum(kept[name] for name in changing) + needs.gpu.gradients
    assert needs.disk.frozen == sum(size for name, size in kept.items() if name not in changing)


SOME = [
    {"batch_size": 8, "data_config": "wide"},
    {"batch_size": 32, **ALL},
    {"batch_size": 8, "lora_rank": 64, "lora_full_model": True},
]
MORE = [
    {"batch_size": 1},
    {"batch_size": 32},
    {"batch_size": 1, **ALL, "data_config": "fourier_gr1_arms_only"},
    {"batch_size": 8, "tune_visual": True, "tune_projector": False},
    {"batch_size": 32, "tune_diffusion_model": False},
    {"batch_size": 1, "tune_diffusion_model": False, "tune_projector": False},
    {"batch_size": 32, "lora_rank": 32},
]


@pytest.mark.parametrize(
    "flags",
    [*SOME, *(pytest.param(flags, marks=pytest.mark.slow) for flags in MORE)],
    ids=lambda flags: ",".join(f"{name}={value}" for name, value in flags.items()),
)
def test_activations_are_what_autograd_saves_at_full_size(flags: dict[str, Any]) -> None:
    given = config(**flags)
    assert forecast(given, OFFICIAL).gpu.activations == pytest.approx(saved_bytes(given), rel=0.05)


def test_prompts_of_different_lengths_change_little() -> None:
    given = config(batch_size=8, **ALL)
    assert forecast(given, OFFICIAL).gpu.activations == pytest.approx(saved_bytes(given, padded=True), rel=0.05)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"batch_size": 1}, marks=pytest.mark.slow),
        {"batch_size": 8, **ALL},
        pytest.param({"batch_size": 32, "gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
    ],
    ids=["gradients", "between", "accumulated"],
)
def test_all_of_it_together_is_what_a_step_holds_at_its_peak(flags: dict[str, Any]) -> None:
    given = config(**flags)
    assert forecast(given, OFFICIAL).gpu.tensors == pytest.approx(peak_bytes(given), rel=0.03)
