"""A data config as the Python file that upstream's ``--modality-config-path`` imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.data.data_config import DataConfig
from trainer.data.modality_config import to_upstream
from trainer.data.n17.embodiments import name_of

_IMPORTS = """\
from gr00t.configs.data.embodiment_configs import register_modality_config
from gr00t.data.embodiment_tags import EmbodimentTag
from gr00t.data.types import ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig
"""
_ENUMS = {"rep": "ActionRepresentation", "type": "ActionType", "format": "ActionFormat"}


def to_python(config: DataConfig, tag: str) -> str:
    """The module that registers ``config`` for the embodiment tag ``tag``; ``upstream_file.read_file`` reads it back.

    Upstream takes one for a tag that it has no modality config for.
    """
    modalities = "".join(f"    {name!r}: {_modality(form)},\n" for name, form in to_upstream(config).items())
    return (
        f"{_IMPORTS}\nconfig = {{\n{modalities}}}\n"
        f"register_modality_config(config, embodiment_tag=EmbodimentTag.{name_of(tag)})\n"
    )


def _modality(form: Mapping[str, Any]) -> str:
    actions = form["action_configs"]
    given = {name: repr(value) for name, value in form.items() if value is not None and name != "action_configs"}
    if actions is not None:
        given["action_configs"] = f"[{', '.join(map(_action, actions))}]"
    return _call("ModalityConfig", given)


def _action(form: Mapping[str, Any]) -> str:
    given = {name: f"{enum}.{form[name]}" for name, enum in _ENUMS.items()}
    return _call("ActionConfig", {**given, "state_key": repr(form["state_key"])})


def _call(name: str, given: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"
