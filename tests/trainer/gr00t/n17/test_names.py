"""The official N1.7's parameters: names, shapes and counts, on the meta device; and how its config.json is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.errors import UsageError
from trainer.gr00t.n17.config import Gr00tN1d7Config, read_config
from trainer.gr00t.n17.model import EMBEDDINGS, Gr00tN1d7
from trainer.gr00t.n17.sections import OFFICIAL_QWEN

OFFICIAL: dict[str, Any] = {
    "model_type": "Gr00tN1d7",
    "architectures": ["Gr00tN1d7"],
    "dtype": "bfloat16",
    "select_layer": 16,
    "diffusion_model_cfg": {
        "attention_head_dim": 48,
        "dropout": 0.2,
        "final_dropout": True,
        "interleave_self_attention": True,
        "norm_type": "ada_norm",
        "num_attention_heads": 32,
        "num_layers": 32,
        "output_dim": 1024,
        "positional_embeddings": None,
    },
    "vl_self_attention_cfg": {
        "attention_head_dim": 64,
        "dropout": 0.2,
        "final_dropout": True,
        "num_attention_heads": 32,
        "num_layers": 4,
        "positional_embeddings": None,
    },
}
"""What the published config.json says as far as it differs from the defaults of upstream's class."""
SHARED = Path(__file__).resolve().parents[5] / "shared"


@pytest.fixture(scope="module")
def official() -> Gr00tN1d7:
    with torch.device("meta"):
        return Gr00tN1d7(Gr00tN1d7Config.from_dict(OFFICIAL))


def test_every_parameter_has_upstreams_name_and_shape(official: Gr00tN1d7) -> None:
    file = SHARED / "reference" / "gr00t-n17-params.json"
    if not file.is_file():
        pytest.skip("the list of upstream's parameters is not beside this checkout (../shared/reference)")
    document = json.loads(file.read_text())
    want: dict[str, tuple[int, ...]] = {}
    for name, found in document["parameters"].items():
        for entry in found if isinstance(found, list) else [found]:
            layers = entry.get("i", [0])
            if isinstance(layers, str):
                first, last = map(int, layers.split(".."))
                layers = range(first, last + 1)
            want |= {name.replace("{i}", str(i)): tuple(entry["shape"]) for i in layers}
    assert {name: tuple(tensor.shape) for name, tensor in official.state_dict().items()} == want
    assert len(want) == document["tensors"]
    for part, count in document["counts"].items():
        assert sum(p.numel() for p in official.get_submodule(part).parameters()) == count, part


def test_how_many_there_are(official: Gr00tN1d7) -> None:
    assert len(official.state_dict()) == 1030
    assert sum(p.numel() for p in official.parameters()) == 3_144_016_000
    assert {p.dtype for p in official.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("llm", "visual", "projector", "dit", "values", "trained"),
    [
        (False, False, True, True, {}, 1_620_515_968),
        (True, False, True, True, {}, 2_737_058_944),
        (False, True, True, True, {}, 2_027_473_024),
        (True, True, True, True, {}, 3_144_016_000),
        (False, False, False, True, {}, 1_293_159_424),
        (False, False, True, False, {}, 528_793_728),
        (False, False, False, False, {}, 201_437_184),
        (False, False, True, True, {"tune_vlln": False}, 1_419_078_784),
        (False, False, True, True, {"tune_top_llm_layers": 4}, 1_821_859_968),
    ],
)
def test_what_the_tune_flags_train(
    official: Gr00tN1d7, llm: bool, visual: bool, projector: bool, dit: bool, values: dict[str, Any], trained: int
) -> None:
    before = official.config
    official.config = Gr00tN1d7Config.from_dict({**OFFICIAL, **values})
    try:
        official.set_trainable(llm, visual, projector, dit)
    finally:
        official.config = before
    assert sum(p.numel() for p in official.parameters() if p.requires_grad) == trained


def test_frozen_parts_stay_in_eval_mode(official: Gr00tN1d7) -> None:
    official.set_trainable(False, False, True, False)
    official.train()
    head, qwen = official.action_head, official.backbone.qwen
    assert head.vl_self_attention.training and head.state_encoder.training
    assert not head.model.training and not head.model.get_submodule("transformer_blocks.0.ff.net.1").training
    assert not qwen.language_model.training and not qwen.visual.training
    official.set_trainable(True, True, True, True)
    assert head.model.training and qwen.language_model.training and qwen.visual.training
    assert not official.eval().action_head.model.training


def write(folder: Path, **values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**OFFICIAL, **values}))
    return folder


def test_what_a_config_leaves_out_has_the_defaults_of_upstreams_class(tmp_path: Path) -> None:
    """Which are not the published model's."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "Gr00tN1d7"}))
    config = read_config(tmp_path).checked
    assert (config.select_layer, config.dit.num_layers, config.mixing) == (12, 16, None)
    assert (config.max_state_dim, config.max_action_dim, config.action_horizon) == (132, 132, 40)
    assert config.state_dropout_prob == 0.8
    assert config.qwen3_vl_config.width == 2048


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, a_key_of_upstream=7))
    written = config.to_diff_dict()
    assert "cross_attention_dim" not in written["diffusion_model_cfg"]  # upstream's model gives it itself
    (tmp_path / "config.json").write_text(json.dumps(written))
    again = read_config(tmp_path)
    assert again.checked == config.checked
    assert again.to_dict()["qwen3_vl_config"]["vision_config"]["depth"] == 24


def qwen(**text: Any) -> dict[str, Any]:
    """Qwen3-VL-2B's sizes with some of the language model's changed."""
    values = OFFICIAL_QWEN.model_dump()
    return {**values, "text_config": {**values["text_config"], **text}}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"select_layer": 29}, "select_layer is 29, but the language model has 28 layers"),
        ({"select_layer": "many"}, "select_layer"),
        ({"backbone_embedding_dim": 1024}, "backbone_embedding_dim is 1024, but the language model has 2048"),
        ({"input_embedding_dim": 48}, "input_embedding_dim is 48, but diffusion_model_cfg has 1536"),
        ({"hidden_size": 512}, "hidden_size is 512, but the output of diffusion_model_cfg has 1024"),
        ({"max_seq_len": 39}, "max_seq_len is 39, less than action_horizon, 40"),
        ({"vl_self_attention_cfg": {"num_attention_heads": 3}}, "but vl_self_attention_cfg has 192"),
        ({"qwen3_vl_config": {"text_config": {}, "vision_config": {}}}, "text_config.hidden_size is None"),
        ({"qwen3_vl_config": qwen(num_attention_heads="many")}, "describes no Qwen3-VL"),
        ({"qwen3_vl_config": qwen(rope_theta=None, rope_scaling=None)}, "neither rope_parameters nor rope_scaling"),
    ],
)
def test_layers_that_contradict_each_other_are_refused(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as refused:
        read_config(write(tmp_path, **values))
    assert "config.json" in refused.value.message


def test_the_embeddings_are_where_weights_say(official: Gr00tN1d7) -> None:
    assert official.state_dict()[EMBEDDINGS].shape == (151936, 2048)
