"""Upstream's ten AdamW steps through the native engine's own loop: its optimizer, clipping and decay groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden_steps import Twice, assert_weights_after_ten_steps, train_ten_steps
from trainer.config.finetune_config import FinetuneConfig
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.training import finetune_trainer
from trainer.training.arguments import training_arguments


def make_trainer(model: GR00TN15, folder: Path, **flags: Any) -> finetune_trainer.FinetuneTrainer:
    """The engine's trainer over ``model``; dataset and processor stand for none."""
    config = FinetuneConfig(dataset_path=["-"], batch_size=2, dataloader_num_workers=0, **flags)
    return finetune_trainer.FinetuneTrainer(
        model=model,
        args=training_arguments(config, folder),
        train_dataset=cast(Any, Twice()),
        data_collator=cast(Any, None),
        processor=cast(Any, None),
        experiment_cfg=folder,
        callbacks=[],
    )


def test_ten_steps(
    golden: Path,
    golden_config: GR00TN15Config,
    golden_state: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    want = json.loads((golden / "results.json").read_text())["adamw_10_steps_batch_A_fixed_noise"]
    # The engine trains in training mode, upstream's ten steps were made in evaluation mode.
    config = GR00TN15Config.from_dict(golden_config.to_dict())
    head = json.loads(json.dumps(config.action_head_cfg))
    for part in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        head[part]["dropout"] = 0.0
    config.action_head_cfg = head
    model = GR00TN15(config)
    model.load_state_dict(golden_state)
    model.set_trainable(False, False, True, True)

    trainer = make_trainer(model, tmp_path, max_steps=10, learning_rate=5e-4, weight_decay=0.0)
    trainer.data_collator = lambda samples: load_file(golden / "batch_A.safetensors")
    forward = load_file(golden / "forward_A_sdpa.safetensors")
    losses, norms = train_ten_steps(trainer, forward, monkeypatch)
    assert losses == pytest.approx(want["losses"], rel=0, abs=1e-4)
    assert norms == pytest.approx(want["grad_norm_before_clip"], rel=1e-3)
    assert_weights_after_ten_steps(model, golden)


def test_weight_decay_spares_what_upstream_spares(golden_model: Callable[..., GR00TN15], tmp_path: Path) -> None:
    model = golden_model(llm=True, visual=True)
    trainer = make_trainer(model, tmp_path, weight_decay=0.01)
    decayed, spared = trainer.create_optimizer().param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert decayed["betas"] == (0.95, 0.999)
    assert decayed["eps"] == 1e-8
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    names_decayed = {names[id(parameter)] for parameter in decayed["params"]}
    names_spared = {names[id(parameter)] for parameter in spared["params"]}
    assert names_decayed | names_spared == set(names.values())
    # Parameters called `b`, and RMSNorm's: not a bias and not a LayerNorm, to transformers' rule of the time.
    assert "action_head.action_decoder.layer1.b" in names_decayed
    language = "backbone.eagle_model.language_model.model"
    assert {f"{language}.norm.weight", f"{language}.layers.0.self_attn.q_norm.weight"} <= names_decayed
    assert {"action_head.vlln.weight", "action_head.vlln.bias"} <= names_spared
    assert {name for name in names_spared if "bias" not in name} == {
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm) and module.elementwise_affine
    }
