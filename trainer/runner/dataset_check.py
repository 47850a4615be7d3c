"""The check of a run's datasets, as events: how far it is, and what is odd about one that will do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import importers
from trainer.config.finetune_config import FinetuneConfig
from trainer.events import Event, PhaseEvent, WarningEvent, every
from trainer.importers.normalize_dataset import refuse_pointers

if TYPE_CHECKING:
    from trainer.data.checks import Checked

_SECONDS = 2.0


def check_datasets(
    datasets: list[tuple[Path, str]], config: FinetuneConfig, emit: Callable[[Event], None], *, warn: bool = True
) -> list[Checked]:
    """Check each folder, called by the name beside it, for a training with ``config``; files checked before are not.

    Raises ``DatasetError`` with every problem of the first dataset that training would fail on.
    """
    checked = []
    for (folder, name), options in zip(datasets, config.data_options, strict=True):
        emit(PhaseEvent(phase="check", message=f"Checking {name} against {config.data_config}."))
        refuse_pointers(folder, name)

        def tell(done: int, of: int, name: str = name) -> None:
            emit(PhaseEvent(phase="check", message=f"Checking {name}: {done:,} of {of:,} files."))

        found = importers.require_valid(folder, config.data_config, name, options, every(_SECONDS, tell))
        for each in found.warnings if warn else ():
            emit(WarningEvent(message=each.message, hint=each.fix))
        checked.append(found)
    return checked
