"""The official model's parameters: names, shapes and counts, on the meta device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.gr00t.n15.config import GR00TN15Config, read_config
from trainer.gr00t.n15.model import EMBEDDINGS, GR00TN15, LM_HEAD

EAGLE = "backbone.eagle_model"
VISION = f"{EAGLE}.vision_model.vision_model"
TEXT = f"{EAGLE}.language_model.model"
HEAD = "action_head"


@pytest.fixture(scope="module")
def official() -> GR00TN15:
    with torch.device("meta"):
        return GR00TN15(GR00TN15Config())


def linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def category(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.W": (32, inputs, outputs), f"{name}.b": (32, outputs)}


def upstream_parameters() -> dict[str, tuple[int, ...]]:
    """All tensors of nvidia/GR00T-N1.5-3B, as upstream's classes make them."""
    want: dict[str, tuple[int, ...]] = {
        f"{VISION}.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{VISION}.embeddings.patch_embedding.bias": (1152,),
        f"{VISION}.embeddings.position_embedding.weight": (256, 1152),
        f"{VISION}.head.probe": (1, 1, 1152),
        f"{VISION}.head.attention.in_proj_weight": (3456, 1152),
        f"{VISION}.head.attention.in_proj_bias": (3456,),
        EMBEDDINGS: (151680, 2048),
        LM_HEAD: (151680, 2048),
        f"{TEXT}.norm.weight": (2048,),
        f"{HEAD}.future_tokens.weight": (32, 1536),
        f"{HEAD}.position_embedding.weight": (1024, 1536),
    }
    for index in range(27):
        layer = f"{VISION}.encoder.layers.{index}"
        want |= norm(f"{layer}.layer_norm1", 1152) | norm(f"{layer}.layer_norm2", 1152)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            want |= linear(f"{layer}.self_attn.{part}", 1152, 1152)
        want |= linear(f"{layer}.mlp.fc1", 4304, 1152) | linear(f"{layer}.mlp.fc2", 1152, 4304)
    want |= norm(f"{VISION}.post_layernorm", 1152) | norm(f"{VISION}.head.layernorm", 1152)
    want |= linear(f"{VISION}.head.attention.out_proj", 1152, 1152)
    want |= linear(f"{VISION}.head.mlp.fc1", 4304, 1152) | linear(f"{VISION}.head.mlp.fc2", 1152, 4304)
    want |= linear(f"{EAGLE}.mlp1.0", 2048, 1152)
    for index in range(12):
        layer = f"{TEXT}.layers.{index}"
        for part, shape in {
            "self_attn.q_proj": (2048, 2048),
            "self_attn.k_proj": (1024, 2048),
            "self_attn.v_proj": (1024, 2048),
            "self_attn.o_proj": (2048, 2048),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "mlp.gate_proj": (6144, 2048),
            "mlp.up_proj": (6144, 2048),
            "mlp.down_proj": (2048, 6144),
            "input_layernorm": (2048,),
            "post_attention_layernorm": (2048,),
        }.items():
            want[f"{layer}.{part}.weight"] = shape
    time = f"{HEAD}.model.timestep_encoder.timestep_embedder"
    want |= linear(f"{time}.linear_1", 1536, 256) | linear(f"{time}.linear_2", 1536, 1536)
    for index in range(16):
        block = f"{HEAD}.model.transformer_blocks.{index}"
        context = 1536 if index % 2 else 2048
        want |= linear(f"{block}.norm1.linear", 3072, 1536) | linear(f"{block}.attn1.to_q", 1536, 1536)
        want |= linear(f"{block}.attn1.to_k", 1536, context) | linear(f"{block}.attn1.to_v", 1536, context)
        want |= linear(f"{block}.attn1.to_out.0", 1536, 1536)
        want |= linear(f"{block}.ff.net.0.proj", 6144, 1536) | linear(f"{block}.ff.net.2", 1536, 6144)
    want |= linear(f"{HEAD}.model.proj_out_1", 3072, 1536) | linear(f"{HEAD}.model.proj_out_2", 1024, 1536)
    want |= category(f"{HEAD}.state_encoder.layer1", 64, 1024) | category(f"{HEAD}.state_encoder.layer2", 1024, 1536)
    want |= category(f"{HEAD}.action_encoder.W1", 32, 1536) | category(f"{HEAD}.action_encoder.W2", 3072, 1536)
    want |= category(f"{HEAD}.action_encoder.W3", 1536, 1536)
    want |= category(f"{HEAD}.action_decoder.layer1", 1024, 1024) | category(f"{HEAD}.action_decoder.layer2", 1024, 32)
    want |= norm(f"{HEAD}.vlln", 2048)
    for index in range(4):
        block = f"{HEAD}.vl_self_attention.transformer_blocks.{index}"
        want |= norm(f"{block}.norm1", 2048) | norm(f"{block}.norm3", 2048)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            want |= linear(f"{block}.attn1.{part}", 2048, 2048)
        want |= linear(f"{block}.ff.net.0.proj", 8192, 2048) | linear(f"{block}.ff.net.2", 2048, 8192)
    return want


def test_every_parameter_has_upstreams_name_and_shape(official: GR00TN15) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in official.state_dict().items()}
    ours[LM_HEAD] = ours[EMBEDDINGS]
    assert ours == upstream_parameters()
    assert len(ours) == 899
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == 2_724_163_520


def test_parameters_per_part(official: GR00TN15) -> None:
    def count(name: str) -> int:
        return sum(p.numel() for p in official.get_submodule(name).parameters())

    assert count(f"{EAGLE}.vision_model") == 427_680_704
    assert count(f"{VISION}.head") == 15_238_352
    assert count(f"{EAGLE}.mlp1") == 2_361_344
    assert count(f"{EAGLE}.language_model") == 914_674_688
    assert count(f"{HEAD}.model") == 550_386_688
    assert count(f"{HEAD}.vl_self_attention") == 201_433_088
    assert count(f"{HEAD}.state_encoder") == 52_510_720
    assert count(f"{HEAD}.action_encoder") == 228_212_736
    assert count(f"{HEAD}.action_decoder") == 34_636_800


def test_dtypes_are_those_upstream_trains_in(official: GR00TN15) -> None:
    assert {p.dtype for p in official.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in official.action_head.parameters()} == {torch.float32}


def test_the_official_config_is_read(official: GR00TN15, tmp_path: Path) -> None:
    """The keys upstream's file has (reference, 7.1) mean what our defaults mean, and survive a save."""
    document = {
        "model_type": "gr00t_n1_5",
        "architectures": ["GR00T_N1_5"],
        "action_dim": 32,
        "action_horizon": 16,
        "hidden_size": 2048,
        "model_dtype": "float32",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "attn_implementation": None,
        "backbone_cfg": {"select_layer": 12, "project_to_dim": None, "reproject_vision": False, "load_bf16": False},
        "action_head_cfg": {
            "backbone_embedding_dim": 2048,
            "hidden_size": 1024,
            "input_embedding_dim": 1536,
            "noise_s": 0.999,
            "a_key_of_upstream": 7,
            "diffusion_model_cfg": {"num_layers": 16, "num_attention_heads": 32, "attention_head_dim": 48},
            "vl_self_attention_cfg": {"num_layers": 4, "num_attention_heads": 32, "attention_head_dim": 64},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    config = read_config(tmp_path)
    saved = config.to_diff_dict()
    assert saved["action_head_cfg"].pop("a_key_of_upstream") == 7
    assert saved["action_head_cfg"] == official.config.action_head_cfg
    assert config.eagle == official.config.eagle
    with torch.device("meta"):
        assert GR00TN15(config).action_head.dtype == torch.float32


BACKBONE_LLM, BACKBONE_VISUAL = 914_674_688, 427_680_704 + 2_361_344


@pytest.mark.parametrize(
    ("llm", "visual", "projector", "dit", "trained"),
    [
        (False, False, True, True, 1_068_806_144),
        (False, False, True, False, 518_419_456),
        (False, False, False, True, 751_873_024),
        (False, False, False, False, 201_486_336),
        (True, False, True, True, 1_068_806_144 + BACKBONE_LLM),
        (False, True, True, True, 1_068_806_144 + BACKBONE_VISUAL),
        (True, True, True, True, 1_068_806_144 + BACKBONE_LLM + BACKBONE_VISUAL),
    ],
)
def test_what_the_tune_flags_train(
    official: GR00TN15, llm: bool, visual: bool, projector: bool, dit: bool, trained: int
) -> None:
    official.set_trainable(llm, visual, projector, dit)
    assert sum(p.numel() for p in official.parameters() if p.requires_grad) == trained


def test_frozen_parts_stay_in_eval_mode(official: GR00TN15) -> None:
    official.set_trainable(False, False, True, False)
    official.train()
    head = official.action_head
    assert head.vl_self_attention.training and head.state_encoder.training
    assert not head.model.training and not head.model.get_submodule("transformer_blocks.0.ff.net.1").training
    assert not official.backbone.eagle_model.language_model.training
    official.set_trainable(True, True, True, True)
    assert head.model.training and official.backbone.eagle_model.language_model.training
    assert not official.eval().action_head.model.training
