"""A way to a server that a test can cut, while the server itself lives on for other tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator

from tests.support.ports import free_port


class Proxy:
    """Forwards a port of ``host``; ``cut`` drops every connection and refuses new ones until ``mend``."""

    def __init__(self, target: tuple[str, int] | str, host: str = "127.0.0.1") -> None:
        """``target`` is host and port, or the path of a Unix socket."""
        self._target = target
        self._host = host
        self._open: set[socket.socket] = set()
        self._cutting = threading.Lock()
        """Held while connections are dropped and while one is added: one accepted during a cut must not survive it."""
        self._server: socket.socket | None = None
        self.port = free_port()  # still free after a cut
        self.mend()

    def mend(self) -> None:
        self._server = server = socket.create_server((self._host, self.port))
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def cut(self) -> None:
        with self._cutting:
            if self._server:
                # Closing alone doesn't wake a thread that is in accept().
                with contextlib.suppress(OSError):
                    self._server.shutdown(socket.SHUT_RDWR)
                self._server.close()
                self._server = None
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = self._connect()
                with self._cutting:
                    if self._server is not server:
                        client.close()
                        upstream.close()
                        return
                    self._open |= {client, upstream}
                for source, sink in ((client, upstream), (upstream, client)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket:
        if not isinstance(self._target, str):
            return socket.create_connection(self._target)
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(self._target)
        return upstream

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        self._close(source, sink)

    def _close(self, source: socket.socket, sink: socket.socket) -> None:
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._cutting:
            self._open.discard(source)
        source.close()


@contextlib.contextmanager
def proxy(host: str, port: int) -> Generator[Proxy]:
    forwarding = Proxy((host, port))
    try:
        yield forwarding
    finally:
        forwarding.cut()
