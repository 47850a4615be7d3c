"""Data configs that a Python module of the user's own declares: read where they are typed, and data from then on."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from pydantic import ValidationError

from trainer.data.config_file import explained
from trainer.data.data_config import DataConfig
from trainer.errors import PippaError, UsageError

EXAMPLE = """Declare the same keys in a file, say my_arm.toml, and name that (docs/data.md says more):
    video = ["front", "wrist"]
    state = [
        { key = "single_arm", normalise = "min_max" },
        { key = "gripper", normalise = "min_max" },
    ]
    action = [
        { key = "single_arm", normalise = "min_max" },
        { key = "gripper", normalise = "min_max" },
    ]
    language = "annotation.human.task_description"
"""
"""What a data config of one's own looks like."""


def from_module(name: str) -> DataConfig:
    """``module.path:NAME``: a ``DataConfig``, or a class or function that returns one when called without arguments.

    The current folder is searched first, as upstream does. Upstream's own classes, with ``modality_config()`` and
    ``transform()``, are refused: they are programs over Isaac-GR00T's transform classes, which the native engine does
    not have. Raises ``UsageError`` that shows the declaration to write instead.
    """
    module_name, _, attribute = name.partition(":")
    if sys.path[0] != str(Path.cwd()):
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        config = found() if callable(found) else found
    except PippaError:
        raise
    except ValidationError as error:
        raise explained(error, name) from None
    except Exception as error:  # the user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "gr00t":
            raise _upstream(name, f"imports {error.name}, which is Isaac-GR00T's") from error
        raise UsageError(
            f"The data config {name} can't be loaded: {error.__class__.__name__}: {error}",
            "Name a module that Python finds from this folder, and a DataConfig in it.",
        ) from error
    if not isinstance(config, DataConfig):
        if hasattr(config, "modality_config") and hasattr(config, "transform"):
            raise _upstream(name, "is an Isaac-GR00T class, not a DataConfig")
        raise UsageError(f"The data config {name} is {type(config).__name__}, not a DataConfig.", EXAMPLE)
    return config


def _upstream(name: str, what: str) -> UsageError:
    return UsageError(f"The data config {name} {what}; the native engine runs declarations, not transforms.", EXAMPLE)
