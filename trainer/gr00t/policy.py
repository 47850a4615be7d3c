"""``Policy``: a checkpoint that acts (upstream's ``Gr00tPolicy``), of whichever generation its ``config.json`` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol

import numpy as np
import torch

from trainer.data.configs import DataConfig
from trainer.errors import UsageError
from trainer.gr00t.checkpoint import Checkpoint, find_checkpoint
from trainer.gr00t.parts.chunking import Chunking
from trainer.gr00t.previous_chunk import PreviousChunk

_USUAL_SIZE = (320, 240)
"""Pixels of an example's camera of unknown size."""


class Actor(Protocol):
    """What ``Policy`` needs of a generation: its model, between its processing of data."""

    model: Any
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    noise_shape: tuple[int, int]
    """Of the chunk that the model makes actions of: steps and padded dimensions."""

    def sample(self, observation: Mapping[str, Any]) -> tuple[Any, Any]:
        """What the collator takes, and what ``decode`` needs to know of it."""
        ...

    def training_sample(self, step: Mapping[str, Any]) -> Any:
        """The same with the actions, for a loss."""
        ...

    def predict(self, batch: Mapping[str, Any], noise: torch.Tensor | None, chunking: Chunking | None) -> torch.Tensor:
        """Normalised actions [B, T, D]."""
        ...

    def decode(self, actions: np.ndarray, seen: Sequence[Any], *, batched: bool) -> dict[str, np.ndarray]:
        """Raw ``action.<key>`` of normalised ``actions`` [B, T, D]; without the batch axis where not ``batched``."""
        ...

    def normalised(self, actions: Mapping[str, np.ndarray], observation: Mapping[str, Any]) -> np.ndarray:
        """Raw ``action.<key>`` [H, D], as seen from ``observation``, as the model would predict them, [T, D]."""
        ...

    def velocity(self, batch: Mapping[str, Any], noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """What the model says of the noisy actions of a batch, [B, T, D]."""
        ...

    def draw_time(self, generator: np.random.Generator) -> float:
        """One time as a training draws it."""
        ...


class Policy:
    """Raw observations in, raw action chunks out: the checkpoint's model between evaluation's transforms.

    On a GPU everything runs in bfloat16, as upstream's policy does; on a CPU in the dtypes it is trained in.
    """

    def __init__(
        self,
        model_path: str | PathLike[str] | Checkpoint,
        data_config: DataConfig | str | None = None,
        embodiment_tag: str | None = None,
        denoising_steps: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Load a checkpoint: a folder, a name in the registry such as ``smoke/best``, or a hub id.

        A checkpoint knows its data config and embodiment tag; one of Isaac-GR00T N1.5 needs them as arguments.
        ``denoising_steps`` replaces the checkpoint's number of Euler steps; ``device`` is by default a GPU where there
        is one. Raises ``UsageError`` when there is no such checkpoint, when it has no statistics for
        ``embodiment_tag``, when there is no such device, and when ``data_config`` or the tag contradict what it was
        trained with.
        """
        if denoising_steps is not None and denoising_steps < 1:
            raise UsageError(f"denoising_steps is {denoising_steps}.", "Take one step or more; upstream takes 4.")
        place = _device(device)
        self.checkpoint = (
            model_path
            if isinstance(model_path, Checkpoint)
            else find_checkpoint(model_path, data_config, embodiment_tag)
        )
        self.data_config = self.checkpoint.data_config
        self.device = place
        self._actor = _actor(self.checkpoint, self.device)
        self.model = self._actor.model
        self.model.requires_grad_(False).eval().to(self.device)
        if denoising_steps is not None:
            self.model.action_head.num_inference_timesteps = denoising_steps
        self.denoising_steps: int = self.model.action_head.num_inference_timesteps
        self.noise_shape = self._actor.noise_shape
        self._collate = self._actor.collate

    @torch.inference_mode()
    def get_action(
        self,
        observation: Mapping[str, Any],
        noise: np.ndarray | None = None,
        previous: PreviousChunk | None = None,
    ) -> dict[str, np.ndarray]:
        """Predict the next ``action_horizon`` actions (H), as ``action.<key>`` [H, D] in the data's own units.

        ``observation``: ``video.<key>`` uint8 [T, H, W, 3] with a frame for each of the data config's
        ``video_delta_indices`` (one, as a rule), ``state.<key>`` [1, D], the annotation a list of one text. With a
        leading batch axis everywhere (and a text per sample) the actions have one too. Other keys are ignored. The
        noise it starts from is drawn from torch's global generator; ``noise`` of ``noise_shape``, with the batch axis
        if there is one, replaces it and makes the actions repeatable. With ``previous`` they continue that chunk
        (real-time chunking). Raises ``UsageError`` when a key is absent or of another shape. Images of another size
        than the training's are taken.
        """
        batched = self._is_batched(observation)
        observations = self._split(observation) if batched else [observation]
        samples, seen = zip(*(self._actor.sample(each) for each in observations), strict=True)
        start = self._start(noise, len(samples), batched)
        widths = {f"action.{key}": self.checkpoint.widths[f"action.{key}"] for key in self.data_config.keys("action")}
        kept = previous and previous.remaining(
            widths, self.data_config.action_horizon, len(samples) if batched else None
        )
        chunking = self._chunking(previous, kept, observations) if previous and kept else None
        predicted = self._actor.predict(self._collate(list(samples)), start, chunking).cpu().numpy()
        actions = self._actor.decode(predicted, seen, batched=batched)
        if previous and kept:
            frozen = previous.frozen_steps
            for name, values in actions.items():
                values[..., :frozen, :] = kept[name][:, :frozen] if batched else kept[name][0, :frozen]
        return actions

    @torch.inference_mode()
    def flow_matching_losses(
        self, steps: Sequence[Mapping[str, Any]], noise: np.ndarray, time: np.ndarray
    ) -> list[float]:
        """The training loss of each of B ``steps``, which are observations with their ``action.<key>`` [H, D].

        ``noise`` [B, *noise_shape] and ``time`` [B] in [0, 1] are what a training draws at random; nothing is
        augmented and no dropout is on, so that the same draws give the same losses.
        """
        batch = self._collate([self._actor.training_sample(step) for step in steps])
        drawn = self._moved(noise)
        velocity = self._actor.velocity(batch, drawn, self._moved(time))
        action, mask = batch["action"].to(self.device), batch["action_mask"].to(self.device)
        errors = (velocity.float() - (action - drawn.float())) ** 2 * mask
        return (errors.sum(dim=(1, 2)) / mask.sum(dim=(1, 2))).tolist()

    def draw_time(self, generator: np.random.Generator) -> float:
        """One time for ``flow_matching_losses``, as a training draws it."""
        return self._actor.draw_time(generator)

    def example(self) -> dict[str, Any]:
        """An observation of black images and zeros, of the training's shapes."""
        config, found = self.data_config, {}
        for key in config.video:
            width, height = self.checkpoint.image_sizes.get(key, _USUAL_SIZE)
            found[f"video.{key}"] = np.zeros((len(config.video_delta_indices), height, width, 3), np.uint8)
        for key in config.keys("state"):
            found[f"state.{key}"] = np.zeros((1, self.checkpoint.widths[f"state.{key}"]), np.float32)
        return {**found, config.language: [""]}

    def _chunking(
        self, previous: PreviousChunk, kept: Mapping[str, np.ndarray], observations: Sequence[Mapping[str, Any]]
    ) -> Chunking:
        """What is left of the chunk before, as the model sees it from where the robot is now: what is relative to the
        state moves with it.
        """
        rows = [
            self._actor.normalised(previous.whole(kept, row), observation)
            for row, observation in enumerate(observations)
        ]
        start = self._moved(np.stack(rows))
        left = self.data_config.action_horizon - previous.executed_steps
        return Chunking(start, left, left, previous.frozen_steps, previous.ramp_rate)

    def _start(self, noise: np.ndarray | None, batch: int, batched: bool) -> torch.Tensor | None:
        """``noise`` as the model takes it. Raises ``UsageError`` when it has another shape."""
        if noise is None:
            return None
        shape = (batch, *self.noise_shape) if batched else self.noise_shape
        if np.shape(noise) != shape:
            raise UsageError(f"noise is {list(np.shape(noise))}.", f"For this observation it must be {list(shape)}.")
        start = self._moved(noise)
        return start if batched else start[None]

    def _moved(self, values: np.ndarray) -> torch.Tensor:
        """``values`` in the action head's dtype on its device, without waiting for it."""
        return torch.as_tensor(values, dtype=self.model.action_head.dtype).to(self.device, non_blocking=True)

    def _is_batched(self, observation: Mapping[str, Any]) -> bool:
        """Whether every state has a batch axis before time and dimension, as upstream tells."""
        states = [np.ndim(value) for key, value in observation.items() if key.startswith("state.")]
        return bool(states) and min(states) >= 3

    def _split(self, observation: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A batched observation as one per sample."""
        names = [f"video.{key}" for key in self.data_config.video]
        names += [f"state.{key}" for key in self.data_config.keys("state")]
        names += [self.data_config.language]
        present = {name: observation[name] for name in names if name in observation}
        sizes = {name: len(value) for name, value in present.items()}
        if len(set(sizes.values())) > 1:
            described = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise UsageError(
                f"The observation's batch sizes differ: {described}.", "Give each sample a frame, state and text."
            )
        batch = min(sizes.values(), default=0)
        return [{name: value[row] for name, value in present.items()} for row in range(batch)]


def _device(given: str | torch.device | None) -> torch.device:
    """Raises ``UsageError`` for one that torch does not know, and for a GPU that is not there."""
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(given or ("cuda" if gpus else "cpu"))
    except RuntimeError:
        raise UsageError(f"device is {given!r}.", 'Say "cpu", "cuda", or "cuda:1" for the second GPU.') from None
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UsageError(f"device is {str(device)!r}, and torch sees {gpus} GPUs.", "`pippa doctor` lists them.")
    return device


def _actor(checkpoint: Checkpoint, device: torch.device) -> Actor:
    return checkpoint.generation.module("gr00t", "policy").CheckpointActor(checkpoint, device)
