"""FSDP2: parameters, gradients and AdamW's moments divided between the processes of a training, or of each group of
them (hybrid sharding: the groups, such as the GPUs of a machine, exchange their gradients as with DDP).

By ``torch.distributed.fsdp.fully_shard`` (Zhao et al., VLDB 2023), as torchtitan does and not through accelerate: its
FSDP turns trained bfloat16 weights into float32 ones, so that a checkpoint would be another model's, and mixes up
parameters of which a process holds nothing, such as those of LoRA adapters whose rank is below the number of processes.
Nothing is cast: each process computes with the same numbers as under DDP, and only the order of sums differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from trainer.gr00t.weights import GrootModel
from trainer.training.host_copies import walk


class Shards:
    """``model``, divided in place. Every process of the training makes one, and calls its methods at the same time."""

    def __init__(self, model: GrootModel, device: torch.device, shards: int, *, keeps: bool) -> None:
        """``device`` is this process's; ``shards`` processes that follow each other, such as those of a machine, divide
        a copy of the model between them; ``keeps`` tells that this one writes the checkpoints.

        For these it keeps the frozen weights in host memory, where they were loaded.
        """
        self._model = model
        self._keeps = keeps
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._order = list(model.state_dict())
        self._frozen = {
            name: tensor.detach() for name, tensor in model.state_dict().items() if keeps and name not in trained
        }
        copies = torch.distributed.get_world_size() // shards
        sizes = {"copies": copies, "shards": shards} if copies > 1 else {"shards": shards}
        mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        # From the inside out: what no piece inside has belongs to the one around. On a GPU a piece is moved there and
        # cut before the next, so that no card ever holds the whole model.
        for piece in (*model.pieces(), model):
            sharded = fully_shard(piece, mesh=mesh)
            if device.type == "cpu":  # gloo has sums, and no means
                sharded.set_force_sum_reduction_for_comms(True)

    def weights(self) -> dict[str, torch.Tensor] | None:
        """The whole weights by name, in host memory; None where this process does not keep them."""
        trained = {name: each for name, each in self._model.named_parameters() if each.requires_grad}
        whole = self._whole(trained)
        return (
            {name: whole[name] if name in whole else self._frozen[name] for name in self._order}
            if self._keeps
            else None
        )

    def optimizer_state(self, optimizer: Optimizer) -> Any:
        """What ``optimizer.state_dict()`` would be in one process, in host memory; meaningless in a process that does
        not keep it.
        """
        return self._whole(optimizer.state_dict())

    def load_optimizer(self, optimizer: Optimizer, file: Path) -> None:
        """Give ``optimizer`` the state in ``file``, from any number of processes, with or without FSDP.

        Raises ``pickle.UnpicklingError`` for a file with more than tensors and numbers.
        """
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, values in saved["state"].items():
            values.update(_shards_of(values, parameters[index]))
        optimizer.load_state_dict(saved)

    def _whole(self, tree: Any) -> Any:
        """``tree`` with whole tensors in host memory, one after the other: a card has room for the largest, not all."""

        def whole(tensor: torch.Tensor) -> torch.Tensor | None:
            if isinstance(tensor, DTensor):
                tensor = tensor.full_tensor()
            # A copy, also on a CPU: it is written while the training continues.
            return tensor.detach().to("cpu", copy=True) if self._keeps else None

        return walk(tree, whole)


def clip_gradients(parameters: list[nn.Parameter], most: float) -> torch.Tensor:
    """Scale the gradients down to a norm of at most ``most``, and return the norm they had, over all processes."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def _shards_of(values: Mapping[str, Any], parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """Of a parameter's whole moments, what this process holds: as of the parameter itself."""
    if not isinstance(like := parameter.data, DTensor):
        return {}
    return {
        name: distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
        for name, value in values.items()
        if isinstance(value, torch.Tensor) and value.shape == like.shape
    }
