"""A way to a server that misbehaves as a test tells it: between client and server, on the bytes themselves."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Generator
from typing import Literal

from tests.support.proxy import Proxy

Fault = Literal["down", "503", "reset", "stall", "slow", "refused"]
FAULTS: tuple[Fault, ...] = ("down", "503", "reset", "stall", "slow", "refused")

_CHUNK = 1 << 14
_PASSED_BEFORE_RESET = 1 << 10
"""Bytes: a request's head passes, a file's content doesn't."""
_REFUSED = b"<Error><Code>InvalidAccessKeyId</Code><Message>The key was revoked.</Message></Error>"


class FaultProxy(Proxy):
    """Forwards a port of 127.0.0.1, with at most one fault at a time.

    ``down`` refuses connections; ``503`` and ``refused`` (credentials) answer in the server's place; ``reset`` breaks
    each connection after a kilobyte; ``stall`` goes silent; ``slow`` passes 10 kB/s.
    """

    def __init__(self, target: tuple[str, int], seconds_per_chunk: float = _CHUNK / 10_000) -> None:
        self.fault: Fault | None = None
        self.hits = 0
        """Connections or pieces of one that the fault hurt."""
        self.slowed = 0
        """Bytes that passed while the way was slow."""
        self._seconds_per_chunk = seconds_per_chunk
        super().__init__(target)

    def begin(self, fault: Fault) -> None:
        """From now on, for connections that are open too."""
        self.fault, self.hits = fault, 0
        if fault == "down":
            self.cut()
        elif fault in ("503", "refused"):
            self._break_connections()

    def end(self) -> None:
        """The server is well again. What hangs in a stall breaks."""
        fault, self.fault = self.fault, None
        if fault == "down":
            self.mend()
        elif fault == "stall":
            self._break_connections()

    def _break_connections(self) -> None:
        with self._cutting:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> socket.socket:
        if self.fault in ("503", "refused"):
            ours, theirs = socket.socketpair()
            threading.Thread(target=self._answer, args=(theirs,), daemon=True).start()
            return ours
        return super()._connect()

    def _answer(self, server: socket.socket) -> None:
        """In the server's place: what is sent is read, and refused."""
        server.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while server.recv(_CHUNK):
                pass
        self.hits += 1
        body = _REFUSED if self.fault == "refused" else b"<Error><Code>SlowDown</Code></Error>"
        status = "403 Forbidden" if self.fault == "refused" else "503 Service Unavailable"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        with contextlib.suppress(OSError):
            server.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        server.close()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                while self.fault == "stall":
                    self.hits += 1
                    time.sleep(0.05)
                if self.fault == "slow":
                    self.hits += 1
                    self.slowed += len(data)
                    time.sleep(self._seconds_per_chunk * len(data) / _CHUNK)
                if self.fault == "reset" and passed + len(data) > _PASSED_BEFORE_RESET:
                    self.hits += 1
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                passed += len(data)
                sink.sendall(data)
        self._close(source, sink)


@contextlib.contextmanager
def fault_proxy(host: str, port: int, seconds_per_chunk: float = _CHUNK / 10_000) -> Generator[FaultProxy]:
    """A proxy to a server, gone at the end."""
    forwarding = FaultProxy((host, port), seconds_per_chunk)
    try:
        yield forwarding
    finally:
        forwarding.end()
        forwarding.cut()
