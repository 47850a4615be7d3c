"""``Policy``: a checkpoint that acts (upstream's ``Gr00tPolicy``, ``gr00t/model/policy.py``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainer.data.collate import Collator
from trainer.data.configs import DataConfig
from trainer.data.metadata import read_metadata
from trainer.data.transforms.sample import SampleTransform
from trainer.errors import UsageError
from trainer.gr00t.checkpoint import Checkpoint, find_checkpoint
from trainer.gr00t.n15.model import GR00TN15, resize_action_head
from trainer.gr00t.n15.processor import EagleProcessor

log = logging.getLogger(__name__)


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

        A checkpoint knows its data config and embodiment tag; one of Isaac-GR00T has to be told. ``denoising_steps``
        replaces the checkpoint's number of Euler steps; ``device`` is by default a GPU where there is one. Raises
        ``UsageError`` when there is no such checkpoint, when it has no statistics for ``embodiment_tag``
        (experiment_cfg/metadata.json), and when ``data_config`` or the tag contradict what it was trained with.
        """
        if denoising_steps is not None and denoising_steps < 1:
            raise UsageError(f"denoising_steps is {denoising_steps}.", "Take one step or more; upstream takes 4.")
        found = (
            model_path
            if isinstance(model_path, Checkpoint)
            else find_checkpoint(model_path, data_config, embodiment_tag)
        )
        folder, embodiment_tag = found.folder, found.embodiment_tag
        self.data_config = found.data_config
        metadata = read_metadata(folder / "experiment_cfg", embodiment_tag)
        self.metadata = metadata
        self._resized: set[str] = set()
        self.transform = SampleTransform(self.data_config, metadata, embodiment_tag)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._half = self.device.type == "cuda"
        self.model = GR00TN15.from_pretrained(folder, dtype=torch.bfloat16 if self._half else None)
        resize_action_head(self.model, self.data_config.action_horizon, self.data_config.max_action_dim)
        if denoising_steps is not None:
            self.model.action_head.num_inference_timesteps = denoising_steps
        self.denoising_steps = self.model.action_head.num_inference_timesteps
        self.model.requires_grad_(False).eval().to(self.device)  # pyrefly: ignore[bad-argument-type]
        self._collate = Collator(EagleProcessor.from_directory(folder))

    @torch.inference_mode()
    def get_action(self, observation: Mapping[str, Any], noise: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Predict the next ``action_horizon`` actions (H), as ``action.<key>`` float64 [H, D] in the data's own units.

        ``observation``: ``video.<key>`` uint8 [1, H, W, 3], ``state.<key>`` [1, D], the annotation a list of one
        text. With a leading batch axis everywhere (and a text per sample) the actions have one too. Other keys are
        ignored. The noise it starts from is drawn from torch's global generator; ``noise`` [H, max_action_dim], with
        the batch axis if there is one, replaces it and makes the actions repeatable. Raises ``UsageError`` when a key
        is absent or of another shape. Images of another size than the training's are resized to it, with one warning.
        """
        batched = self._is_batched(observation)
        samples = [
            self.transform.apply(self._fitted(one)) for one in (self._split(observation) if batched else [observation])
        ]
        start = self._start(noise, len(samples), batched)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            actions = self.model.get_action(self._collate(samples), start)["action_pred"].cpu().numpy()
        return self.transform.unapply(actions if batched else actions[0])

    @torch.inference_mode()
    def flow_matching_losses(
        self, steps: Sequence[Mapping[str, Any]], noise: np.ndarray, time: np.ndarray
    ) -> list[float]:
        """The training loss of each of B ``steps``, which are observations with their ``action.<key>`` [H, D].

        ``noise`` [B, H, max_action_dim] and ``time`` [B] in [0, 1] are what a training draws at random; nothing is
        augmented and no dropout is on, so that the same draws give the same losses.
        """
        samples = []
        for step in steps:
            seen = self.transform.apply(self._fitted(step))
            seen["action"], seen["action_mask"] = self.transform.padded_action(step)
            samples.append(seen)
        batch = self._collate(samples)
        dtype, device = self.model.action_head.dtype, self.device
        drawn = torch.as_tensor(noise, dtype=dtype, device=device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            outputs = self.model(batch, drawn, torch.as_tensor(time, dtype=dtype, device=device))
        action, mask = batch["action"].to(device), batch["action_mask"].to(device)
        errors = (outputs["predicted_velocity"].float() - (action - drawn.float())) ** 2 * mask
        return (errors.sum(dim=(1, 2)) / mask.sum(dim=(1, 2))).tolist()

    def _fitted(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """``observation`` with images of the size that the cameras had in the training."""
        changed: dict[str, Any] = {}
        for key in self.data_config.video:
            frames = np.asarray(observation.get(f"video.{key}", ()))
            camera = self.metadata.modalities.video.get(key)
            if camera is None or frames.ndim != 4 or frames.dtype != np.uint8:
                continue  # what is wrong with it is said by the transform
            width, height = camera.resolution
            if frames.shape[1:3] == (height, width):
                continue
            if not self._resized:
                log.warning(
                    "The camera %s gives images of %dx%d; it was trained on %dx%d, and they are resized.",
                    key,
                    *(frames.shape[2], frames.shape[1], width, height),
                )
            self._resized.add(key)
            images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
            resized = functional.resize(images, [height, width], antialias=True)
            changed[f"video.{key}"] = resized.permute(0, 2, 3, 1).numpy()
        return {**observation, **changed} if changed else observation

    def _start(self, noise: np.ndarray | None, batch: int, batched: bool) -> torch.Tensor | None:
        """``noise`` as the model takes it. Raises ``UsageError`` when it has another shape."""
        if noise is None:
            return None
        shape = (self.data_config.action_horizon, self.data_config.max_action_dim)
        shape = (batch, *shape) if batched else shape
        if np.shape(noise) != shape:
            raise UsageError(f"noise is {list(np.shape(noise))}.", f"For this observation it must be {list(shape)}.")
        start = torch.as_tensor(noise, dtype=self.model.action_head.dtype, device=self.device)
        return start if batched else start[None]

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
