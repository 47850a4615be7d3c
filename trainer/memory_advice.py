"""Which card a training fits, and with which flags it fits a smaller one. No torch.

What it needs is in ``trainer.forecast``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainer.config.argv import to_argv
from trainer.config.finetune_config import FinetuneConfig
from trainer.forecast import Model, gpu_memory

FITS = 0.92
"""A training fits a card when the forecast is at most this share of its memory. The rest is for what torch's allocator
holds in pieces too small to use, and for other programs on the card."""

CARDS = {16: 15_360, 24: 23_028, 32: 32_607, 40: 40_960, 48: 46_068, 80: 81_559, 96: 97_887, 141: 143_771}
"""Sizes that cards are sold in, in GB, and what nvidia-smi shows of one in MiB: T4, A10G, RTX 5090, A100, L40S, H100,
RTX PRO 6000, H200."""

ADVISED_RANK = 32
"""Of the LoRA adapters that are suggested where memory is short."""

_LESS: tuple[dict[str, object], ...] = (
    {"tune_llm": False},
    {"tune_visual": False},
    {"tune_llm": False, "tune_visual": False},
    {"tune_diffusion_model": False},
    {"lora_full_model": False},
    {"lora_rank": ADVISED_RANK},
)
"""What can be changed, beside the batch, to need less GPU memory."""
_LESS_BY = 0.8
"""Of what was too much, to try next."""

GENERAL_ADVICE = (
    "Lower --batch-size, of N1.7 --global-batch-size (raise --gradient-accumulation-steps to keep the samples of a "
    "step), train fewer parts (--no-tune-llm, --no-tune-visual, --no-tune-diffusion-model) or use --lora-rank "
    f"{ADVISED_RANK}."
)
"""Where the model is not known."""


def fits(need: int, memory: int) -> bool:
    """Whether a training that needs so many bytes fits a card of so many."""
    return need <= FITS * memory


def smallest_card(need: int) -> int | None:
    """The smallest size of a card, in GB as it is sold, that a training fits; None where none is large enough."""
    return next((size for size, mib in CARDS.items() if fits(need, mib << 20)), None)


class Way(NamedTuple):
    """Flags with which a training needs less GPU memory, and how much it then needs."""

    flags: str
    total: int


def ways(config: FinetuneConfig, model: Model, memory: int) -> list[Way]:
    """How the training fits a card of ``memory`` bytes: by a smaller batch, by training less of the model, by LoRA.

    Each with the largest batch that fits, if need be with the accumulation that keeps the global batch. Where nothing
    fits, the one that needs least.
    """
    found: list[Way] = []
    tried: list[Way] = []
    for change in ({}, *_divisions(config), *_LESS):
        same = any(getattr(config, name) == value for name, value in change.items())
        # With LoRA the tune flags decide about the projector only.
        if same or (config.lora_rank and any(name.startswith("tune_") for name in change)):
            continue
        for flags in _batches(config, change):
            changed = config.model_copy(update=flags)
            changed = changed.with_batch_size(changed.batch_size)
            total = gpu_memory(changed, model).total
            tried.append(Way(" ".join(to_argv(changed, flags)), total))
            if fits(total, memory):
                found.append(tried[-1])
                break
    return found or sorted(tried, key=lambda way: way.total)[:1]


def advice(config: FinetuneConfig, model: Model | None) -> str:
    """What to change after a GPU ran out of memory, with what it then needs as far as ``model`` is known."""
    if model is None:
        return GENERAL_ADVICE
    total = gpu_memory(config, model).total
    found = [way for way in ways(config, model, round(_LESS_BY * total / FITS)) if way.total < total]
    if not found:
        return f"The forecast was {total / 1e9:.1f} GB: it takes a larger GPU, or one that nothing else uses."
    return f"The forecast was {total / 1e9:.1f} GB. Less takes one of these: {named(found)}."


def named(found: Sequence[Way]) -> str:
    """The flags of ``found``, with what a training then needs."""
    return ", ".join(f"`{way.flags}` ({way.total / 1e9:.1f} GB)" for way in found)


def _divisions(config: FinetuneConfig) -> Iterator[dict[str, object]]:
    """How the GPUs can divide the model, that which sends less between machines first."""
    if not config.fsdp and min(config.num_nodes, config.num_gpus) > 1:
        yield {"fsdp": True, "fsdp_devices": config.num_gpus}
    if not config.fsdp and config.processes > 1:
        yield {"fsdp": True}
    if config.fsdp and config.shards < config.processes:
        yield {"fsdp_devices": config.processes}


def _batches(config: FinetuneConfig, change: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """``change`` alone, then with the batch halved again and again, at each size first with the same global batch."""
    if change:
        yield dict(change)
    batch, samples = config.batch_size, config.batch_size * config.gradient_accumulation_steps
    while batch > 1:
        batch //= 2
        if samples % batch == 0:
            yield {**change, "batch_size": batch, "gradient_accumulation_steps": samples // batch}
        yield {**change, "batch_size": batch}
