"""What a data config is: which cameras, states and actions of a dataset a policy uses, and how they are normalised.

The one definition of the format: built-in data configs, users' files, and what a run spec, a container and a checkpoint
carry all have these fields (docs/data.md describes them for people). A field that is added later is optional, so that
older declarations stay valid. Modality configs of every generation are expressed here: what one of them can't do,
``trainer.data.rules`` knows.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator
from pydantic.dataclasses import dataclass

from trainer.data.dataset_meta import Modality, RotationType

Normalisation = Literal["min_max", "q99", "mean_std", "scale", "binary"]
Pose = Literal["xyz_rot6d", "xyz_rotvec"]
"""A position and a rotation: its matrix's first two rows, or an axis as long as the angle."""

TASK = "task"
"""As ``language``: the dataset's tasks, by the column ``task_index``. N1.7 only.

Upstream draws one of the episode's tasks in ``meta/episodes.jsonl`` for every sample, where a GR1's labels, such as
`valid`, stand too."""
_TASK_INDEX = "task_index"

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_FORM = ConfigDict(extra="forbid")


def _is_a_key(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError(f"{text!r} is not a key of modality.json")
    return text


Key = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, config=_FORM)
class Feature:
    """One state or action key and what is done to it: rotation first, then normalisation, or sin and cos alone."""

    key: Key
    """As in ``modality.json``, without ``state.`` or ``action.``."""
    normalise: Normalisation | None = None
    """How its values are scaled; none leaves them as they are. N1.7: ``mean_std``, or none for the range that the base
    model's processor says."""
    rotation: RotationType | None = None
    """Representation to turn the rotation into; the one it has is ``rotation_type`` of ``modality.json``."""
    sin_cos: StrictBool = False
    """Replace angles by their sines, then their cosines: twice the dimensions. States only, as it has no inverse. N1.7:
    where the base model's processor has it switched on."""
    relative_to: Key | None = None
    """N1.7: the state key that this action is predicted relative to."""
    pose: Pose | None = None
    """N1.7: what the relative action is, if not joints: relative to the pose of the end effector."""

    _printable = field_validator("key")(_is_a_key)

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if self.sin_cos and (self.normalise or self.rotation):
            raise ValueError("sin_cos stands alone: sines and cosines lie in [-1, 1] already")
        if self.pose and not self.relative_to:
            raise ValueError("a pose says how an action is relative: name the state in relative_to")
        return self


@dataclass(frozen=True, config=_FORM)
class DataConfig:
    """What a policy sees and does. Keys are those of ``modality.json``, without ``video.``, ``state.``, ``action.``."""

    name: Annotated[str, Field(max_length=100, pattern=_NAME)]
    video: Annotated[tuple[Key, ...], Field(min_length=1, max_length=64)]
    """The cameras, in the order the model sees them."""
    state: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=256)]
    action: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=256)]
    language: Annotated[str, Field(max_length=200)]
    """Full name of the annotation the instruction comes from, such as ``annotation.human.task_description``; N1.7:
    or ``task``."""
    action_horizon: Annotated[StrictInt, Field(ge=1, le=1024)] = 16
    """Steps predicted at once; the action at step t covers t to t + action_horizon - 1."""
    max_state_dim: Annotated[StrictInt, Field(ge=1, le=4096)] = 64
    """Width that states are zero-padded to: that of the model's encoder."""
    max_action_dim: Annotated[StrictInt, Field(ge=1, le=4096)] = 32
    """These two count for N1.5; a base model of N1.7 says its own."""
    video_delta_indices: Annotated[tuple[Annotated[StrictInt, Field(ge=-1024, le=0)], ...], Field(min_length=1)] = (0,)
    """N1.7: the steps, relative to now, whose frames the model sees, oldest first."""

    @field_validator("language")
    @classmethod
    def _is_an_annotation(cls, language: str) -> str:
        if language != TASK and not language.startswith("annotation."):
            raise ValueError(
                f"{language!r} is not the full name of an annotation, such as annotation.human.task_description"
            )
        return _is_a_key(language)

    @field_validator("video_delta_indices")
    @classmethod
    def _goes_forward(cls, deltas: tuple[int, ...]) -> tuple[int, ...]:
        if list(deltas) != sorted(set(deltas)) or deltas[-1] != 0:
            raise ValueError(f"{list(deltas)} does not lead up to 0, the present, such as [-15, 0]")
        return deltas

    @model_validator(mode="after")
    def _keys_are_plain_and_differ(self) -> Self:
        for modality in ("video", "state", "action"):
            keys = self.keys(modality)
            for key, times in Counter(keys).items():
                _is_a_key(key)
                if times > 1:
                    raise ValueError(f"{modality} has {key} twice")
                if key.startswith(f"{modality}."):
                    raise ValueError(f"{modality} has {key}; leave out `{modality}.`, as modality.json does")
        states = self.keys("state")
        for feature in self.state:
            if feature.relative_to:
                raise ValueError(f"state {feature.key} is relative to {feature.relative_to}; only actions can be")
        for feature in self.action:
            if feature.relative_to and feature.relative_to not in states:
                raise ValueError(
                    f"action {feature.key} is relative to the state {feature.relative_to}, which is not among the "
                    f"states ({', '.join(states) or 'none'})"
                )
        return self

    def __str__(self) -> str:
        return self.name

    def keys(self, modality: str) -> list[str]:
        """The keys of ``video``, ``state``, ``action`` or ``annotation`` this config uses, in order."""
        if modality == "annotation":
            return [] if self.language == TASK else [self.language.removeprefix("annotation.")]
        if modality == "video":
            return list(self.video)
        return [feature.key for feature in getattr(self, modality)]

    def instruction_column(self, modality: Modality) -> str:
        """The column of the table that says what the robot is to do, as text or as a task's number."""
        return _TASK_INDEX if self.language == TASK else modality.column("annotation", *self.keys("annotation"))

    def missing(self, modality: Modality) -> dict[str, list[str]]:
        """The keys this config needs and ``modality`` lacks, by modality; empty when the dataset fits."""
        wanted = {name: self.keys(name) for name in ("video", "state", "action", "annotation")}
        absent = {name: [key for key in keys if key not in modality.keys(name)] for name, keys in wanted.items()}
        return {name: keys for name, keys in absent.items() if keys}
