"""What the dimensions of a state or action are called, and measured in: as far as ``info.json`` says."""

from __future__ import annotations

from typing import Any

from trainer.data.dataset_meta import DatasetMeta


def joint_names(meta: DatasetMeta, kind: str, key: str) -> list[str]:
    """The names of the dimensions of ``state.<key>`` or ``action.<key>``, such as ``shoulder_pan.pos``; empty where
    ``info.json`` has none that are all different texts.
    """
    names = [name for name in _described(meta, kind, key, "names") if isinstance(name, str) and name.isprintable()]
    width = getattr(meta.modality, kind)[key].width
    return names if len(names) == width and len(set(names)) == width else []


def joint_units(meta: DatasetMeta, kind: str, key: str) -> list[str]:
    """Their units, such as ``rad``, one per dimension; empty where ``info.json`` has none (``units`` or ``unit``)."""
    for name in ("units", "unit"):
        units = [unit for unit in _described(meta, kind, key, name) if isinstance(unit, str) and unit.isprintable()]
        if len(units) == getattr(meta.modality, kind)[key].width:
            return units
    return []


def _described(meta: DatasetMeta, kind: str, key: str, field: str) -> list[Any]:
    """The part of ``field`` of the column's feature that belongs to ``key``."""
    feature = meta.info.features.get(meta.modality.column(kind, key))
    value = feature.get(field) if isinstance(feature, dict) else None
    if isinstance(value, dict) and len(value) == 1:  # LeRobot's {"motors": […]}
        value = next(iter(value.values()))
    entry = getattr(meta.modality, kind)[key]
    if isinstance(value, str):
        return [value] * entry.width
    return value[entry.start : entry.end] if isinstance(value, list) else []
