"""``processor_config.json``, ``statistics.json``, ``embodiment_id.json``: what a checkpoint of N1.7 knows of its data.

They lie beside the weights or, in the output folder of upstream's finished run, in ``processor/``. The checkpoint
decides how its embodiments are read: evaluation and serving need no data config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.data.data_config import DataConfig
from trainer.data.modality_config import from_upstream, to_upstream
from trainer.data.n17 import statistics
from trainer.data.n17.embodiments import PROJECTOR_INDEX
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.statistics import TagStatistics
from trainer.errors import UsageError
from trainer.generation import N17
from trainer.wrong_values import first_problem

CONFIG, STATISTICS, EMBODIMENTS = N17.processor_files
_CLASS = "Gr00tN1d7Processor"
_LEFT_OUT = ("modality_configs", "model_name", "model_type")


@dataclass(frozen=True)
class ProcessorFiles:
    """The contents of the three files."""

    settings: ProcessorSettings
    modality_configs: Mapping[str, Mapping[str, Any]]
    """By embodiment tag, in upstream's form; a base model has many, of which a training reads one."""
    statistics: Mapping[str, TagStatistics]
    slots: Mapping[str, int]
    """Embodiment tag to the slot of the action head's weights."""
    model_name: str
    where: str = CONFIG
    """What errors call it."""

    def data_config(self, tag: str) -> DataConfig:
        """How the observations and actions of ``tag`` are read. Raises ``UsageError`` for a tag that is not here."""
        if tag not in self.modality_configs:
            raise UsageError(
                f"{self.where} has no modality config of {tag}; it has {', '.join(self.modality_configs) or 'none'}.",
                "Use one of these embodiment tags, or declare a data config for a new embodiment.",
            )
        return from_upstream(self.modality_configs[tag], tag, f"{self.where}: {tag}")

    def of_tag(self, tag: str) -> TagStatistics:
        """The statistics of ``tag``. Raises ``UsageError`` where there are none."""
        if tag not in self.statistics:
            raise UsageError(
                f"There are no statistics of {tag} beside {self.where}; there are those of "
                f"{', '.join(self.statistics) or 'no embodiment'}.",
                "Use a checkpoint that was trained on this embodiment tag.",
            )
        return self.statistics[tag]

    def slot(self, tag: str) -> int:
        """The slot of the action head's weights. Raises ``UsageError`` for an unknown tag."""
        if tag not in self.slots:
            raise UsageError(f"No embodiment tag is called {tag!r}.", f"There are {', '.join(self.slots)}.")
        return self.slots[tag]

    def trained_on(self, tag: str, config: DataConfig, found: TagStatistics) -> ProcessorFiles:
        """These files after a training of ``tag``: its config and statistics replace those that are there."""
        return replace(
            self,
            modality_configs={**self.modality_configs, tag: to_upstream(config)},
            statistics={**self.statistics, tag: found},
        )

    def save(self, folder: Path) -> None:
        """Write the three files."""
        kwargs = {
            "modality_configs": {tag: dict(each) for tag, each in self.modality_configs.items()},
            **self.settings.model_dump(mode="json"),
            "model_name": self.model_name,
            "model_type": "qwen",
        }
        _write(folder / CONFIG, {"processor_class": _CLASS, "processor_kwargs": kwargs})
        _write(folder / STATISTICS, {tag: found.plain() for tag, found in self.statistics.items()})
        _write(folder / EMBODIMENTS, dict(self.slots))


def read(folder: Path) -> ProcessorFiles:
    """The three files in ``folder`` or its ``processor/``. Raises ``UsageError`` naming file and key."""
    place = folder if (folder / CONFIG).is_file() else folder / "processor"
    file = place / CONFIG
    document = _read(file)
    kwargs = document.get("processor_kwargs")
    if document.get("processor_class") != _CLASS or not isinstance(kwargs, dict):
        raise UsageError(
            f"{file} describes the processor {document.get('processor_class')!r}, not {_CLASS!r}.",
            "Use the files of a base model or checkpoint of GR00T N1.7.",
        )
    try:
        settings = ProcessorSettings.model_validate({k: v for k, v in kwargs.items() if k not in _LEFT_OUT})
    except ValidationError as error:
        problem = first_problem(error, ProcessorSettings)
        raise UsageError(f"{file}: processor_kwargs.{problem}.", "Copy the file again.") from None
    configs = kwargs.get("modality_configs") or {}
    if not isinstance(configs, dict) or not all(isinstance(each, dict) for each in configs.values()):
        raise UsageError(f"{file}: processor_kwargs.modality_configs is not an object of objects.", "Copy it again.")
    numbers = _read(place / STATISTICS) if (place / STATISTICS).is_file() else {}
    slots = _read(place / EMBODIMENTS) if (place / EMBODIMENTS).is_file() else {}
    if not all(isinstance(slot, int) and slot >= 0 for slot in slots.values()):
        raise UsageError(f"{place / EMBODIMENTS} gives an embodiment something else than a number.", "Copy it again.")
    return ProcessorFiles(
        settings=settings,
        modality_configs=configs,
        statistics=statistics.read(numbers, str(place / STATISTICS)),
        slots={**PROJECTOR_INDEX, **slots},
        model_name=str(kwargs.get("model_name") or ""),
        where=str(file),
    )


def _read(file: Path) -> dict[str, Any]:
    hint = "A base model or checkpoint of GR00T N1.7 has it beside its weights: download or copy it again."
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} {'is not JSON' if file.is_file() else 'does not exist'}.", hint) from error
    if not isinstance(document, dict):
        raise UsageError(f"{file} is not a JSON object.", hint)
    return document


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=2) + "\n")
