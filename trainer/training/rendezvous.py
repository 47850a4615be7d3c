"""How the machines of one training find each other, and begin from the same checkpoint.

The processes themselves are started and joined by torchrun (``trainer.training.devices``); they meet in a ``TCPStore``
on node 0, which torchrun's static rendezvous then shares. What torchrun lacks is here: it says who is missing.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import tarfile
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from torch.distributed import TCPStore

from trainer.errors import EngineError, UsageError
from trainer.runner.nodes import Node
from trainer.training import checkpoint_transfer
from trainer.training.node_watch import GRACE_SECONDS, HINT, SILENT_SECONDS, Watch, until

JOIN_SECONDS = 1800.0
"""How long to wait for the others to come: they may have gigabytes of data to fetch first."""
STALLED_SECONDS = 120.0
"""A checkpoint of which nothing comes for this long will not come: node 0 may be switched off."""
_LOOK_SECONDS = 0.2


class Rendezvous:
    """The machines of one training, seen from ``node``. Raises ``PippaError`` where they don't come together."""

    def __init__(self, node: Node, terms: dict[str, Any], say: Callable[[str], None]) -> None:
        """Wait for all of them; every one must have the same ``terms``. ``say`` hears who is missing."""
        self.node = node
        self._say = say
        self._id = secrets.token_hex(8)
        """Tells this machine from another that takes itself for the same node."""
        self._store = self._opened()
        if node.rank == 0 and self._has("together"):
            raise EngineError(f"The training has begun already: another machine is node 0, at {node.host}.", HINT)
        mine = {"rank": node.rank, "host": socket.gethostname(), "terms": terms, "id": self._id}
        self._put(f"here/{node.rank}", mine)
        self._hosts = self._together(terms)

    def same_checkpoint(self, newest: Path | None, folder: Path) -> Path | None:
        """The checkpoint of node 0 to continue from, on this machine: on node 0 ``newest`` itself, elsewhere its copy
        in ``folder``. None where the training begins.

        Node 0 decides: its disk may hold a later checkpoint than the object store. The copy goes from machine to
        machine over a connection that asks for a word only this meeting knows.
        """
        if self.node.rank == 0:
            offer: dict[str, Any] = {"name": newest and newest.name}
            if newest is not None:
                offer |= checkpoint_transfer.serve(newest, local_address(self.node), self.node.count - 1)
            self._put("checkpoint", offer)
            return newest
        offer = self._wait("checkpoint")
        if offer["name"] is None:
            return None
        self._say(f"Fetching {offer['name']} from node 0.")
        try:
            checkpoint_transfer.fetch(
                (offer["address"], offer["port"]), offer["word"], folder / offer["name"], STALLED_SECONDS
            )
        except (OSError, tarfile.TarError) as error:
            raise EngineError(f"Node 0's {offer['name']} did not get here: {error}.", HINT) from error
        return folder / offer["name"]

    @contextlib.contextmanager
    def watched(self) -> Generator[Watch]:
        """In this block the nodes hear of each other; what trains here is killed when one of the others is lost."""
        watch = Watch(self._store, self.node, self._hosts)
        watch.start()
        try:
            yield watch
        finally:
            watch.over.set()

    def _opened(self) -> TCPStore:
        node, deadline = self.node, time.monotonic() + JOIN_SECONDS
        reported = 0.0
        while (problem := unreachable(node)) and time.monotonic() < deadline:
            if time.monotonic() - reported > SILENT_SECONDS:
                self._say(f"Waiting for node 0 at {node.host}, port {node.port}: {problem}.")
                reported = time.monotonic()
            time.sleep(0.5)
        if problem:
            raise EngineError(f"Node 0 at {node.host}, port {node.port}, did not come: {problem}.", HINT)
        try:
            return TCPStore(
                node.host,
                node.port,
                is_master=node.rank == 0,
                timeout=timedelta(seconds=JOIN_SECONDS),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except RuntimeError as error:
            if "EADDRINUSE" not in str(error) and "in use" not in str(error):
                raise
            raise UsageError(
                f"Port {node.port} of node 0 is taken.", "Set PET_MASTER_PORT to another one on every node."
            ) from error

    def _together(self, terms: dict[str, Any]) -> list[str]:
        """The host names of all nodes, once all are there."""
        rank, count = self.node.rank, self.node.count
        if rank:
            answer = self._answered()
        else:
            self._put("count", count)
            answer = self._gathered(terms)
            self._put("together", answer)
        self._put(f"read/{rank}/{self._id}", True)
        if rank == 0 and "hosts" not in answer:  # the store goes with this process: those there must have read it
            there = [self._wait(key) for each in range(count) if self._has(key := f"here/{each}")]
            keys = [f"read/{each['rank']}/{each['id']}" for each in there]
            until(lambda: all(map(self._has, keys)), GRACE_SECONDS)
            time.sleep(2 * _LOOK_SECONDS)  # for one whose place another has taken
        if "problem" in answer:
            raise UsageError(answer["problem"], "Give every node the same command, and the same version of pippa.")
        if "failure" in answer:
            raise EngineError(answer["failure"], HINT)
        if "missing" in answer:
            raise EngineError(f"Within {JOIN_SECONDS:.0f} s {answer['missing']} of {count} did not come.", HINT)
        if answer["ids"][rank] != self._id:
            raise EngineError(f"The training has begun already, with {answer['hosts'][rank]} as node {rank}.", HINT)
        return answer["hosts"]

    def _answered(self) -> dict[str, Any]:
        """What node 0 says to the others once all are there, or can't train together."""
        rank = self.node.rank
        if (count := self._wait("count")) != self.node.count:
            here = f"{self.node.count} on node {rank} ({socket.gethostname()})"
            self._put("wrong", {"problem": f"--num-nodes is {count} on node 0, and {here}."})
        while not self._has("together"):
            if twice := self._twice():
                self._put("wrong", {"problem": twice})
            time.sleep(_LOOK_SECONDS)
        return self._wait("together")

    def _twice(self) -> str:
        """What is wrong where a second machine takes itself for this node; one that came in its place is alone."""
        rank = self.node.rank
        other = self._wait(f"here/{rank}")
        if other["id"] == self._id:
            return ""
        return f"Two machines take themselves for node {rank}: {socket.gethostname()} and {other['host']}."

    def _gathered(self, terms: dict[str, Any]) -> dict[str, Any]:
        count, deadline, reported = self.node.count, time.monotonic() + JOIN_SECONDS, time.monotonic()
        while missing := [rank for rank in range(count) if not self._has(f"here/{rank}")]:
            if twice := self._twice():
                self._put("wrong", {"problem": twice})
            if self._has("wrong"):
                return self._wait("wrong")
            named = f"node{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            if time.monotonic() > deadline:
                return {"missing": named}
            if time.monotonic() - reported > SILENT_SECONDS:
                self._say(f"Waiting for {named} of {count}.")
                reported = time.monotonic()
            time.sleep(_LOOK_SECONDS)
        if self._has("wrong"):
            return self._wait("wrong")
        detail = [self._wait(f"here/{rank}") for rank in range(count)]
        for rank, other in enumerate(detail):
            differs = [name for name in {**terms, **other["terms"]} if terms.get(name) != other["terms"].get(name)]
            if differs:
                name = min(differs)
                here, there = terms.get(name), other["terms"].get(name)
                return {"problem": f"{name} is {here} on node 0, and {there} on node {rank} ({other['host']})."}
        return {"hosts": [other["host"] for other in detail], "ids": [other["id"] for other in detail]}

    def _put(self, key: str, value: Any) -> None:
        self._store.set(key, json.dumps(value))

    def _has(self, key: str) -> bool:
        with _node_0_lives():
            return self._store.check([key])

    def _wait(self, key: str) -> Any:
        with _node_0_lives():
            return json.loads(self._store.get(key))


@contextlib.contextmanager
def _node_0_lives() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EngineError("Node 0 was lost before the training began.", HINT) from error


def local_address(node: Node) -> str:
    """The address of this machine on the network that leads to node 0; nothing is sent."""
    family, *_, address = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as towards:
        towards.connect(address)
        return towards.getsockname()[0]


def interface(node: Node) -> str | None:
    """The name of the network interface that leads to node 0, such as ``eth0``; None where it is not known.

    gloo would take the one that this machine's name stands for, often the loopback, where no other machine finds it.
    """
    own = local_address(node)
    found = (name for name, each in psutil.net_if_addrs().items() if any(one.address == own for one in each))
    return next(found, None)


def unreachable(node: Node) -> str:
    """Why node 0 can't be met yet; empty when it can. A name may come into being after the machine."""
    try:
        if node.rank == 0:
            socket.getaddrinfo(node.host, node.port)
        else:
            socket.create_connection((node.host, node.port), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
