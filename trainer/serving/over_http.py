"""``POST /act`` and ``GET /health``, as upstream's ``scripts/http_server.py`` of N1.5 has them."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Generator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trainer.errors import UsageError
from trainer.serving.arrays import LARGEST_REQUEST, RequestError
from trainer.serving.fair_queue import MAX_BYTES
from trainer.serving.service import Service, explained
from trainer.serving.wire import dump, parse

LARGEST_BODY = LARGEST_REQUEST * 3 // 2
"""Bytes; base64 takes a third more."""
MAX_CONNECTIONS = 32
"""A further one takes the place of the one that has sent nothing complete for longest."""
PATIENCE_SECONDS = 30.0
"""Within which a client sends a whole request, or is disconnected."""
LINGER_SECONDS = 5.0
"""How long the rest of a refused body is read and thrown away, so that its client gets to the answer."""


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection; all wait for the one model."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, service: Service, host: str, port: int) -> None:
        """Listen on ``host`` and ``port``. Raises ``OSError``."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.service = service
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._reading: dict[socket.socket, None] = {}
        self._held = 0
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread; where all places are taken, one that only waits makes room."""
        if not self._places.acquire(blocking=False):
            self._disconnect_the_slowest()
            if not self._places.acquire(timeout=1.0):
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    @contextlib.contextmanager
    def reading(self, connection: socket.socket) -> Generator[None]:
        """The server waits for what this client sends, and may disconnect it for another one."""
        with self._lock:
            self._reading[connection] = None
        try:
            yield
        finally:
            with self._lock:
                self._reading.pop(connection, None)

    @contextlib.contextmanager
    def holding(self, size: int) -> Generator[None]:
        """A body of ``size`` bytes is in memory. Raises ``RequestError`` where those of others leave no room."""
        with self._lock:
            if self._held + size > MAX_BYTES:
                raise RequestError("Too many requests wait for the model; ask again later.", 503)
            self._held += size
        try:
            yield
        finally:
            with self._lock:
                self._held -= size

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle."""

    def _disconnect_the_slowest(self) -> None:
        with self._lock:
            slowest = next(iter(self._reading), None)
            if slowest is not None:
                del self._reading[slowest]
                with contextlib.suppress(OSError):  # it went away
                    slowest.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer  # pyrefly: ignore[bad-override]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pippa", ""
    disable_nagle_algorithm = True  # which would hold an answer's body back until its head is confirmed, 40 ms later

    def setup(self) -> None:
        super().setup()
        self._received = _Received(self.connection)
        self.rfile = io.BufferedReader(self._received)

    def handle_one_request(self) -> None:
        self._received.until = time.monotonic() + PATIENCE_SECONDS
        self._waits = contextlib.ExitStack()
        with self._waits:
            self._waits.enter_context(self.server.reading(self.connection))
            super().handle_one_request()

    def do_GET(self) -> None:
        self.close_connection = self.close_connection or "Content-Length" in self.headers  # its body is not read
        if self.path == "/health":
            self._reply(200, {"status": "healthy"})
        else:
            self._reply(404, {"error": "There is GET /health and POST /act."})

    def do_POST(self) -> None:
        try:
            if self.path != "/act":
                raise RequestError("There is GET /health and POST /act.", 404)
            self.server.service.authorise(_token(self.headers.get("Authorization") or ""))
            length = self._length()
            with self.server.holding(length):
                reply = self._act(length)
        except Exception as error:
            self.close_connection = True  # a body may be left unread
            self._reply(_status(error), {"error": explained(error)})
            self._linger()
        else:
            self._reply(200, reply)

    def _act(self, length: int) -> Any:
        try:
            body = self.rfile.read(length)
        except OSError as error:
            raise RequestError(f"The request did not arrive within {PATIENCE_SECONDS:g} seconds.", 408) from error
        if len(body) < length:
            raise RequestError("The body is shorter than its Content-Length.")
        self._waits.close()
        request = parse(body)
        if "observation" not in request:
            raise RequestError('The body must be {"observation": {…}}.')
        client = ("http", self.client_address)
        return self.server.service.act(client, length, request["observation"], request.get("options")).result()

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            raise RequestError("A request says its Content-Length.", 411)
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise RequestError(f"A body has at most {LARGEST_BODY // 1024**2} MiB.", 413)
        return int(length)

    def _reply(self, status: int, reply: object) -> None:
        content = dump(reply)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _linger(self) -> None:
        """Read on: closing a connection with unread bytes resets it, and the answer would be lost."""
        self._received.until = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(65536):
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The errors of ``http.server``, in JSON as all others."""
        self.close_connection = True
        self._reply(code, {"error": explain or message or HTTPStatus(code).phrase})
        self._linger()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing for each request."""


class _Received(io.RawIOBase):
    """What a connection receives ``until`` a time; then ``TimeoutError``, however little comes each time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(max(self.until - time.monotonic(), 0.001))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(PATIENCE_SECONDS)  # of what is sent


def _token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else authorization


def _status(error: Exception) -> int:
    if isinstance(error, RequestError):
        return error.status
    return 400 if isinstance(error, UsageError) else 500
