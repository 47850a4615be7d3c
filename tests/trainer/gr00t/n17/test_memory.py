"""What a training of N1.7 holds in memory, counted from sizes, against the model itself: parameters at its full size,
activations of a smaller one that computes.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.support.fake_training import as_on_cuda, autocast
from tests.trainer.gr00t.test_memory import largest_piece
from trainer.config.n17_config import N17Config
from trainer.data.n17.embodiments import registered
from trainer.forecast import forecast, parts
from trainer.gr00t.lora import add_lora, merged_state
from trainer.gr00t.n17.config import Gr00tN1d7Config
from trainer.gr00t.n17.memory import IMAGE_TOKENS, TEXT_TOKENS
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.sections import OFFICIAL_3B, OFFICIAL_QWEN, ModelConfig, tiny_values
from trainer.memory_advice import smallest_card

FLAGS = ("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model")
TINY = ModelConfig.model_validate(tiny_values(0, 0, 0))

BLOCKS = {"num_attention_heads": 4, "attention_head_dim": 64, "dropout": 0.2, "final_dropout": True}
MEDIUM = ModelConfig.model_validate(
    {
        "backbone_embedding_dim": 256,
        "select_layer": 4,
        "hidden_size": 64,
        "input_embedding_dim": 256,
        "diffusion_model_cfg": {"num_layers": 4, "output_dim": 64, **BLOCKS},
        "vl_self_attention_cfg": {"num_layers": 2, **BLOCKS},
        "qwen3_vl_config": {
            "image_token_id": 5,
            "vision_start_token_id": 6,
            "vision_end_token_id": 8,
            "text_config": {
                **OFFICIAL_QWEN.text_config,
                "head_dim": 64,
                "hidden_size": 256,
                "intermediate_size": 768,
                "num_attention_heads": 4,
                "num_hidden_layers": 4,
                "num_key_value_heads": 2,
                "vocab_size": 512,
                "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
            },
            "vision_config": {
                **OFFICIAL_QWEN.vision_config,
                "deepstack_visual_indexes": [0, 1],
                "depth": 4,
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_heads": 4,
                "out_hidden_size": 256,
            },
        },
    }
)
"""Layers of every kind, wide enough that their activations are most of what is kept."""


def config(**flags: Any) -> N17Config:
    return N17Config(dataset_path=["any"], data_config=registered()["so100"], **flags)


def meta_model(sizes: ModelConfig) -> Gr00tN1d7:
    with torch.device("meta"):
        return Gr00tN1d7(Gr00tN1d7Config.from_dict(sizes.model_dump()))


def test_the_parts_have_the_parameters_that_upstreams_have() -> None:
    head, mixing, language, vision = (part.parameters for part in parts(OFFICIAL_3B, config()))
    assert vision == 406_957_056
    assert language == 1_116_542_976
    assert mixing == 201_433_088 + 4_096
    assert head == 1_091_722_240 + 54_738_944 + 233_127_936 + 37_916_800 + 1_572_864


@pytest.mark.parametrize(
    ("flags", "sizes", "trained"),
    [
        ({}, {}, 1_620_515_968),
        ({"tune_llm": True}, {}, 2_737_058_944),
        ({"tune_visual": True}, {}, 2_027_473_024),
        ({"tune_llm": True, "tune_visual": True}, {}, 3_144_016_000),
        ({"tune_projector": False}, {}, 1_293_159_424),
        ({"tune_diffusion_model": False}, {}, 528_793_728),
        ({"tune_projector": False, "tune_diffusion_model": False}, {}, 201_437_184),
        ({}, {"tune_vlln": False}, 1_419_078_784),
        ({}, {"tune_top_llm_layers": 4}, 1_821_859_968),
    ],
)
def test_upstreams_counts_of_what_is_trained(flags: dict[str, Any], sizes: dict[str, Any], trained: int) -> None:
    memory = forecast(config(**flags), OFFICIAL_3B.model_copy(update=sizes)).gpu
    assert memory.parameters == 3_144_016_000 and memory.trained == trained
    # Everything is float32: weights, gradients and both moments.
    assert memory.weights == 4 * memory.parameters
    assert memory.moments == 2 * memory.gradients == 8 * trained


def test_a_training_fits_where_nvidia_says_it_does() -> None:
    """32 GB before activations, "under 35 GB, a card of 40 GB" (upstream's documentation)."""
    memory = forecast(config(global_batch_size=1), OFFICIAL_3B).gpu
    assert memory.weights + memory.gradients + memory.moments == pytest.approx(32e9, rel=0.01)
    assert memory.total < 35e9 and smallest_card(memory.total) == 40


@pytest.mark.parametrize("sizes", [OFFICIAL_3B, TINY], ids=["3B", "tiny"])
def test_the_largest_piece_that_fsdp_gathers(sizes: ModelConfig) -> None:
    assert largest_piece(meta_model(sizes)) == max(part.width * part.piece for part in parts(sizes, config()))


@pytest.mark.parametrize("sizes", [OFFICIAL_3B, TINY], ids=["3B", "tiny"])
def test_parameters_are_exact_for_every_combination_of_flags(sizes: ModelConfig) -> None:
    model = meta_model(sizes)
    parameters = list(model.parameters())
    for tuned in itertools.product([False, True], repeat=4):
        model.set_trainable(*tuned)
        memory = forecast(config(**dict(zip(FLAGS, tuned, strict=True))), sizes).gpu
        assert memory.parameters == sum(each.numel() for each in parameters)
        assert memory.trained == sum(each.numel() for each in parameters if each.requires_grad)


@pytest.mark.parametrize(("full", "projector"), list(itertools.product([False, True], repeat=2)))
def test_adapters_and_what_a_checkpoint_merges_them_into_are_exact(full: bool, projector: bool) -> None:
    given = config(lora_rank=24, lora_full_model=full, tune_projector=projector)
    model = meta_model(TINY)
    model.set_trainable(False, False, False, False)
    add_lora(model, rank=24, alpha=16, dropout=0.0, full_model=full, train_projector=projector)
    trained = [each for each in model.parameters() if each.requires_grad]
    needs = forecast(given, TINY)
    assert needs.gpu.parameters == sum(each.numel() for each in model.parameters())
    assert needs.gpu.trained == sum(each.numel() for each in trained)
    state, changing = merged_state(model)
    kept = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    assert needs.disk.changing == sum(kept[name] for name in changing) + needs.gpu.gradients
    assert needs.disk.frozen == sum(size for name, size in kept.items() if name not in changing)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"tune_llm": True, "tune_visual": True},
        {"tune_visual": True, "tune_projector": False},
        {"tune_diffusion_model": False, "tune_projector": False},
        {"lora_rank": 16, "lora_full_model": True},
    ],
    ids=lambda flags: ",".join(flags) or "default",
)
def test_activations_are_what_autograd_saves(flags: dict[str, Any]) -> None:
    """Under bf16 autocast with CUDA's norms and dropout; prompts and images as large as the forecast takes them."""
    given = config(global_batch_size=4, **flags)
    assert forecast(given, MEDIUM).gpu.activations == pytest.approx(saved_bytes(given), rel=0.05)


def saved_bytes(given: N17Config) -> int:
    """What autograd saves of a forward pass of ``MEDIUM``, the parameters left out."""
    values = MEDIUM.model_dump()
    del values["diffusion_model_cfg"]["cross_attention_dim"]
    model = Gr00tN1d7(Gr00tN1d7Config.from_dict(values))
    model.set_trainable(*(getattr(given, flag) for flag in FLAGS))
    if given.lora_rank:
        given_to = {"full_model": given.lora_full_model, "train_projector": given.tune_projector}
        add_lora(model, rank=given.lora_rank, alpha=16, dropout=given.lora_dropout, **given_to)
    model.train()
    parameters = {each.untyped_storage()._cdata for each in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors too: a storage's number may be given again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    keep = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with as_on_cuda(), keep, autocast("cpu"):
        model(inputs(given.batch_size))
    return sum(size for size, _ in saved.values())


def inputs(batch: int) -> dict[str, Any]:
    """Of two cameras of 640x480."""
    images, image = 2, [6, *[5] * IMAGE_TOKENS, 8]
    prompt = [*image * images, *[7] * TEXT_TOKENS]
    action = torch.randn(batch, MEDIUM.action_horizon, MEDIUM.max_action_dim)
    return {
        "input_ids": torch.tensor([prompt] * batch),
        "attention_mask": torch.ones(batch, len(prompt), dtype=torch.int64),
        "pixel_values": torch.randn(batch * images * 4 * IMAGE_TOKENS, 1536),
        "image_grid_thw": torch.tensor([[1, 16, IMAGE_TOKENS // 4]] * (batch * images)),
        "state": torch.randn(batch, 1, MEDIUM.max_state_dim),
        "action": action,
        "action_mask": torch.ones_like(action),
        "embodiment_id": torch.full((batch,), 10),
        "unpadded": True,
        "one_embodiment": True,
    }
