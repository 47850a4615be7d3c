"""Which parts of a model are trained."""

from __future__ import annotations

from torch import nn


def has_trainable(*modules: nn.Module) -> bool:
    """Whether any parameter of ``modules`` is trained."""
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())
