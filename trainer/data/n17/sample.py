"""One step of an embodiment, from what a dataset or a robot gives to what the collator takes, and actions back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from trainer.data.data_config import DataConfig
from trainer.data.n17.images import Augmentation, transform
from trainer.data.n17.language import formalised
from trainer.data.n17.settings import ProcessorSettings
from trainer.data.n17.state_action import StateActionProcessor
from trainer.data.n17.statistics import TagStatistics
from trainer.errors import UsageError


class Sample(TypedDict):
    """One step, ready for the collator. Actions are absent at inference."""

    images: list[np.ndarray]
    """uint8 ``[H, W, 3]`` each: the oldest frame of every camera, in the data config's order, then the next."""
    text: str
    state: np.ndarray
    """float32 ``[1, max_state_dim]``, zero-padded."""
    action: NotRequired[np.ndarray]
    """float32 ``[max_action_horizon, max_action_dim]``, zero-padded."""
    action_mask: NotRequired[np.ndarray]
    """1 where there are actions, 0 where they are padded; float32."""
    embodiment_id: int


class SampleProcessor:
    """Processes the steps of one embodiment. Raises as ``StateActionProcessor`` does."""

    def __init__(
        self, config: DataConfig, settings: ProcessorSettings, statistics: TagStatistics, embodiment_id: int
    ) -> None:
        self.config, self.settings, self.statistics = config, settings, statistics
        self.embodiment_id = embodiment_id
        self.vectors = StateActionProcessor(config, settings, statistics)

    def sample(
        self,
        frames: Sequence[np.ndarray],
        text: str,
        state: Mapping[str, np.ndarray],
        action: Mapping[str, np.ndarray] | None = None,
        drawn: Augmentation | None = None,
    ) -> Sample:
        """Put a sample together from frames uint8 ``[H, W, 3]``, raw states ``{key: [1, D]}`` and actions
        ``{key: [H, D]}``. ``drawn`` augments the images as in training.
        """
        sample: Sample = {
            "images": transform(frames, self.settings, drawn),
            "text": self.text(text),
            "state": self.vectors.state(state),
            "embodiment_id": self.embodiment_id,
        }
        if action is not None:
            sample["action"], sample["action_mask"] = self.vectors.action(action, state)
        return sample

    def text(self, text: str) -> str:
        """An instruction as the model reads it."""
        return formalised(text) if self.settings.formalize_language else text

    def observed(self, observation: Mapping[str, Any]) -> tuple[Sample, dict[str, np.ndarray]]:
        """A policy's observation as a sample, and its raw states, which ``decode`` needs.

        ``video.<key>`` uint8 ``[T, H, W, 3]``, a frame for each of ``video_delta_indices``, ``state.<key>``
        ``[1, D]``, the annotation a list of texts (the first counts) or one text. Raises ``UsageError`` when a key is
        absent or of another shape.
        """
        config, times = self.config, len(self.config.video_delta_indices)
        wanted = [*(f"video.{key}" for key in config.video), *(f"state.{key}" for key in config.keys("state"))]
        wanted.append(config.language)
        if absent := [key for key in wanted if key not in observation]:
            raise UsageError(
                f"The observation lacks {', '.join(absent)}; it has {', '.join(observation)}.",
                f"The data config {config.name} needs {', '.join(wanted)}.",
            )
        videos = [np.asarray(observation[f"video.{key}"]) for key in config.video]
        for key, video in zip(config.video, videos, strict=True):
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or len(video) != times:
                raise UsageError(
                    f"video.{key} is {video.dtype} {list(video.shape)}.",
                    f"It must be uint8 [{times}, height, width, 3]: the frames at {list(config.video_delta_indices)}.",
                )
        state = {key: np.asarray(observation[f"state.{key}"], dtype=np.float32) for key in config.keys("state")}
        for key, values in state.items():
            if values.ndim != 2 or len(values) != 1:
                raise UsageError(f"state.{key} is {list(values.shape)}.", "It must be [1, dimensions].")
        text = observation[config.language]
        frames = [video[time] for time in range(times) for video in videos]
        return self.sample(frames, text if isinstance(text, str) else str(text[0]), state), state

    def decode(self, action: np.ndarray, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predicted actions ``[..., max_action_horizon, max_action_dim]`` as raw ``action.<key>`` ``[..., H, D]``."""
        return {f"action.{key}": values for key, values in self.vectors.decode(action, state).items()}
