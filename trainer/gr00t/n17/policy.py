"""GR00T N1.7 behind ``trainer.gr00t.policy.Policy`` (upstream's ``gr00t/policy/gr00t_policy.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator
from trainer.data.n17.sample import Sample, SampleProcessor
from trainer.errors import UsageError
from trainer.gr00t.checkpoint import Checkpoint
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.processor import QwenProcessor
from trainer.gr00t.parts.chunking import Chunking

RawState = dict[str, np.ndarray]
"""By key, [1, D]."""


class CheckpointActor:
    """A checkpoint of N1.7; see ``trainer.gr00t.policy.Actor``. Images of any size are processed as in training."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        folder, tag = checkpoint.folder, checkpoint.embodiment_tag
        files = processor_files.read(folder)
        self._processor = SampleProcessor(checkpoint.data_config, files.settings, files.of_tag(tag), files.slot(tag))
        self.model = Gr00tN1d7.from_pretrained(folder, dtype=torch.bfloat16 if device.type == "cuda" else None)
        head = self.model.action_head.config
        if self._processor.embodiment_id >= head.max_num_embodiments:
            raise UsageError(
                f"{folder / processor_files.EMBODIMENTS} gives {tag} the slot {self._processor.embodiment_id}; "
                f"the model has {head.max_num_embodiments}.",
                "Use the files of one checkpoint.",
            )
        self.noise_shape = (head.action_horizon, head.max_action_dim)
        self.collate: Callable[[Sequence[Any]], dict[str, Any]] = Collator(QwenProcessor.from_directory(folder))

    def sample(self, observation: Mapping[str, Any]) -> tuple[Sample, RawState]:
        """See ``Actor``."""
        return self._processor.observed(observation)

    def training_sample(self, step: Mapping[str, Any]) -> Sample:
        """See ``Actor``."""
        sample, state = self.sample(step)
        sample["action"], sample["action_mask"] = self._vectors(step, state)
        return sample

    def predict(self, batch: Mapping[str, Any], noise: torch.Tensor | None, chunking: Chunking | None) -> torch.Tensor:
        """See ``Actor``."""
        return self.model.get_action(batch, noise, chunking)["action_pred"]

    def decode(self, actions: np.ndarray, seen: Sequence[RawState], *, batched: bool) -> dict[str, np.ndarray]:
        """See ``Actor``. Relative actions are added to the raw states ``seen``."""
        states = {key: np.stack([each[key] for each in seen]) for key in seen[0]} if batched else seen[0]
        return self._processor.decode(actions if batched else actions[0], states)

    def normalised(self, actions: Mapping[str, np.ndarray], observation: Mapping[str, Any]) -> np.ndarray:
        """See ``Actor``."""
        state = {key: np.asarray(observation[f"state.{key}"]) for key in self._processor.config.keys("state")}
        return self._vectors(actions, state)[0]

    def velocity(self, batch: Mapping[str, Any], noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """See ``Actor``."""
        return self.model(batch, noise, time)["predicted_velocity"]

    def draw_time(self, generator: np.random.Generator) -> float:
        """See ``Actor``, and ``FlowMatchingActionHead.sample_time``."""
        head = self.model.action_head.config
        return (1 - generator.beta(head.noise_beta_alpha, head.noise_beta_beta)) * head.noise_s

    def _vectors(self, step: Mapping[str, Any], state: RawState) -> tuple[np.ndarray, np.ndarray]:
        """The step's ``action.<key>`` [H, D], normalised and padded, and their mask."""
        raw = {key: np.asarray(step[f"action.{key}"], np.float32) for key in self._processor.config.keys("action")}
        return self._processor.vectors.action(raw, state)
