"""The ``meta/modality.json`` of arms that LeRobot records without one, one per data config.

Upstream: ``examples/SO-100/so100_dualcam__modality.json`` and its one-camera variant, which people copy by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from trainer.data.data_config import DataConfig
from trainer.data.dataset_meta import Info, Modality, SourceEntry, StateActionEntry, load_info
from trainer.errors import DatasetError

_JOINTS = {"single_arm": StateActionEntry(start=0, end=5), "gripper": StateActionEntry(start=5, end=6)}


def _so100(*cameras: str) -> Modality:
    """An SO-100 or SO-101: five joints, the gripper, and cameras named as LeRobot names them."""
    return Modality(
        state=_JOINTS,
        action=_JOINTS,
        video={camera: SourceEntry(original_key=f"observation.images.{camera}") for camera in cameras},
        annotation={"human.task_description": SourceEntry(original_key="task_index")},
    )


MODALITIES: dict[str, Modality] = {"so100_dualcam": _so100("front", "wrist"), "so100": _so100("webcam")}
"""By the name of the data config they belong to."""


def fitting_modality(folder: Path, data_config: str | DataConfig | None) -> Modality | None:
    """What ``meta/modality.json`` of the dataset in ``folder`` has to be, judged by its cameras and dimensions.

    None when ``folder`` has the file, or when nothing here fits and ``data_config`` has no modality here. Raises
    ``DatasetError`` with every difference when the one of ``data_config`` does not fit.
    """
    wanted = None if data_config is None else str(data_config)
    if (folder / "meta/modality.json").exists() or (wanted is not None and wanted not in MODALITIES):
        return None
    try:
        info = load_info(folder)
    except DatasetError:
        return None  # the check lists that with all other problems
    if wanted is not None:
        if found := _differences(info, MODALITIES[wanted]):
            raise DatasetError(
                f"The dataset has no meta/modality.json, and that of {wanted} does not fit it:\n"
                + "\n".join(f"  {each}" for each in found),
                "Write meta/modality.json with the dataset's own cameras and joints (docs/data.md shows one), and use "
                "or declare a data config with the same names.",
            )
        return MODALITIES[wanted]
    known = fitting_name(info)
    return MODALITIES[known] if known else None


def fitting_name(info: Info) -> str | None:
    """The data config whose modality here has the cameras and dimensions of ``info``; None when there is none."""
    return next((name for name, modality in MODALITIES.items() if not _differences(info, modality)), None)


def to_json(modality: Modality) -> str:
    """The text of ``meta/modality.json``."""
    return json.dumps(modality.model_dump(exclude_defaults=True), indent=4) + "\n"


def _differences(info: Info, modality: Modality) -> list[str]:
    found: list[str] = []
    cameras = set(info.cameras())
    expected = {modality.column("video", key) for key in modality.video}
    if not expected <= cameras:
        found.append(f"it expects the cameras {', '.join(sorted(expected))}; there are {_listed(cameras)}")
    for name in ("state", "action"):
        column = modality.column(name, "gripper")
        wanted = max(entry.end for entry in getattr(modality, name).values())
        width = _width(info, column)
        if width is None:
            found.append(f"it expects {column}, which is not there")
        elif width != wanted:
            found.append(f"it expects {wanted} dimensions in {column}; there are {width}")
    return found


def _width(info: Info, column: str) -> int | None:
    try:
        feature = info.feature(column)
    except ValueError:
        return None
    return feature.width if feature else None


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
