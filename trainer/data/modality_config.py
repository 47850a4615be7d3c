"""Upstream's modality configs, as ``processor_config.json`` has them, and the data configs they are here.

A modality config is four lists of keys with the steps they are read at. All that upstream registers, and all it can
train, has a data config; what can't be expressed in one is refused, naming the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.data.config_file import validated
from trainer.data.data_config import DataConfig, Feature, Pose
from trainer.errors import UsageError
from trainer.wrong_values import first_problem

_POSES: dict[str, Pose] = {"XYZ_ROT6D": "xyz_rot6d", "XYZ_ROTVEC": "xyz_rotvec"}


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ActionForm(_Form):
    """Upstream's ``ActionConfig``; enums by name. ``DELTA`` exists, but nothing converts it: it is absolute."""

    rep: Literal["RELATIVE", "DELTA", "ABSOLUTE"]
    type: Literal["EEF", "NON_EEF"]
    format: Literal["DEFAULT", "XYZ_ROT6D", "XYZ_ROTVEC"] = "DEFAULT"
    state_key: str | None = None


class ModalityForm(_Form):
    """Upstream's ``ModalityConfig``."""

    delta_indices: list[int]
    modality_keys: Annotated[list[str], Field(min_length=1)]
    sin_cos_embedding_keys: list[str] | None = None
    mean_std_embedding_keys: list[str] | None = None
    action_configs: list[ActionForm] | None = None

    @model_validator(mode="after")
    def _one_for_each(self) -> ModalityForm:
        if self.action_configs is not None and len(self.action_configs) != len(self.modality_keys):
            raise ValueError(f"{len(self.action_configs)} action_configs for {len(self.modality_keys)} modality_keys")
        for name in ("sin_cos_embedding_keys", "mean_std_embedding_keys"):
            if other := set(getattr(self, name) or ()) - set(self.modality_keys):
                raise ValueError(f"{name} names {sorted(other)[0]}, which is not among the modality_keys")
        return self


class EmbodimentForm(_Form):
    """The modality configs of one embodiment tag. ``mask`` is read by nothing that fine-tuning can switch on."""

    video: ModalityForm
    state: ModalityForm
    action: ModalityForm
    language: ModalityForm
    mask: Any = None


def from_upstream(values: Mapping[str, Any], name: str, where: str) -> DataConfig:
    """The data config that the modality configs ``values`` of a tag are; it is called ``name``.

    Raises ``UsageError``, which calls them ``where``, for wrong keys and for what no data config says.
    """
    try:
        form = EmbodimentForm.model_validate(values)
    except ValidationError as error:
        raise UsageError(
            f"{where}: {first_problem(error, EmbodimentForm)}.",
            "A modality config has video, state, action and language, each with delta_indices and modality_keys.",
        ) from None
    horizon = len(form.action.delta_indices)
    for modality, wanted in (("state", [0]), ("language", [0]), ("action", list(range(horizon)))):
        if (deltas := getattr(form, modality).delta_indices) != wanted or not deltas:
            raise UsageError(
                f"{where}: {modality}.delta_indices is {_short(deltas)}.",
                "pippa trains on the present state and text, and on actions from the present on: [0], and 0, 1, 2, ….",
            )
    return validated(
        {
            "name": name,
            "video": form.video.modality_keys,
            "state": [_state(key, form.state) for key in form.state.modality_keys],
            "action": [
                _action(key, form.action, each, where)
                for key, each in zip(form.action.modality_keys, _action_forms(form.action), strict=True)
            ],
            "language": form.language.modality_keys[0],
            "action_horizon": horizon,
            "video_delta_indices": form.video.delta_indices,
        },
        where,
    )


def to_upstream(config: DataConfig) -> dict[str, Any]:
    """The modality configs that ``config`` is, as ``processor_config.json`` has them."""
    sin_cos = [feature.key for feature in config.state if feature.sin_cos]
    return {
        "video": _form(config.video_delta_indices, config.video),
        "state": _form([0], config.keys("state"), sin_cos, _z_scores(config.state)),
        "action": {
            **_form(range(config.action_horizon), config.keys("action"), mean_std=_z_scores(config.action)),
            "action_configs": [_action_form(feature) for feature in config.action],
        },
        "language": _form([0], [config.language]),
    }


def _short(deltas: list[int]) -> str:
    return str(deltas) if len(deltas) < 6 else f"[{deltas[0]}, {deltas[1]}, …, {deltas[-1]}]"


def _state(key: str, form: ModalityForm) -> dict[str, Any]:
    if key in (form.sin_cos_embedding_keys or ()):
        return {"key": key, "sin_cos": True}
    return {"key": key, **({"normalise": "mean_std"} if key in (form.mean_std_embedding_keys or ()) else {})}


def _action_forms(form: ModalityForm) -> list[ActionForm]:
    return form.action_configs or [ActionForm(rep="ABSOLUTE", type="NON_EEF")] * len(form.modality_keys)


def _action(key: str, form: ModalityForm, action: ActionForm, where: str) -> dict[str, Any]:
    values: dict[str, Any] = {"key": key}
    if key in (form.mean_std_embedding_keys or ()):
        values["normalise"] = "mean_std"
    if action.rep == "RELATIVE":
        values["relative_to"] = action.state_key or key
        if action.type == "EEF":
            if action.format not in _POSES:
                raise UsageError(
                    f"{where}: action {key} is a pose of format {action.format}.",
                    f"Neither upstream nor pippa can normalise it: use {' or '.join(_POSES)}.",
                )
            values["pose"] = _POSES[action.format]
    return values


def _form(
    deltas: Sequence[int], keys: Sequence[str], sin_cos: Sequence[str] = (), mean_std: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "delta_indices": list(deltas),
        "modality_keys": list(keys),
        "sin_cos_embedding_keys": list(sin_cos) or None,
        "mean_std_embedding_keys": list(mean_std) or None,
        "action_configs": None,
    }


def _z_scores(features: Sequence[Feature]) -> list[str]:
    return [feature.key for feature in features if feature.normalise == "mean_std"]


def _action_form(feature: Feature) -> dict[str, Any]:
    formats: dict[Pose | None, str] = {pose: name for name, pose in _POSES.items()}
    own = feature.relative_to == feature.key
    return {
        "rep": "RELATIVE" if feature.relative_to else "ABSOLUTE",
        "type": "EEF" if feature.pose else "NON_EEF",
        "format": formats.get(feature.pose, "DEFAULT"),
        "state_key": None if own else feature.relative_to,
    }
