"""Checks a dataset against a data config before a model is loaded: all problems at once, without torch.

Metadata, every table and the packets of every video are checked, and only what the data config uses. Good results are
cached by content (``trainer.data.result_cache``), and the training reuses what the check learned about the videos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config.data_options import DataOptions
from trainer.data.checks.metadata import check_metadata
from trainer.data.configs import DataConfig
from trainer.data.exclusion import leave_out
from trainer.data.problem import Problem, format_problems
from trainer.data.result_cache import ResultCache
from trainer.data.rules import rules_of
from trainer.data.statistics import Statistics
from trainer.errors import UsageError

__all__ = ["Checked", "Problem", "ResultCache", "check_dataset", "format_problems"]


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    problems: list[Problem]
    """What training would fail on or silently learn nonsense from; empty when the dataset is fit."""
    warnings: list[Problem] = field(default_factory=list)
    """What can be trained on and is probably not meant."""
    statistics: dict[str, Statistics] = field(default_factory=dict)
    """Of each column the data config uses, for a dataset that is fit."""
    damaged: list[int] = field(default_factory=list)
    """The episodes without which the dataset would be fit, where they are not most of it."""


def check_dataset(
    path: Path,
    data_config: DataConfig | str,
    *,
    embodiment_tag: str = "new_embodiment",
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    memory: ResultCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Every problem of the dataset at ``path`` for a training with ``data_config``.

    ``memory`` knows what was checked before; ``progress(files done, of)`` is called while tables and videos are read.
    Raises ``UsageError`` for an unknown data config or embodiment tag, or excluded episodes that it doesn't have.
    """
    rules = rules_of(options.generation)
    data_config = rules.read(data_config)
    if embodiment_tag not in (tags := rules.embodiment_tags):
        raise UsageError(f"No embodiment tag is called {embodiment_tag!r}.", f"There are {', '.join(tags)}.")
    config = rules.as_checked(data_config)
    meta, problems, warnings = check_metadata(path, config, options)
    if meta is None:
        return Checked(problems, warnings)
    meta = leave_out(meta, options.exclude_episodes)
    own, odd = rules.check(meta, data_config)
    problems, warnings = [*problems, *own], [*warnings, *odd]
    # Imported here: a command that only might check a dataset loads neither pyarrow nor PyAV.
    from trainer.data.checks.remembered import remembered_contents

    contents = remembered_contents(
        meta,
        config,
        options=options,
        memory=memory or ResultCache(),
        progress=progress or (lambda _done, _of: None),
    )
    damaged = [] if problems else contents.damaged
    problems += [problem for problem in contents.problems if problem not in problems]
    return Checked(problems, warnings + contents.warnings, {} if problems else contents.statistics, damaged)
