"""``POST /act`` and ``GET /health``, as upstream's ``scripts/http_server.py`` of N1.5 has them."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trainer.serving.arrays import LARGEST_REQUEST, RequestError
from trainer.serving.service import Service, explained
from trainer.serving.wire import dump, parse

LARGEST_BODY = LARGEST_REQUEST * 3 // 2
"""Bytes; base64 takes a third more."""
MOST_CONNECTIONS = 32
"""A further one is closed: each may hold a body."""
PATIENCE_SECONDS = 30.0
"""Within which a client sends its next bytes, or is disconnected."""


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection; all wait for the one model."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, service: Service, host: str, port: int) -> None:
        """Listen on ``host`` and ``port``. Raises ``OSError``."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.service = service
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, if there is room for one."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer  # pyrefly: ignore[bad-override]
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_SECONDS
    server_version, sys_version = "pippa", ""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(200, {"status": "healthy"})
        else:
            self._reply(404, {"error": "There is GET /health and POST /act."})

    def do_POST(self) -> None:
        try:
            if self.path != "/act":
                raise RequestError("There is GET /health and POST /act.", 404)
            self.server.service.authorise((self.headers.get("Authorization") or "").removeprefix("Bearer "))
            body = self._body()
            request = parse(body)
            if "observation" not in request:
                raise RequestError('The body must be {"observation": {…}}.')
            client = ("http", self.client_address)
            observation, options = request["observation"], request.get("options")
            reply = self.server.service.act(client, len(body), observation, options).result()
        except RequestError as error:
            self.close_connection = True  # a body may be left unread
            self._reply(error.status, {"error": explained(error)})
        except Exception as error:
            self.close_connection = True
            self._reply(*_failure(error))
        else:
            self._reply(200, reply)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise RequestError("A request says its Content-Length.", 411)
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise RequestError(f"A body has at most {LARGEST_BODY // 1024**2} MiB.", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RequestError("The body is shorter than its Content-Length.")
        return body

    def _reply(self, status: int, reply: object) -> None:
        content = dump(reply)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing for each request."""


def _failure(error: Exception) -> tuple[int, dict[str, str]]:
    from trainer.errors import UsageError

    return (400 if isinstance(error, UsageError) else 500), {"error": explained(error)}
