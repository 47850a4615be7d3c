"""The data configs of GR00T N1.7 by name: those that belong to an embodiment tag, a few more, and the user's own."""

from __future__ import annotations

import difflib
from pathlib import Path

from trainer.data.config_file import SUFFIXES, from_text, read_file
from trainer.data.config_module import from_module
from trainer.data.data_config import DataConfig
from trainer.data.n17 import upstream_file
from trainer.data.n17.embodiments import registered
from trainer.errors import UsageError


def get_data_config(name: str | DataConfig) -> DataConfig:
    """The data config that ``name`` means: a built-in one, a file (``my_robot.toml``, ``.json``), one that a Python
    module declares (``module.path:NAME``), or a declaration itself, in JSON. Raises ``UsageError``.
    """
    if isinstance(name, DataConfig):
        return name
    known = registered()
    if name in known:
        return known[name]
    if name.lstrip().startswith("{"):
        return from_text(name, "The data config")
    if name.lower().endswith(SUFFIXES) or "/" in name:
        return read_file(Path(name).expanduser())
    if ":" in name:
        return from_module(name)
    near = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"No data config of GR00T N1.7 is called {name!r}.",
        (f"Did you mean {near[0]}? " if near else "")
        + f"There are {', '.join(known)}, and files that declare one of your own, such as my_robot.toml.",
    )


def of_tag(tag: str) -> DataConfig:
    """The data config that upstream registers for an embodiment tag. Raises ``UsageError`` where there is none."""
    if tag in registered():
        return registered()[tag]
    raise UsageError(
        f"--embodiment-tag {tag} has no data config.",
        "Give one: --data-config my_robot.toml, or upstream's Python file, --modality-config-path my_robot.py.",
    )


def of_upstream_file(path: str, tag: str) -> DataConfig:
    """The data config that a Python file of upstream's registers for ``tag``; it is read, not run.

    Raises ``UsageError``.
    """
    if not path.endswith(".py"):
        raise UsageError(f"{path} is not a Python file.", "A TOML or JSON file is --data-config's.")
    found = upstream_file.read_file(Path(path).expanduser())
    if tag not in found:
        raise UsageError(
            f"{path} registers {', '.join(found)}, not {tag}.",
            f"Use --embodiment-tag {next(iter(found))}, or register it under {tag}.",
        )
    return found[tag]
