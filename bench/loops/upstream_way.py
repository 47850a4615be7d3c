"""Upstream's way of driving the model, with ours: what is compared where upstream itself can't be installed.

What upstream's step does and ours leaves out, and nothing else: our data path, our kernels and the same random draws
stay, so the losses are those of ours to rounding, and the difference in speed is the least that upstream's loop costs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from trainer.config.finetune_config import FinetuneConfig
from trainer.gr00t.n15.model import GR00TN15
from trainer.training import arguments
from trainer.training.finetune_trainer import FinetuneTrainer

STEP = {name: getattr(Trainer, name) for name in ("training_step", "_clip_grad_norm")}
"""transformers' own step: the mode of every module set again each time, accelerate's clipping."""

OPTIMIZER = "adamw_torch"
"""AdamW in several passes instead of the fused one."""


def drive_in_upstreams_way() -> None:
    """Change this process's ``FinetuneTrainer`` (``STEP``, ``OPTIMIZER``) and the models it loads.

    See ``compute_what_nobody_reads`` for what the models compute then.
    """
    for name, method in STEP.items():
        setattr(FinetuneTrainer, name, method)
    ours = arguments.training_arguments

    def training_arguments(config: FinetuneConfig, output_dir: Path, sample_bytes: int = 0) -> TrainingArguments:
        made = ours(config, output_dir, sample_bytes)
        made.optim = OPTIMIZER
        return made

    arguments.training_arguments = training_arguments
    load = GR00TN15.from_pretrained.__func__

    def from_pretrained(cls: type[GR00TN15], *args: Any, **kwargs: Any) -> GR00TN15:
        model = load(cls, *args, **kwargs)
        compute_what_nobody_reads(model)
        return model

    GR00TN15.from_pretrained = classmethod(from_pretrained)


def compute_what_nobody_reads(model: GR00TN15) -> Callable[[], None]:
    """Let ``model`` compute, and throw away, what upstream's does. Returns what undoes it.

    - the language model's logits over the whole sequence, with all its hidden states kept;
    - SigLIP's pooling head.
    """
    eagle = model.backbone.eagle_model
    vision = eagle.vision_model.vision_model
    no_logits = compute_logits(eagle.language_model.model)
    vision.use_head = True

    def undo() -> None:
        vision.use_head = False
        no_logits()

    return undo


def compute_logits(language: nn.Module) -> Callable[[], None]:
    """Let a language model compute its logits and keep its hidden states. Returns what undoes it."""
    hooks = [
        language.register_forward_pre_hook(_keep_hidden_states, with_kwargs=True),
        language.register_forward_hook(_logits),
    ]

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo


def _keep_hidden_states(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "output_hidden_states": True}


def _logits(language_model: Any, _: Any, output: Any) -> None:
    output.logits = functional.linear(output.last_hidden_state, language_model.embed_tokens.weight)
    assert isinstance(output.logits, torch.Tensor)
