"""Stands in for upstream's module of this name."""

from __future__ import annotations

from enum import Enum


class EmbodimentTag(Enum):
    XDOF = "xdof_relative_eef_relative_joint"
    LIBERO_PANDA = "libero_sim"
    NEW_EMBODIMENT = "new_embodiment"

    @classmethod
    def resolve(cls, name: str) -> EmbodimentTag:
        for tag in cls:
            if name.lower() in (tag.name.lower(), tag.value):
                return tag
        raise ValueError(f"Unknown embodiment tag: {name}")
