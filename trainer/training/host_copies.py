"""Copies of what is trained, taken in host memory while the training continues.

Weights and moments change in one place only, the optimizer's step. So a copy that is begun after a step may continue
beside the next one's forward and backward pass, and the training waits only if it gets to the optimizer first (as in
CheckFreq, Mohan et al., FAST 2021).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 28
"""A tree's copies share blocks of memory of this size, or of one tensor's where that is larger. torch rounds pinned
memory up to a power of two, which these are: tensor by tensor a third of it would be lost. And a file of shared blocks
is written in one piece for each.
"""

_ALIGNED = 64
"""Bytes at whose multiples a copy begins, as torch's own memory does."""


class _Kind(NamedTuple):
    """What the memory of a copy depends on."""

    shape: torch.Size
    dtype: torch.dtype
    pinned: bool


class HostCopies:
    """Copies of tensors in host memory, one per name, whose memory is used again for the next copy.

    Fresh memory costs more than the copying itself: page faults, and on a GPU the pinning, without which the copy takes
    several times as long. The order is ``take`` as often as needed, ``begin``, and then ``before_change`` before the
    sources change and ``finish`` by the reader of the copies.
    """

    def __init__(self) -> None:
        self._copies: dict[str, tuple[list[_Kind], list[torch.Tensor]]] = {}
        self._sources: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-copy")
        self._stream: torch.cuda.Stream | None = None
        self._before_change: Callable[[], object] = _nothing
        self._finish: Callable[[], object] = _nothing

    def take(self, name: str, tree: Any) -> Any:
        """``tree``, a tensor or dictionaries and lists of tensors and plain values, with each tensor's copy.

        The copies hold what they should after ``finish``. ``name`` tells which memory to use: that of the tree that was
        taken under it before, which must have been finished and read.
        """
        sources: list[torch.Tensor] = []
        walk(tree, sources.append)
        kinds = [_Kind(each.shape, each.dtype, each.is_cuda) for each in sources]
        known, copies = self._copies.get(name, ([], []))
        if kinds != known:
            copies = _room_for(kinds)
            self._copies[name] = kinds, copies
        self._sources += [each.detach() for each in sources]
        self._targets += copies
        following = iter(copies)
        return walk(tree, lambda _: next(following))

    def begin(self) -> None:
        """Begin to copy everything that was taken since the last time."""
        sources, targets = self._sources, self._targets
        self._sources, self._targets = [], []
        if not sources:
            return
        if any(each.is_cuda for each in sources):
            self._begin_on_gpu(targets, sources)
            return
        # One call for all: for small tensors a call each takes as long as the copying. It runs without Python's lock.
        copying = self._thread.submit(torch._foreach_copy_, targets, sources)
        self._before_change = self._finish = copying.result

    def _begin_on_gpu(self, targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        """On a separate stream, for which the training's stream waits, and not this process."""
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch._foreach_copy_(targets, sources, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(stream)

        def finish(held: list[torch.Tensor] = sources) -> None:
            copied.synchronize()
            # Until now nothing else may get the memory of a source that only lived for the copy (merged adapters).
            held.clear()

        self._before_change, self._finish = lambda: torch.cuda.current_stream().wait_event(copied), finish

    @contextmanager
    def beside(self) -> Generator[None]:
        """In this context, what a thread copies out of the GPU by itself does not get into the training's way."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def before_change(self) -> None:
        """Whatever changes the sources has to come after this. Raises what went wrong while copying."""
        wait, self._before_change = self._before_change, _nothing
        wait()

    def finish(self) -> None:
        """Wait until the copies are there. Raises what went wrong while copying."""
        self._finish()


class HoldOptimizer(TrainerCallback):
    """Lets the optimizer change weights and moments when they have been copied."""

    def __init__(self, copies: HostCopies) -> None:
        self._copies = copies

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._copies.before_change()


def _nothing() -> None:
    """What there is to wait for before the first copy."""


def walk(tree: Any, visit: Callable[[torch.Tensor], Any]) -> Any:
    """``tree``, dictionaries and lists of tensors and plain values, with ``visit(tensor)`` in each tensor's place."""
    if isinstance(tree, torch.Tensor):
        return visit(tree)
    if isinstance(tree, dict):
        return {key: walk(value, visit) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(walk(value, visit) for value in tree)
    return tree


def _room_for(kinds: Sequence[_Kind]) -> list[torch.Tensor]:
    """Tensors in host memory, one for each of ``kinds``, in blocks that those of one dtype share.

    The largest first, each into the first block that has room: hardly any is left over. What is left holds zeros, since
    it goes into files, which shall be the same for the same state, and shall not hold what the memory held before.
    """
    made: dict[int, torch.Tensor] = {}
    alike: dict[tuple[torch.dtype, bool], list[int]] = {}
    for index, kind in enumerate(kinds):
        alike.setdefault((kind.dtype, kind.pinned), []).append(index)
    for (dtype, pinned), indices in alike.items():
        step = _ALIGNED // dtype.itemsize
        lengths = {index: -(-kinds[index].shape.numel() // step) * step for index in indices}
        left, most = sum(lengths.values()), BLOCK_BYTES // dtype.itemsize
        free: list[torch.Tensor] = []
        for index in sorted(indices, key=lambda each: -lengths[each]):
            length, shape = lengths[index], kinds[index].shape
            place = next((number for number, block in enumerate(free) if len(block) >= length), len(free))
            if place == len(free):
                free.append(_zeros(min(left, max(most, _power_of_two(length))), dtype, pinned=pinned))
                pinned = pinned and free[place].is_pinned()  # where one can't be, the next won't, and it is logged once
            made[index] = free[place][: shape.numel()].view(shape)
            free[place] = free[place][length:]
            left -= length
    return [made[index] for index in range(len(kinds))]


def _zeros(length: int, dtype: torch.dtype, *, pinned: bool) -> torch.Tensor:
    """Pinned memory where it can be had: not beyond what the system allows a process to lock (as under WSL)."""
    if pinned:
        try:
            return torch.zeros(length, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            log.warning("No pinned memory for a checkpoint (%s): copying it out of the GPU takes longer.", error)
    return torch.zeros(length, dtype=dtype)


def _power_of_two(length: int) -> int:
    """The next one from ``length`` on."""
    return 1 << max(length - 1, 0).bit_length()
