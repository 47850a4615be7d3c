"""Observations of both forms to what the policy takes, checked before the model sees them; actions back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.data_config import DataConfig
from trainer.gr00t.previous_chunk import RAMP_RATE, PreviousChunk
from trainer.serving.arrays import RequestError

MAX_SAMPLES = 16
"""Observations in one request."""
WIDEST_IMAGE = 4096
NARROWEST = 10
"""How many times one side of an image may be the other: the models enlarge the shorter one."""
LONGEST_INSTRUCTION = 1000
_CHUNKING = ("rtc_previous_actions", "rtc_executed_steps", "rtc_frozen_steps", "rtc_ramp_rate")
"""The options of a request that are read, after upstream's names for its model's."""
_PARTS = ("video", "state", "language")


def is_nested(observation: Mapping[str, Any]) -> bool:
    """Whether it has the form of N1.6 and N1.7: ``{"video": {…}, "state": {…}, "language": {…}}``."""
    return any(isinstance(observation.get(part), dict) for part in _PARTS)


def flat(observation: Mapping[str, Any]) -> dict[str, Any]:
    """The nested ``observation`` with the keys of N1.5, such as ``video.front``. Raises ``RequestError``."""
    found: dict[str, Any] = {}
    for part in _PARTS:
        values = observation.get(part, {})
        if not isinstance(values, dict):
            raise RequestError(f"The observation's {part} must be a map of keys to values.")
        for key, value in values.items():
            found[key if part == "language" or key.startswith(f"{part}.") else f"{part}.{key}"] = value
    return found


def checked(observation: Mapping[str, Any], config: DataConfig) -> tuple[dict[str, Any], int | None]:
    """What ``config`` uses of a flat ``observation``, and its number of samples; None without a batch axis.

    Images are uint8 ``[T,H,W,3]`` with a frame for each of ``video_delta_indices``, as a rule one, states ``[1,D]``;
    with a batch axis before it both have one more.
    Raises ``RequestError`` that says which key is absent or has what shape.
    """
    images = {f"video.{key}": None for key in config.video}
    states = {f"state.{key}": None for key in config.keys("state")}
    absent = [name for name in [*images, *states] if name not in observation]
    if absent:
        has = ", ".join(list(observation)[:20]) or "nothing"
        raise RequestError(
            f"The observation has no {', '.join(absent)}; it has {has}. get_modality_config tells the keys."
        )
    found: dict[str, Any] = {name: _image(name, observation[name], config.video_delta_indices) for name in images}
    found |= {name: _state(name, observation[name]) for name in states}
    batched = {name: value.ndim - (4 if name in images else 2) == 1 for name, value in found.items()}
    sizes = {len(found[name]) if has else None for name, has in batched.items()}
    if len(sizes) > 1:
        described = ", ".join(f"{name} {list(value.shape)}" for name, value in found.items())
        raise RequestError(f"The keys of an observation have one batch size, or none has a batch axis: {described}.")
    samples = sizes.pop()
    if samples is not None and not 1 <= samples <= MAX_SAMPLES:
        raise RequestError(f"A request has 1 to {MAX_SAMPLES} samples, not {samples}.")
    if config.language in observation:
        found[config.language] = _texts(config.language, observation[config.language], samples or 1)
    elif others := [name for name in observation if name.startswith("annotation.")]:
        raise RequestError(f"The instruction is {config.language} for this policy, not {others[0]}.")
    return found, samples


def without_batch(observation: Mapping[str, Any]) -> dict[str, Any]:
    """The one sample of ``observation``."""
    return {name: value[0] if isinstance(value, np.ndarray) else value for name, value in observation.items()}


def previous_chunk(options: object, *, alone: bool) -> PreviousChunk | None:
    """What the ``options`` of a request ask to be continued; None where they don't. ``alone`` takes off a batch axis.

    Raises ``RequestError``. Whether it fits the policy is for the policy to say.
    """
    if options is None:
        return None
    if not isinstance(options, dict):
        raise RequestError("The options of a request are a map.")
    if unknown := [str(name)[:100] for name in options if str(name).startswith("rtc_") and name not in _CHUNKING]:
        raise RequestError(f"There is no option {unknown[0]}; there are {', '.join(_CHUNKING)}.")
    if not any(name in options for name in _CHUNKING):
        return None
    actions, executed = options.get("rtc_previous_actions"), options.get("rtc_executed_steps")
    frozen, rate = options.get("rtc_frozen_steps", 0), options.get("rtc_ramp_rate", RAMP_RATE)
    if not isinstance(actions, dict) or not all(isinstance(each, np.ndarray) for each in actions.values()):
        raise RequestError("rtc_previous_actions must be the map of arrays that was answered before.")
    if type(executed) is not int or type(frozen) is not int:
        raise RequestError("rtc_executed_steps and rtc_frozen_steps are whole numbers.")
    if type(rate) not in (int, float):
        raise RequestError("rtc_ramp_rate is a number.")
    named = {f"action.{str(name).removeprefix('action.')}": value for name, value in actions.items()}
    if alone:
        named = {name: value[0] if value.ndim == 3 and len(value) == 1 else value for name, value in named.items()}
    return PreviousChunk(named, executed, frozen, float(rate))


def nested_actions(actions: Mapping[str, NDArray[np.floating]], *, batched: bool) -> list[dict[str, Any]]:
    """``[actions, info]`` as N1.6 and N1.7 answer: keys without ``action.``, float32 ``[B,H,D]``."""
    named = {}
    for name, value in actions.items():
        named[name.removeprefix("action.")] = np.asarray(value if batched else value[None], np.float32)
    return [named, {}]


def _image(name: str, value: object, times: Sequence[int]) -> NDArray[np.uint8]:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        kind = value.dtype.str if isinstance(value, np.ndarray) else type(value).__name__
        raise RequestError(f"{name} must be an array of uint8, not {kind}.")
    if value.ndim not in (4, 5) or value.shape[-1] != 3 or value.shape[-4] != len(times):
        frames = "" if len(times) == 1 else f", the frames at {list(times)}"
        raise RequestError(
            f"{name} is {list(value.shape)}; it must be [{len(times)}, height, width, 3]{frames}, or that with a batch "
            "axis."
        )
    if not all(1 <= size <= WIDEST_IMAGE for size in value.shape[-3:-1]):
        raise RequestError(f"{name} is {list(value.shape)}; an image is 1 to {WIDEST_IMAGE} pixels high and wide.")
    if max(value.shape[-3:-1]) > NARROWEST * min(value.shape[-3:-1]):
        raise RequestError(f"{name} is {list(value.shape)}; no side may be over {NARROWEST} times the other.")
    return value


def _state(name: str, value: object) -> NDArray[Any]:
    try:
        found = np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise RequestError(f"{name} must be an array of numbers.") from error
    if found.dtype.kind not in "iuf":
        raise RequestError(f"{name} must be an array of numbers.")
    if found.ndim not in (2, 3) or found.shape[-2] != 1:
        raise RequestError(f"{name} is {list(found.shape)}; it must be [1, dimensions], or that with a batch axis.")
    if not (np.abs(found) <= np.finfo(np.float32).max).all():  # what the models compute in
        raise RequestError(f"{name} has a value that is no finite number.")
    return found


def _texts(name: str, value: object, samples: int) -> list[str]:
    given = value.tolist() if isinstance(value, np.ndarray) else value
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list):
        raise RequestError(f"{name} must be a list of texts.")
    found = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in given]
    if len(found) != samples or not all(isinstance(each, str) for each in found):
        raise RequestError(f"{name} must be a list of {samples} text{'s' if samples > 1 else ''}, one for each sample.")
    if any(len(each) > LONGEST_INSTRUCTION for each in found):
        raise RequestError(f"{name} is longer than {LONGEST_INSTRUCTION} characters.")
    if any("\ud800" <= letter <= "\udfff" for each in found for letter in each):
        raise RequestError(f"{name} has a character that is not Unicode.")
    return found
