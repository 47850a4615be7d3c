"""Does a dataset mean by its keys what the checkpoint's did? Swapped cameras and joints are refused, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import StateActionMetadata
from trainer.data.policy_config import sources
from trainer.errors import DatasetError
from trainer.events import WarningEvent

if TYPE_CHECKING:
    from trainer.gr00t.checkpoint import Checkpoint


def require_fit(meta: DatasetMeta, checkpoint: Checkpoint) -> list[WarningEvent]:
    """Refuse a dataset that contradicts what the checkpoint was trained on; what is only odd is returned.

    Another width, representation or meaning of a key is a contradiction, as are cameras or joints that the training had
    under another key. Other names, as in a recording of another program, are not. Raises ``DatasetError`` with all.
    """
    config, problems = checkpoint.data_config, []
    for kind in ("state", "action"):
        for key in config.keys(kind):
            entry, width = getattr(meta.modality, kind)[key], checkpoint.widths.get(f"{kind}.{key}")
            if width not in (None, entry.width):
                problems.append(f"{kind}.{key} has {entry.width} dimensions, not {width}")
            was = _described(checkpoint, kind, key)
            if was is None:
                continue
            if was.absolute != entry.absolute:
                problems.append(f"{kind}.{key} is {_absolute(entry.absolute)}, not {_absolute(was.absolute)}")
            if was.rotation_type != entry.rotation_type:
                problems.append(f"{kind}.{key} is a rotation of type {entry.rotation_type}, not {was.rotation_type}")
    if checkpoint.known:
        cameras, joints = sources(meta, config)
        problems += swapped("video.", cameras, checkpoint.known.cameras)
        problems += swapped("", joints, checkpoint.known.joints)
    if problems:
        raise DatasetError(
            f"{meta.path} contradicts what the checkpoint was trained on: {'; '.join(problems)}.",
            "Correct its meta/modality.json, or evaluate on a dataset of the same robot.",
        )
    return _sizes(meta, checkpoint)


def _described(checkpoint: Checkpoint, kind: str, key: str) -> StateActionMetadata | None:
    """What N1.5 says of a key; N1.7 knows neither deltas in the data nor other rotations."""
    described: Mapping[str, StateActionMetadata] = (
        getattr(checkpoint.metadata.modalities, kind) if checkpoint.metadata else {}
    )
    return described.get(key)


def _absolute(absolute: bool) -> str:
    return "absolute" if absolute else "relative"


def swapped(prefix: str, ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """The keys that stand for what the training had under another one."""
    found = []
    for key, value in ours.items():
        # A state and an action of the same joints have the same names.
        kind = "" if prefix else f"{key.partition('.')[0]}."
        others = [other for other, was in theirs.items() if was == value and other.startswith(kind)]
        if theirs.get(key) not in (None, value) and others:
            shown = value if isinstance(value, str) else ", ".join(map(str, value if isinstance(value, list) else []))
            found.append(f"{prefix}{key} is {shown}, which the training had as {prefix}{others[0]}")
    return found


def _sizes(meta: DatasetMeta, checkpoint: Checkpoint) -> list[WarningEvent]:
    """One warning for cameras of another size, which are resized."""
    changed = []
    for key in checkpoint.data_config.video:
        was, camera = checkpoint.image_sizes.get(key), meta.camera(key)
        if was and was != camera.resolution:
            changed.append(f"{key} {'x'.join(map(str, camera.resolution))} instead of {'x'.join(map(str, was))}")
    if not changed:
        return []
    return [
        WarningEvent(
            message=f"The cameras have other sizes than in the training: {', '.join(changed)}. Images are resized.",
            hint="What is seen at another zoom or angle looks different all the same.",
        )
    ]
