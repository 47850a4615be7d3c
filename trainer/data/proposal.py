"""A proposal of ``meta/modality.json`` and of a data config, from what ``info.json`` says of a dataset.

The format is that of Isaac-GR00T's ``getting_started/LeRobot_compatible_data_schema.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.data.body_parts import parts_of
from trainer.data.configs import DATA_CONFIGS
from trainer.data.data_config import DataConfig, Feature, Normalisation
from trainer.data.dataset_meta import Info, Modality, SourceEntry, StateActionEntry, load_info, load_modality
from trainer.errors import DatasetError
from trainer.wrong_values import first_problem

TASK_KEY = "human.task_description"
_LANGUAGE = ("task_description", "task", "instruction", "language", "coarse_action")
"""Words in the names of annotations that are instructions, the likeliest first."""

WIDEST_STATE = 64
"""Dimensions; the width of the state encoder of N1.5's base model, which is not resized."""


@dataclass(frozen=True)
class Proposal:
    """What a dataset needs to be trained on."""

    modality: Modality
    writes_modality: bool
    """Whether the dataset has no ``meta/modality.json`` yet."""
    config: DataConfig
    reasons: list[str]
    """A line for each choice."""

    @property
    def is_built_in(self) -> bool:
        """Whether the data config needs no file."""
        return self.config.name in DATA_CONFIGS


def fitting_configs(modality: Modality, others: Sequence[DataConfig] = ()) -> list[DataConfig]:
    """The built-in data configs and those of ``others`` whose keys ``modality`` has; those that use most first."""
    known = [config for config in [*others, *DATA_CONFIGS.values()] if not config.missing(modality)]
    usable = [config for config in known if _rotations_are_known(config, modality)]
    return sorted(usable, key=lambda config: -sum(len(config.keys(kind)) for kind in ("video", "state", "action")))


def propose(folder: Path, name: str) -> Proposal:
    """The files that the dataset in ``folder`` lacks; ``name`` is that of a new data config.

    Raises ``DatasetError`` when it has no state, action, camera or instruction that could be used.
    """
    info = load_info(folder)
    reasons: list[str] = []
    writes = not (folder / "meta/modality.json").exists()
    if writes:
        modality = _modality(info, folder, reasons.append)
    else:
        modality = load_modality(folder)
        reasons.append("meta/modality.json is there and stays as it is.")
    cameras = _cameras_together(info, modality, folder, reasons.append)
    if writes and _is_so_arm(modality):
        modality, cameras = _named_as_built_in(modality, cameras, reasons.append)
    if built_in := _built_in(info, modality, cameras, writes=writes):
        if writes:  # the instruction under the name that the data config has for it
            modality.annotation.setdefault(built_in.keys("annotation")[0], next(iter(modality.annotation.values())))
        unused = [key for kind in ("state", "action") for key in modality.keys(kind) if key not in built_in.keys(kind)]
        without = f"; it does not use {', '.join(dict.fromkeys(unused))}" if unused else ""
        reasons.append(f"Data config: the built-in {built_in.name} has these cameras, states and actions{without}.")
        return Proposal(modality, writes, built_in, reasons)
    reasons.append("Data config: no built-in one has these keys. Each state and action is scaled to its range.")
    config = _own(modality, cameras, name, folder, reasons.append)
    return Proposal(modality, writes, config, reasons)


def _modality(info: Info, folder: Path, explain: Callable[[str], None]) -> Modality:
    cameras = {_camera_key(name, info.cameras()): SourceEntry(original_key=name) for name in info.cameras()}
    robot = str((info.model_extra or {}).get("robot_type") or "")
    sides: dict[str, dict[str, StateActionEntry]] = {}
    for kind, main in (("state", "observation.state"), ("action", "action")):
        entries = sides[kind] = {}
        columns, unused = _columns(info, main)
        for column in columns:
            feature = info.feature(column)
            width = (feature.width if feature else None) or 1
            if column == main:
                slices, reason = parts_of(_names(info.features[column]), width, robot)
            else:
                key = column.removeprefix(f"{main}.").removeprefix("observation.")
                slices, reason = {key: (0, width)}, f"{width} dimensions in a column of their own"
            for key, (start, end) in slices.items():
                entries[key] = StateActionEntry(start=start, end=end, original_key=None if column == main else column)
            parts = ", ".join(f"{key} {start}:{end}" for key, (start, end) in slices.items())
            explain(f"{column}: {parts}; {reason}.")
        if unused:
            explain(f"{', '.join(unused)}: left out, {main} is the {kind}.")
    if not sides["action"]:
        raise DatasetError(
            f"{folder / 'meta/info.json'}: no column `action`, nor one that begins with `action.`, has numbers.",
            "Write meta/modality.json by hand, with original_key (docs/data.md).",
        )
    annotations = _annotations(info, folder, explain)
    return Modality(state=sides["state"], action=sides["action"], video=cameras, annotation=annotations)


def _annotations(info: Info, folder: Path, explain: Callable[[str], None]) -> dict[str, SourceEntry]:
    columns = [name for name in info.features if name.startswith("annotation.")]
    numbered = ["task_index"] if "task_index" in info.features else []
    # An annotation that is called neither a task nor an instruction may be anything: GR1's have a label `validity`.
    column = next(iter([*instructions(columns), *numbered, *columns]), None)
    if column is None:
        raise DatasetError(
            f"{folder / 'meta/info.json'}: no column has the instruction: neither `task_index` nor `annotation.…`.",
            "Record a task with every episode, as LeRobot does, or add the column task_index.",
        )
    explain(f"Instruction: the column {column}.")
    key = column.removeprefix("annotation.") if column.startswith("annotation.") else TASK_KEY
    return {key: SourceEntry(original_key=column)}


def _columns(info: Info, main: str) -> tuple[list[str], list[str]]:
    """The columns that are the state or the action, and those beside ``main`` that could be."""
    numbers = [name for name in info.features if _is_vector(info, name)]
    if main == "action":
        family = [name for name in numbers if name == main or name.startswith("action.")]
    else:
        family = [name for name in numbers if name.startswith("observation.")]
    return ([main], [name for name in family if name != main]) if main in family else (family, [])


def _is_vector(info: Info, name: str) -> bool:
    try:
        feature = info.feature(name)
    except ValueError:
        return False
    if feature is None or feature.shape is None or len(feature.shape) != 1 or feature.shape[0] < 1:
        return False
    return isinstance(feature.dtype, str) and feature.dtype.startswith("float")


def _names(feature: Any) -> list[str] | None:
    """The names of a vector's dimensions: a list, lists by group, or places by name."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        if names and all(isinstance(place, int) for place in names.values()):
            names = sorted(names, key=lambda name: names[name])
        else:
            names = [name for group in names.values() if isinstance(group, list) for name in group]
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _camera_key(feature: str, all_cameras: Sequence[str]) -> str:
    """``front`` of ``observation.images.front``, unless another camera would be called the same."""

    def short(name: str) -> str:
        return re.sub(r"^observation\.(images?\.)?", "", name) or name

    mine = short(feature)
    return mine if [short(name) for name in all_cameras].count(mine) == 1 else feature


def _cameras_together(info: Info, modality: Modality, folder: Path, explain: Callable[[str], None]) -> list[str]:
    """The cameras that can be trained on together: of colour, and of one resolution."""
    by_size: dict[tuple[int, int], list[str]] = {}
    for key in modality.video:
        column = modality.column("video", key)
        try:
            feature = info.feature(column)
            camera = info.camera(column)
        except ValueError as error:
            explain(f"Camera {key}: left out, info.json does not describe it ({error}).")
            continue
        if column not in info.cameras():
            explain(f"Camera {key}: left out, {column} is neither video nor images.")
        elif feature and feature.is_depth_map:
            explain(f"Camera {key}: left out, it is a depth map.")
        elif camera.channels != 3:
            explain(f"Camera {key}: left out, it has no colours ({_number(camera.channels, 'channel')}).")
        else:
            by_size.setdefault(camera.resolution, []).append(key)
    if not by_size:
        raise DatasetError(
            f"{folder / 'meta/info.json'}: no colour camera is described; cameras: "
            f"{', '.join(info.cameras()) or 'none'}.",
            "GR00T needs one: in features, with dtype video or image, a shape of 3 channels, names and video.fps.",
        )
    size = max(by_size, key=lambda size: (len(by_size[size]), size))
    for other, keys in by_size.items():
        if other != size:
            explain(
                f"Camera {', '.join(keys)}: left out, {other[0]}x{other[1]} instead of {size[0]}x{size[1]}; "
                "all cameras need one resolution."
            )
    explain(f"Cameras: {', '.join(by_size[size])}, {size[0]}x{size[1]}.")
    return by_size[size]


def _is_so_arm(modality: Modality) -> bool:
    arm = {"single_arm": 5, "gripper": 1}
    return all({key: entry.width for key, entry in part.items()} == arm for part in (modality.state, modality.action))


def _named_as_built_in(
    modality: Modality, cameras: list[str], explain: Callable[[str], None]
) -> tuple[Modality, list[str]]:
    """The cameras of an SO-100 or SO-101 under the names of ``so100`` or ``so100_dualcam``, where it is clear which
    is which: one camera, or two of which one is at the wrist.
    """
    names: dict[str, str] = {}
    at_wrist = [key for key in cameras if re.search(r"wrist|hand|gripper", key.lower())]
    if len(cameras) == 1:
        names = {cameras[0]: "webcam"}
    elif len(cameras) == 2 and len(at_wrist) == 1:
        other = next(key for key in cameras if key not in at_wrist)
        names = {other: "front", at_wrist[0]: "wrist"}
    taken = set(modality.video) - set(names)
    if not names or taken & set(names.values()) or all(old == new for old, new in names.items()):
        return modality, cameras
    for old, new in names.items():
        if old != new:
            explain(f"Camera {old}: called {new} here, as the built-in data config of this arm calls it.")
    video = {names.get(key, key): entry for key, entry in modality.video.items()}
    return modality.model_copy(update={"video": video}), [names[key] for key in cameras]


def _built_in(info: Info, modality: Modality, cameras: list[str], *, writes: bool) -> DataConfig | None:
    """The built-in data config that uses all there is; for a GR1, whose configs leave joints out, the largest."""
    is_gr1 = "gr1" in str((info.model_extra or {}).get("robot_type") or "").lower()
    for config in sorted(DATA_CONFIGS.values(), key=lambda each: -len(each.state)):
        missing = {
            kind: keys for kind, keys in config.missing(modality).items() if not (writes and kind == "annotation")
        }
        if missing or not set(config.video) <= set(cameras) or not _rotations_are_known(config, modality):
            continue
        uses_all = set(config.video) == set(cameras) and all(
            set(config.keys(kind)) == set(modality.keys(kind)) for kind in ("state", "action")
        )
        if uses_all or is_gr1:
            return config
    return None


def _rotations_are_known(config: DataConfig, modality: Modality) -> bool:
    return all(modality.state[feature.key].rotation_type for feature in config.state if feature.rotation) and all(
        modality.action[feature.key].rotation_type for feature in config.action if feature.rotation
    )


def _own(modality: Modality, cameras: list[str], name: str, folder: Path, explain: Callable[[str], None]) -> DataConfig:
    annotations = modality.keys("annotation")
    annotation = next(iter([*instructions(annotations), *annotations]), None)
    if annotation is None:
        raise DatasetError(
            f"{folder / 'meta/modality.json'}: no annotation, so no instruction.",
            f'Add "annotation": {{"{TASK_KEY}": {{"original_key": "task_index"}}}}.',
        )
    if not modality.action:
        raise DatasetError(f"{folder / 'meta/modality.json'}: no action.", "Add the slices of the action.")
    states: dict[str, StateActionEntry] = {}
    for key, entry in modality.state.items():
        if sum(each.width for each in states.values()) + entry.width <= WIDEST_STATE:
            states[key] = entry
        else:
            explain(f"State {key}: left out, the model takes {WIDEST_STATE} dimensions.")
    if not states:
        raise DatasetError(
            f"{folder / 'meta'}: no state of at most {WIDEST_STATE} dimensions; there are "
            f"{', '.join(f'{key} {entry.width}' for key, entry in modality.state.items()) or 'none'}.",
            "Write meta/modality.json by hand, with the slices that matter (docs/data.md).",
        )
    try:
        return DataConfig(
            name=f"{name}_own" if name in DATA_CONFIGS else name,
            video=tuple(cameras),
            state=_features(states),
            action=_features(modality.action),
            language=f"annotation.{annotation}",
            max_action_dim=max(32, sum(entry.width for entry in modality.action.values())),
        )
    except ValidationError as error:
        raise DatasetError(
            f"{folder / 'meta'}: its names can't be those of a data config ({first_problem(error)}).",
            "Write meta/modality.json by hand, with plain keys and original_key (docs/data.md).",
        ) from error


def _features(entries: Mapping[str, StateActionEntry]) -> tuple[Feature, ...]:
    def scaling(entry: StateActionEntry) -> Normalisation:
        return "min_max" if str(entry.dtype).startswith("float") else "binary"

    return tuple(Feature(key, scaling(entry)) for key, entry in entries.items())


def instructions(names: Sequence[str]) -> list[str]:
    """Those of the ``names`` of annotations that say that they are the instruction, the likeliest first."""
    return [name for word in _LANGUAGE for name in names if word in name]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
