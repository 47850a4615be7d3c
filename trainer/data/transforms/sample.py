"""The whole transform of a step, for training and for a policy (upstream's ``GR00TTransform``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from trainer.data.configs import PROJECTOR_INDEX, DataConfig
from trainer.data.metadata import DatasetMetadata
from trainer.data.n15.rules import unsupported
from trainer.data.transforms.images import transform_images
from trainer.data.transforms.state_action import StateActionTransform
from trainer.errors import UsageError

DEFAULT_INSTRUCTION = "Perform the default behavior."


class Sample(TypedDict):
    """One step, ready for the collator. Actions are absent at inference. V views, horizon H."""

    images: np.ndarray
    """uint8 ``[V, 224, 224, 3]``, views in the data config's order."""
    text: str
    state: np.ndarray
    """float32 ``[1, max_state_dim]``, zero-padded."""
    state_mask: np.ndarray
    action: NotRequired[np.ndarray]
    """float32 ``[H, max_action_dim]``, zero-padded."""
    action_mask: NotRequired[np.ndarray]
    """True for the real dimensions of every step, also of those repeated beyond the episode's end."""
    embodiment_id: int


class SampleTransform:
    """Normalises, pads and augments the steps of one data config on one dataset (or a mixture's merged metadata).

    Raises ``UsageError`` or ``DatasetError`` when the three don't fit together.
    """

    def __init__(self, config: DataConfig, metadata: DatasetMetadata, embodiment_tag: str) -> None:
        if embodiment_tag not in PROJECTOR_INDEX:
            raise UsageError(
                f"No embodiment tag is called {embodiment_tag!r}.", f"There are {', '.join(PROJECTOR_INDEX)}."
            )
        if only := unsupported(config):
            raise UsageError(
                f"{config.name} asks for what GR00T N1.5 can't do: {', '.join(only)}.",
                "Use it with a base model of GR00T N1.7, or leave that out of the data config.",
            )
        self.config = config
        self.embodiment_id = PROJECTOR_INDEX[embodiment_tag]
        self.state = StateActionTransform("state", config.state, metadata)
        self.action = StateActionTransform("action", config.action, metadata)
        for transform, limit, larger in (
            (self.state, config.max_state_dim, ""),  # upstream cuts the last dimensions off without a word
            (self.action, config.max_action_dim, ", or one of your own with a larger max_action_dim"),
        ):
            if transform.width > limit:
                raise UsageError(
                    f"The {transform.modality}s of {config.name} have {transform.width} dimensions; the model takes "
                    f"{limit}.",
                    f"Use a data config with fewer {transform.modality} keys{larger}.",
                )

    def sample(
        self,
        views: list[np.ndarray],
        text: str,
        state: np.ndarray,
        action: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Sample:
        """Put a sample together from frames (uint8 ``[H, W, 3]`` per view) and normalised vectors.

        ``state`` ``[1, D]`` and ``action`` ``[H, D]`` are what ``self.state.forward`` and ``self.action.forward``
        gave. With a ``generator`` images are augmented as in training.
        """
        padded, mask = _pad(state, self.config.max_state_dim)
        sample: Sample = {
            "images": transform_images(views, generator),
            "text": text,
            "state": padded,
            "state_mask": mask,
            "embodiment_id": self.embodiment_id,
        }
        if action is not None:
            sample["action"], sample["action_mask"] = _pad(action, self.config.max_action_dim)
        return sample

    def apply(self, observation: Mapping[str, Any]) -> Sample:
        """Turn a policy's observation into a sample, as in evaluation: no augmentation, no action.

        Upstream's dict: ``video.<key>`` uint8 ``[1, H, W, 3]``, ``state.<key>`` ``[1, D]``, the annotation a list
        of texts (the first counts) or one text. Raises ``UsageError`` when a key is absent or of the wrong form.
        """
        wanted = [f"video.{key}" for key in self.config.video] + [f"state.{key}" for key in self.config.keys("state")]
        absent = [key for key in wanted if key not in observation]
        if absent:
            raise UsageError(
                f"The observation lacks {', '.join(absent)}; it has {', '.join(observation)}.",
                f"The data config {self.config.name} needs {', '.join(wanted)}.",
            )
        views = []
        for key in self.config.video:
            frames = np.asarray(observation[f"video.{key}"])
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
                raise UsageError(
                    f"video.{key} is {frames.dtype} {list(frames.shape)}.", "It must be uint8 [1, height, width, 3]."
                )
            views.append(frames[-1])
        text = observation.get(self.config.language, DEFAULT_INSTRUCTION)
        return self.sample(views, text if isinstance(text, str) else str(text[0]), self.state.forward(observation))

    def padded_action(self, step: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The actions ``[H, D]`` of a step, normalised and padded to ``[H, max_action_dim]``, and their mask."""
        return _pad(self.action.forward(step), self.config.max_action_dim)

    def unapply(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Predicted actions ``[..., H, max_action_dim]`` as raw ``action.<key>`` ``[..., H, D]``, float64."""
        return self.action.inverse(action)


def _pad(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Zero-pad the last axis to ``width``, with a mask of the real dimensions. float32."""
    real = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], width), dtype=np.float32)
    padded[..., :real] = values
    mask = np.zeros(padded.shape, dtype=bool)
    mask[..., :real] = True
    return padded, mask
