"""Stands in for upstream's module of this name: modality configs by the value of their tag."""

from __future__ import annotations

from gr00t.data.embodiment_tags import EmbodimentTag  # pyrefly: ignore[missing-import] - beside it where it runs

MODALITY_CONFIGS: dict[str, dict] = {"libero_sim": {}}


def register_modality_config(config: dict, embodiment_tag: EmbodimentTag = EmbodimentTag.NEW_EMBODIMENT) -> None:
    assert embodiment_tag.value not in MODALITY_CONFIGS, f"{embodiment_tag} already registered"
    MODALITY_CONFIGS[embodiment_tag.value] = config
