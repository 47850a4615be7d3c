"""How the machines of one training notice that another is lost, has failed, or was stopped.

torchrun finds a machine that was switched off only when a collective times out, half an hour later.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import psutil
from torch.distributed import TCPStore

from trainer.errors import EngineError, ExitCode, PippaError
from trainer.runner.nodes import Node

BEAT_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""A node without a heartbeat for this long is lost."""
GRACE_SECONDS = 10.0
"""How long after another node's failure the processes here may take to end by themselves."""
SAVE_SECONDS = 600.0
"""The same after another node got a stop signal: node 0 is saving."""

HINT = "Start every node again with the same command: the run continues from its last checkpoint."


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
        self._ready_here = False
        self._ready: set[int] = set()
        """The nodes that have said so, this one too."""
        self._code: int | None = None
        """How the training ended here, once it has."""
        self._reported = False

    def start(self) -> None:
        """Begin to speak and to listen."""
        for task in (self._speak, self._listen):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()

    def all_ready(self) -> bool:
        """Wait until every node can start its ranks; False where one has failed or was lost before.

        torchrun waits for a node without a watch, and can't be interrupted meanwhile.
        """
        self._ready_here = True
        while self._lost is None and not self._ended:
            if len(self._ready) == self._node.count:
                return True
            time.sleep(0.1)
        return False

    def ended(self, code: int) -> PippaError | None:
        """Tell the others how the training ended here; returns the error that is another node's, if that is the cause.

        When one node ends, the others' processes fail in their next exchange, with nothing to say.
        """
        self._code = code
        own = self.stopped.is_set() or (code in set(ExitCode) and code not in (ExitCode.FAILED, ExitCode.TERMINATED))
        seconds = 0.0 if own else SILENT_SECONDS + 2 * BEAT_SECONDS
        until(lambda: self._cause() or self._all_ended(), seconds)
        cause = self._cause()
        # Messages end with this process, and on node 0 the store too: the others must have read them.
        heard = self._all_ended if self._node.rank == 0 else lambda: self._reported or self._lost is not None
        until(heard, GRACE_SECONDS + 2 * BEAT_SECONDS)
        return None if own else cause

    def _all_ended(self) -> bool:
        return self._lost is not None or len(self._ended) == len(self._others)

    def _cause(self) -> PippaError | None:
        if self._lost is not None:
            return EngineError(f"{self._named(self._lost)} was lost: it sends no heartbeat any more.", HINT)
        for rank, (code, _) in sorted(self._ended.items()):
            if code == ExitCode.TERMINATED:
                return EngineError(f"{self._named(rank)} got a stop signal, and the training stopped with it.", HINT)
            if code not in (ExitCode.DONE, ExitCode.FAILED):
                return EngineError(f"{self._named(rank)} failed, with exit code {code}: its own output says why.", HINT)
        return None

    def _named(self, rank: int) -> str:
        return f"Node {rank} ({self._hosts[rank]})"

    def _speak(self) -> None:
        store, detail, count = self._store, dict[int, bytes](), 0
        try:
            while not self.over.wait(BEAT_SECONDS / 4):
                if self._ready_here and self._node.rank not in self._ready:
                    store.set(f"ready/{self._node.rank}", "1")
                    self._ready.add(self._node.rank)
                if self._code is not None and not self._reported:
                    store.set(f"end/{self._node.rank}", str(self._code))
                    self._reported = True
                count += 1
                if count % 4 == 0:
                    store.set(f"beat/{self._node.rank}", str(count))
                for rank in self._others:
                    if rank not in self._ready and store.check([f"ready/{rank}"]):
                        self._ready.add(rank)
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


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for ``condition``, ``seconds`` at most."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
