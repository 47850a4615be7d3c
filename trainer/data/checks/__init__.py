"""Checks a dataset against a data config before a model is loaded: all problems at once, in seconds, without torch.

Metadata is checked whole and every file is looked at; of large datasets the tables' values are read and the videos
decoded for an evenly spread sample of the episodes.
"""

from __future__ import annotations

from pathlib import Path

from trainer.data.checks.metadata import check_metadata
from trainer.data.checks.problem import Problem, format_problems, shorten
from trainer.data.checks.tables import check_tables
from trainer.data.checks.videos import check_videos
from trainer.data.configs import PROJECTOR_INDEX, DataConfig, get_data_config
from trainer.errors import UsageError

__all__ = ["Problem", "check_dataset", "format_problems"]


def check_dataset(
    path: Path, data_config: DataConfig | str, *, embodiment_tag: str = "new_embodiment"
) -> list[Problem]:
    """Every problem of the dataset at ``path`` for a training with ``data_config``; empty when it is fit.

    Raises ``UsageError`` for an unknown data config or embodiment tag.
    """
    config = get_data_config(data_config) if isinstance(data_config, str) else data_config
    if embodiment_tag not in PROJECTOR_INDEX:
        raise UsageError(f"No embodiment tag is called {embodiment_tag!r}.", f"There are {', '.join(PROJECTOR_INDEX)}.")
    meta, problems = check_metadata(path, config)
    if meta is None:
        return problems
    problems += shorten(check_tables(meta, config))
    problems += shorten(check_videos(meta, config))
    return problems
