"""What a run is warned of before its engine starts: too little memory, too little disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec
from trainer.events import WarningEvent
from trainer.forecast import Model, forecast, read_sections, room_for_checkpoints
from trainer.memory_advice import FITS, fits, named, ways
from trainer.runner.cards import Card, used

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def before_training(spec: RunSpec, base_model: Path, output_dir: Path) -> list[WarningEvent]:
    """The warnings of a run that is about to train ``base_model`` on this machine."""
    model = read_sections(base_model)
    memory = None if model is None else memory_warning(spec.config, model, used(spec.config.num_gpus))
    disk = disk_warning(spec, base_model, output_dir)
    return [warning for warning in (memory, disk) if warning is not None]


def memory_warning(config: FinetuneConfig, model: Model, cards: Sequence[Card]) -> WarningEvent | None:
    """A warning when the training will hardly fit the smallest of ``cards`` or, without one, this machine's memory."""
    needs = forecast(config, model)
    sized = [card for card in cards if card.memory]
    if not sized:
        have = host_memory()
        if cards or have is None or needs.host_on_cpu <= have:
            return None
        return WarningEvent(
            message=f"On a CPU this training needs about {needs.host_on_cpu / 1e9:.1f} GB of memory; "
            f"this machine has {have / 1e9:.1f} GB.",
            hint=f"`--base-model-path {config.generation.tiny}` rehearses it with a small model; the real one wants a "
            "GPU.",
        )
    card = min(sized, key=lambda each: each.memory)
    if fits(needs.gpu.total, card.memory):
        return None
    found = ways(config, model, card.memory)
    fitting = bool(found) and fits(found[0].total, card.memory)
    return WarningEvent(
        message=f"This training needs about {needs.gpu.total / 1e9:.1f} GB of GPU memory; {card.name} has "
        f"{card.memory / 1e9:.1f} GB, of which {FITS:.0%} can be counted on.",
        hint=(f"These fit: {named(found)}." if fitting else "It takes a larger GPU.") + " docs/memory.md says more.",
    )


def disk_warning(spec: RunSpec, base_model: Path, output_dir: Path) -> WarningEvent | None:
    """A warning when the checkpoints that an engine keeps will hardly fit beside each other."""
    needed = room_for_checkpoints(base_model, spec.config, output_dir, native=spec.engine == "native")
    free = shutil.disk_usage(output_dir).free
    if needed <= free:
        return None
    return WarningEvent(
        message=f"The checkpoints may need {needed / 1e9:.1f} GB; {output_dir} has {free / 1e9:.1f} GB free.",
        hint="Free some space, set PIPPA_HOME to a larger disk, or raise --save-steps.",
    )


def host_memory() -> int | None:
    """Bytes of this machine's memory, or of what its container may take; None where that can't be known."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total
