"""Two machines for a training on several: network namespaces that reach each other, and this machine, by a cable each.

Without the right to make them, both are this machine, at its loopback address.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from tests.support.ports import free_port
from tests.support.proxy import Proxy


@dataclass(frozen=True)
class Machine:
    """One of them."""

    prefix: list[str]
    """What runs a command there."""
    environ: dict[str, str]
    """Which node it is, where node 0 is, and where the object store of this machine is."""

    def plug(self, state: Literal["up", "down"]) -> None:
        """The cable between both, where there is one."""
        if self.prefix:
            _ip("-n", self.prefix[-1], "link", "set", "e0", state)


@contextlib.contextmanager
def two_machines(store_port: int) -> Generator[list[Machine]]:
    """Both of them, and a store of this machine that each reaches."""
    with ExitStack() as made:
        try:
            yield _cabled(f"pippa-{os.getpid()}-", store_port, made)
        except (OSError, subprocess.CalledProcessError):
            port = free_port()
            yield [Machine([], _environ(rank, "127.0.0.1", port, "127.0.0.1", store_port)) for rank in range(2)]


def _cabled(name: str, store_port: int, made: ExitStack) -> list[Machine]:
    net = f"10.{64 + os.getpid() % 128}"
    for rank in range(2):
        _ip("netns", "add", f"{name}{rank}")
        made.callback(_ip, "netns", "del", f"{name}{rank}")  # its cables go with it
    _ip("link", "add", "e0", "netns", f"{name}0", "type", "veth", "peer", "name", "e0", "netns", f"{name}1")
    machines = []
    for rank in range(2):
        inside, outside, here = f"{name}{rank}", f"pv{os.getpid()}.{rank}"[:15], f"{net}.{rank + 1}.1"
        _ip("link", "add", outside, "type", "veth", "peer", "name", "h0", "netns", inside)
        _ip("addr", "add", f"{here}/24", "dev", outside)
        _ip("link", "set", outside, "up")
        for device, address in (("e0", f"{net}.0.1{rank}"), ("h0", f"{net}.{rank + 1}.2"), ("lo", "")):
            if address:
                _ip("-n", inside, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", inside, "link", "set", device, "up")
        forwarding = Proxy(("127.0.0.1", store_port), here)
        made.callback(forwarding.cut)
        environ = _environ(rank, f"{net}.0.10", 29400, here, forwarding.port)
        machines.append(Machine(["ip", "netns", "exec", inside], environ))
    return machines


def _environ(rank: int, node_0: str, port: int, store: str, store_port: int) -> dict[str, str]:
    nodes = {"PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": node_0, "PET_MASTER_PORT": str(port)}
    return {**nodes, "PIPPA_S3_ENDPOINT": f"http://{store}:{store_port}"}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
