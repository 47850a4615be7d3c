"""A device that is not there, for computing on which the host may not wait.

Tensors on ``meta`` have no contents: who asks for one, or for a shape that depends on one, gets an error. What a CPU
would not tell beside that are copies that the host waits for.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOWHERE = torch.device("meta")
ASKING = frozenset(
    (
        "_local_scalar_dense",
        "equal",
        "masked_scatter_backward",
        "masked_select",
        "nonzero",
        "_unique2",
        "unique_consecutive",
        "unique_dim",
    )
)
"""Operations of which the host has to know a result."""


class HostWaitedError(AssertionError):
    """An operation for which the host waits."""


class _NoWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if name in ASKING and any(each.device == NOWHERE for each in given):
            raise HostWaitedError(name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None and given[0].device == NOWHERE:
            raise HostWaitedError(name)
        # A tensor of the host's numbers, ``torch.tensor(1.0, device=…)``, is made there and copied.
        if name == "lift_fresh" and given[0].device == NOWHERE:
            raise HostWaitedError("torch.tensor")
        made = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            devices = {each.device for each in (*given, made)}
            waited = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            # A single number of the host's travels with the call.
            if len(devices) > 1 and waited and any(each.ndim for each in given):
                raise HostWaitedError(f"{name} between devices")
        return made


@contextmanager
def no_waits() -> Generator[None]:
    """Raises ``HostWaitedError`` where the host would wait for ``NOWHERE``, or an error of torch's."""
    with mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor), _NoWaits():
        yield
