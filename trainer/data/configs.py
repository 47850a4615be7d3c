"""The data configs there are: built-in ones by name, and the user's own.

The built-in ones have upstream's keys in upstream's order, processed alike (``gr00t/experiment/data_config.py``),
because the order decides what each projector input means.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from trainer.data.config_file import SUFFIXES, from_text, read_file
from trainer.data.config_module import from_module
from trainer.data.data_config import DataConfig, Feature, Normalisation
from trainer.data.rules import rules_of
from trainer.errors import UsageError
from trainer.generation import GENERATIONS

__all__ = [
    "DATA_CONFIGS",
    "PROJECTOR_INDEX",
    "DataConfig",
    "Feature",
    "Normalisation",
    "declared",
    "declared_here",
    "get_data_config",
    "is_built_in",
]

PROJECTOR_INDEX: Mapping[str, int] = MappingProxyType(
    {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}
)
"""Embodiment tag to the slot of the action head's per-embodiment weights (``gr00t/data/embodiment_tags.py``)."""

_FOLDER = Path(__file__).parent / "data_configs"


@cache
def _built_in(name: str) -> DataConfig:
    return read_file(_FOLDER / f"{name}.toml")


class _BuiltIn(Mapping[str, DataConfig]):
    """By name; each is read on first use."""

    def __init__(self) -> None:
        self._names = sorted(file.stem for file in _FOLDER.glob("*.toml"))

    def __getitem__(self, name: str) -> DataConfig:
        if name not in self._names:
            raise KeyError(name)
        return _built_in(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


DATA_CONFIGS: Mapping[str, DataConfig] = _BuiltIn()
"""The built-in data configs."""


def get_data_config(name: str | DataConfig) -> DataConfig:
    """The data config that ``name`` means: a built-in one, a file (``my_robot.toml``, ``.json``), one that a Python
    module declares (``module.path:NAME``, which runs the module), or a declaration itself, in JSON.

    Raises ``UsageError`` that names the file and the key, or the nearest name.
    """
    if isinstance(name, DataConfig):
        return name
    if name in DATA_CONFIGS:
        return DATA_CONFIGS[name]
    if name.lstrip().startswith("{"):
        return _own(from_text(name, "The data config"))
    if name.lower().endswith(SUFFIXES) or "/" in name:
        return _own(read_file(Path(name).expanduser()))
    if ":" in name:
        return _own(from_module(name))
    near = difflib.get_close_matches(name, [*DATA_CONFIGS, *_files_here()], n=1)
    raise UsageError(
        f"No data config is called {name!r}.",
        (f"Did you mean {near[0]}? " if near else "")
        + f"There are {', '.join(DATA_CONFIGS)}, and files that declare one of your own, such as my_robot.toml.",
    )


def declared(name: str | DataConfig) -> str | DataConfig:
    """``name`` as it can travel: the name of a built-in data config, else the whole declaration. Raises ``UsageError``
    as ``get_data_config`` does.
    """
    config = get_data_config(name)
    return config.name if DATA_CONFIGS.get(config.name) == config else config


def is_built_in(config: DataConfig) -> bool:
    """Whether it is one that a generation has under its name."""
    return any(rules_of(each.name).built_in().get(config.name) == config for each in GENERATIONS)


def declared_here() -> list[DataConfig]:
    """The data configs that files of the current folder declare; other files are passed over."""
    found = []
    for name in _files_here():
        with contextlib.suppress(UsageError):
            found.append(_own(read_file(Path(name))))
    return found


def _own(config: DataConfig) -> DataConfig:
    if DATA_CONFIGS.get(config.name, config) != config and not is_built_in(config):
        raise UsageError(
            f"A data config of your own is called {config.name}, as a built-in one that differs from it.",
            "Give it another name (`name`, or the file's).",
        )
    return config


def _files_here() -> list[str]:
    return [file.name for suffix in SUFFIXES for file in sorted(Path.cwd().glob(f"*{suffix}"))[:100]]
