"""How the machines of one training find each other, begin from the same checkpoint, and notice that one is lost.

The processes themselves are started and joined by torchrun (``trainer.training.devices``); they meet in a ``TCPStore``
on node 0, which torchrun's static rendezvous then shares. What torchrun lacks is here: it says who is missing, and it
finds a machine that was switched off only when a collective times out, half an hour later.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from torch.distributed import TCPStore

from trainer.errors import EngineError, ExitCode, PippaError, UsageError
from trainer.runner.nodes import Node

JOIN_SECONDS = 1800.0
"""How long to wait for the others to come: they may have gigabytes of data to fetch first."""
BEAT_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""A node without a heartbeat for this long is lost."""
GRACE_SECONDS = 10.0
"""How long after another node's failure the processes here may take to end by themselves."""
_LOOK_SECONDS = 0.2
SAVE_SECONDS = 600.0
"""The same after another node got a stop signal: node 0 is saving."""

_HINT = "Start every node again with the same command: the run continues from its last checkpoint."


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
            raise EngineError(f"The training has begun already: another machine is node 0, at {node.host}.", _HINT)
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
                server = socket.create_server((local_address(self.node), 0))
                word = secrets.token_hex(16)
                address, port = server.getsockname()[:2]
                offer |= {"address": address, "port": port, "word": word}
                copies = self.node.count - 1
                threading.Thread(target=_serve, args=(server, word, newest, copies), daemon=True).start()
            self._put("checkpoint", offer)
            return newest
        offer = self._wait("checkpoint")
        if offer["name"] is None:
            return None
        self._say(f"Fetching {offer['name']} from node 0.")
        try:
            _fetch((offer["address"], offer["port"]), offer["word"], folder, offer["name"])
        except (OSError, tarfile.TarError) as error:
            raise EngineError(f"Node 0's {offer['name']} did not get here: {error}.", _HINT) from error
        return folder / offer["name"]

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watch]:
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
            raise EngineError(f"Node 0 at {node.host}, port {node.port}, did not come: {problem}.", _HINT)
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
            _until(lambda: all(map(self._has, keys)), GRACE_SECONDS)
            time.sleep(2 * _LOOK_SECONDS)  # for one whose place another has taken
        if "problem" in answer:
            raise UsageError(answer["problem"], "Give every node the same command, and the same version of pippa.")
        if "failure" in answer:
            raise EngineError(answer["failure"], _HINT)
        if "missing" in answer:
            raise EngineError(f"Within {JOIN_SECONDS:.0f} s {answer['missing']} of {count} did not come.", _HINT)
        if answer["ids"][rank] != self._id:
            raise EngineError(f"The training has begun already, with {answer['hosts'][rank]} as node {rank}.", _HINT)
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


class Watch:
    """Tells the others that this machine is alive, and listens for them.

    One thread speaks with node 0, and hangs when that is cut off; the other keeps the time.
    """

    def __init__(self, store: TCPStore, node: Node, hosts: list[str]) -> None:
        # What ran before this training began is not of it.
        self._before = set(psutil.Process().children(recursive=True))
        self.over = threading.Event()
        self.stopped = threading.Event()
        """This machine got a stop signal, which stops the others too."""
        self._store = store
        self._node = node
        self._hosts = hosts
        self._others = [rank for rank in range(node.count) if rank != node.rank]
        now = time.monotonic()
        self._heard = dict.fromkeys(self._others, now)
        self._ended: dict[int, tuple[int, float]] = {}
        """How other nodes ended, and when that was heard here."""
        self._lost: int | None = None
        self._code: int | None = None
        """How the training ended here, once it has."""
        self._reported = False

    def start(self) -> None:
        """Begin to speak and to listen."""
        for task in (self._speak, self._listen):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()

    def ended(self, code: int) -> PippaError | None:
        """Tell the others how the training ended here; returns the error that is another node's, if that is the cause.

        When one node ends, the others' processes fail in their next exchange, with nothing to say.
        """
        self._code = code
        own = self.stopped.is_set() or (code in set(ExitCode) and code not in (ExitCode.FAILED, ExitCode.TERMINATED))
        seconds = 0.0 if own else SILENT_SECONDS + 2 * BEAT_SECONDS
        _until(lambda: self._cause() or self._all_ended(), seconds)
        cause = self._cause()
        # Messages end with this process, and on node 0 the store too: the others must have read them.
        heard = self._all_ended if self._node.rank == 0 else lambda: self._reported or self._lost is not None
        _until(heard, GRACE_SECONDS + 2 * BEAT_SECONDS)
        return None if own else cause

    def _all_ended(self) -> bool:
        return self._lost is not None or len(self._ended) == len(self._others)

    def _cause(self) -> PippaError | None:
        if self._lost is not None:
            return EngineError(f"{self._named(self._lost)} was lost: it sends no heartbeat any more.", _HINT)
        for rank, (code, _) in sorted(self._ended.items()):
            if code == ExitCode.TERMINATED:
                return EngineError(f"{self._named(rank)} got a stop signal, and the training stopped with it.", _HINT)
            if code not in (ExitCode.DONE, ExitCode.FAILED):
                return EngineError(
                    f"{self._named(rank)} failed, with exit code {code}: its own output says why.", _HINT
                )
        return None

    def _named(self, rank: int) -> str:
        return f"Node {rank} ({self._hosts[rank]})"

    def _speak(self) -> None:
        store, detail, count = self._store, dict[int, bytes](), 0
        try:
            while not self.over.wait(BEAT_SECONDS / 4):
                if self._code is not None and not self._reported:
                    store.set(f"end/{self._node.rank}", str(self._code))
                    self._reported = True
                count += 1
                if count % 4 == 0:
                    store.set(f"beat/{self._node.rank}", str(count))
                for rank in self._others:
                    if rank not in self._ended and store.check([f"end/{rank}"]):
                        self._ended[rank] = int(store.get(f"end/{rank}")), time.monotonic()
                    if store.check([f"beat/{rank}"]) and (beat := store.get(f"beat/{rank}")) != detail.get(rank):
                        detail[rank] = beat
                        self._heard[rank] = time.monotonic()
        except RuntimeError:  # the store is gone, and node 0 with it
            if 0 not in self._ended and not self.over.is_set():
                self._lost = 0

    def _listen(self) -> None:
        while not self.over.wait(0.5):
            now = time.monotonic()
            # Where the training has failed already, less tells that this is the reason.
            most = SILENT_SECONDS if self._code is None else 5 * BEAT_SECONDS
            silent = [rank for rank in self._others if now - self._heard[rank] > most]
            if self._lost is None:
                self._lost = next((rank for rank in silent if rank not in self._ended), None)
            if self._lost is not None or any(
                code and now - when > (SAVE_SECONDS if code == ExitCode.TERMINATED else GRACE_SECONDS)
                for code, when in self._ended.values()
            ):
                # They wait for a machine that says nothing any more, and would not hear a milder signal.
                for process in set(psutil.Process().children(recursive=True)) - self._before:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                return


@contextlib.contextmanager
def _node_0_lives() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EngineError("Node 0 was lost before the training began.", _HINT) from error


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


def _until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


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


def _serve(server: socket.socket, word: str, folder: Path, copies: int) -> None:
    """Send ``folder`` to ``copies`` callers that know ``word``, several at a time."""

    def answer(caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError), caller.makefile("rwb") as stream:
            if not secrets.compare_digest(stream.read(len(word)), word.encode()):
                return
            with tarfile.open(fileobj=stream, mode="w|") as archive:
                archive.add(folder, folder.name)
            sent.release()

    sent = threading.Semaphore(0)

    def take_calls() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=take_calls, daemon=True).start()
    for _ in range(copies):
        sent.acquire()
    with contextlib.suppress(OSError):  # closing alone doesn't wake a thread that is in accept()
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def _fetch(address: tuple[str, int], word: str, folder: Path, name: str) -> None:
    """Receive a folder ``name`` into ``folder``."""
    staging = folder / ".receiving"
    staging.mkdir(parents=True)
    with socket.create_connection(address, timeout=JOIN_SECONDS) as connection, connection.makefile("rwb") as stream:
        stream.write(word.encode())
        stream.flush()
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(staging, filter="data")
    os.replace(staging / name, folder / name)  # noqa: PTH105 - a rename, whole or not at all
    staging.rmdir()
