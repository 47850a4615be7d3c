"""A node that can't train along tells node 0 why, which awaits it and tells the others: all end within seconds."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Generator
from datetime import timedelta

from torch.distributed import TCPStore

from trainer.errors import PippaError
from trainer.runner.nodes import Node, why_not
from trainer.training.node_watch import GRACE_SECONDS
from trainer.training.rendezvous import JOIN_SECONDS, unreachable

TELL_SECONDS = 60.0
"""How long an engine that has nothing else to do tries to tell."""
_LOOK_SECONDS = 0.2


def tell(node: Node, answer: dict[str, str], seconds: float) -> bool:
    """Tell node 0 within ``seconds`` that this node does not come, unless the training has begun; whether it heard."""
    deadline = time.monotonic() + seconds
    while unreachable(node):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    with contextlib.suppress(RuntimeError):  # node 0 is gone, and so has ended
        store = TCPStore(node.host, node.port, timeout=timedelta(seconds=GRACE_SECONDS), wait_for_workers=False)
        store.set("wrong", json.dumps(answer))
        heard = time.monotonic() + GRACE_SECONDS
        while not store.check(["together"]) and time.monotonic() < heard:
            time.sleep(_LOOK_SECONDS)
    return True


@contextlib.contextmanager
def told(node: Node) -> Generator[None]:
    """Tell node 0 of a ``PippaError`` of this block, in which node ``node`` prepares to meet the others."""
    try:
        yield
    except PippaError as error:
        if node.rank:
            tell(node, why_not(node, error), TELL_SECONDS)
        raise


if __name__ == "__main__":
    # For the light process around an engine, which has no torch (``trainer.runner.joining``).
    rank, count, host, port = sys.argv[1:]
    tell(Node(int(rank), int(count), host, int(port)), json.loads(sys.stdin.read()), JOIN_SECONDS)
