"""How fast this machine trained before: what its runs left in ``PIPPA_HOME``."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import ValidationError

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine, RunSpec
from trainer.events import ProgressEvent, parse_event

_RUNS = 100
"""The newest that are looked at."""
_TAIL_BYTES = 100_000
"""Of a run's events: some hundred of the last."""
_ENOUGH_EVENTS = 5
_WITHOUT_EFFECT = {
    *("output_dir", "max_steps", "save_steps", "resume", "report_to", "keep_last", "keep_every"),
    *("learning_rate", "weight_decay", "warmup_ratio", "lora_alpha", "embodiment_tag"),
}
"""Arguments that a step takes no longer or shorter for."""


class MeasuredSpeed(NamedTuple):
    """What a run did."""

    run_id: str
    seconds_per_step: float


def measured_speed(home: Path, config: FinetuneConfig, engine: Engine) -> MeasuredSpeed | None:
    """The speed of the newest run on this machine that trained the same way; None without one."""
    specs = sorted(home.glob("runs/*/spec.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    wanted = config.model_dump(exclude=_WITHOUT_EFFECT)
    for file in specs[:_RUNS]:
        try:
            spec = RunSpec.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # of another version, or being written
            continue
        if spec.engine != engine or spec.config.model_dump(exclude=_WITHOUT_EFFECT) != wanted:
            continue
        speeds = _speeds(file.with_name("events.jsonl"))
        if len(speeds) >= _ENOUGH_EVENTS:
            return MeasuredSpeed(spec.run_id, config.global_batch / median(speeds))
    return None


def _speeds(events: Path) -> list[float]:
    """Samples per second of the last events."""
    try:
        with events.open("rb") as stream:
            stream.seek(max(os.fstat(stream.fileno()).st_size - _TAIL_BYTES, 0))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = (parse_event(line) for line in lines)
    return [each.samples_per_second for each in found if isinstance(each, ProgressEvent) and each.samples_per_second]
