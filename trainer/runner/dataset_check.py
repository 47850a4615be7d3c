"""The check of a run's datasets, as events: how far it is, and what is odd about one that will do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import importers
from trainer.config.finetune_config import FinetuneConfig
from trainer.data.exclusion import as_texts, parse_exclusion
from trainer.events import Event, PhaseEvent, WarningEvent, every
from trainer.importers.normalize_dataset import refuse_pointers

if TYPE_CHECKING:
    from trainer.data.checks import Checked

_SECONDS = 2.0


def check_datasets(
    datasets: list[tuple[Path, str]],
    config: FinetuneConfig,
    emit: Callable[[Event], None],
    base_model: Path,
    *,
    warn: bool = True,
) -> list[Checked]:
    """Check each folder, called by the name beside it, for a training of ``base_model`` with ``config``; files checked
    before are not.

    Raises ``DatasetError`` with every problem of the first dataset that training would fail on, and
    ``UsageError`` where the base model is not one for these data.
    """
    checked = []
    for number, ((folder, name), options) in enumerate(zip(datasets, config.data_options, strict=True), start=1):
        emit(PhaseEvent(phase="check", message=f"Checking {name} against {config.data_config}."))
        refuse_pointers(folder, name)

        def tell(done: int, of: int, name: str = name) -> None:
            emit(PhaseEvent(phase="check", message=f"Checking {name}: {done:,} of {of:,} files."))

        def excluding(episodes: list[int], number: int = number) -> list[str]:
            more = [f"{number}:{each}" for each in episodes]
            return as_texts(parse_exclusion([*config.exclude_episodes, *more], len(datasets)), len(datasets))

        found = importers.require_valid(folder, config.data_config, name, options, every(_SECONDS, tell), excluding)
        for each in found.warnings if warn else ():
            emit(WarningEvent(message=each.message, hint=each.fix))
        checked.append(found)
    if base_model.is_dir():
        compatibility = config.generation.module("gr00t", "compatibility")
        compatibility.require_fit(config, base_model, [folder for folder, _ in datasets])
    return checked
