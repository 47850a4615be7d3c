"""How long a chunk of actions takes, by part: from the bytes of a request to those of its answer.

The model's own modules say when a part ends, so that what is measured is what is served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.serving.observation import checked, flat, nested_actions, without_batch
from trainer.serving.wire import Form, pack, unpack

if TYPE_CHECKING:
    from trainer.gr00t.policy import Policy

CHUNKS = 100
WARM_UP = 3
"""Chunks that are not counted: the first ones choose kernels and fill caches."""
CHUNK = "chunk"
OURS = ("decode", "preprocess", "postprocess")
"""The parts that are not the model."""

Parts = Mapping[str, Sequence[float]]
"""Seconds of each part in each chunk, in the order they pass; last the whole ``chunk``."""


def measure(policy: Policy, chunks: int = CHUNKS, clock: Callable[[], float] = time.perf_counter) -> Parts:
    """Answer that many requests of one robot, one after the other. ``clock`` may count processor time instead.

    ``decode`` is the message to arrays that are checked, ``preprocess`` from there until the backbone begins,
    ``backbone`` with what follows it until the first denoising step, then each step, and ``postprocess`` from the last
    step to the bytes of the answer.
    """
    found: dict[str, list[float]] = {}
    message = request_of(policy)
    with _marked(policy, clock) as marks:
        for number in range(WARM_UP + chunks):
            marks.clear()
            began = clock()
            request, form = unpack(message)
            given, _ = checked(flat(request["data"]["observation"]), policy.data_config)
            decoded = clock()
            actions = policy.get_action(without_batch(given))
            pack(nested_actions(actions, batched=False), form or Form.MSGPACK_NUMPY)
            ended = clock()
            if number < WARM_UP:
                continue
            backbone, *steps = marks
            ends = [decoded, backbone, *steps, ended]
            names = ["decode", "preprocess", "backbone", *(f"step {each + 1}" for each in range(len(steps) - 1))]
            for name, start, end in zip([*names, "postprocess"], [began, *ends], ends, strict=False):
                found.setdefault(name, []).append(end - start)
            found.setdefault(CHUNK, []).append(ended - began)
    return found


def request_of(policy: Policy) -> bytes:
    """A request of N1.7's clients that ``policy`` answers, with noise for pictures."""
    random, given = np.random.default_rng(0), policy.example()
    config = policy.data_config
    video = {key: random.integers(0, 256, given[f"video.{key}"].shape, np.uint8)[None] for key in config.video}
    state = {key: given[f"state.{key}"][None] for key in config.keys("state")}
    observation = {"video": video, "state": state, "language": {config.language: [["Pick up the cube."]]}}
    return pack({"endpoint": "get_action", "data": {"observation": observation, "options": None}}, Form.MSGPACK_NUMPY)


def quantiles(parts: Parts) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile of each part, milliseconds."""
    return {name: tuple(1e3 * np.percentile(taken, [50, 99])) for name, taken in parts.items()}  # pyrefly: ignore[bad-return]


def share_of_ours(parts: Parts) -> float:
    """What is not the model, as a share of a chunk, by the medians."""
    medians = {name: p50 for name, (p50, _) in quantiles(parts).items()}
    return sum(medians[name] for name in OURS) / medians[CHUNK]


def summary(parts: Parts) -> str:
    """The parts for people."""
    width = max(map(len, parts))
    lines = [f"{'':{width}}  p50 ms  p99 ms"]
    lines += [f"{name:{width}} {p50:7.2f} {p99:7.2f}" for name, (p50, p99) in quantiles(parts).items()]
    lines.append(f"{len(parts[CHUNK])} chunks; {share_of_ours(parts):.1%} of a chunk is not the model.")
    return "\n".join(lines)


def document(policy: Policy, parts: Parts) -> dict[str, Any]:
    """The parts for programs."""
    return {
        "checkpoint": policy.checkpoint.registered or str(policy.checkpoint.folder),
        "device": str(policy.device),
        "denoising_steps": policy.denoising_steps,
        "chunks": len(parts[CHUNK]),
        "parts": {name: {"p50_ms": p50, "p99_ms": p99} for name, (p50, p99) in quantiles(parts).items()},
        "share_not_model": share_of_ours(parts),
    }


@contextmanager
def _marked(policy: Policy, clock: Callable[[], float]) -> Generator[list[float]]:
    """The times at which the backbone began, each denoising step began, and the last one ended; until cleared."""
    import torch

    marks: list[float] = []

    def now() -> float:
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)
        return clock()

    def began(*_: Any) -> None:
        marks.append(now())

    def ended(*_: Any) -> None:
        if len(marks) == 1 + policy.denoising_steps:
            marks.append(now())

    head = policy.model.action_head
    with ExitStack() as hooks:
        for hook in (
            policy.model.backbone.register_forward_pre_hook(began),
            head.action_encoder.register_forward_pre_hook(began),
            head.action_decoder.register_forward_hook(ended),
        ):
            hooks.callback(hook.remove)
        yield marks
