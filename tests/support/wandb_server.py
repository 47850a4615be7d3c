"""W&B's server as far as its client asks one for a run: GraphQL, the stream of the history, and uploaded files."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from tests.support.ports import free_port

KEY = "0123456789abcdef" * 2 + "01234567"


class WandbServer:
    """Keeps what it was sent. ``status`` and ``seconds`` are those of each answer from now on."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        """The logged rows as they came; a client that lost an answer sends its rows again."""
        self.files: dict[str, bytes] = {}
        self.status = 200
        self.seconds = 0.0
        self.forbidden = ""
        """An entity that is not this key's."""
        self._port = free_port()  # still free after a stop
        self._server: http.server.ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, after a stop at the same address."""

        class Handler(_Handler):
            wandb = self

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on; one that stands is reset at its next request."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def listens(self) -> bool:
        return self._server is not None

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """What a GraphQL operation gives."""
        if operation == "UpsertBucket":
            entity = given.get("entity") or "someone"
            if entity == self.forbidden:
                return {"errors": [{"message": "permission denied"}], "data": {"upsertBucket": None}}
            project = {"name": given.get("project"), "entity": {"name": entity}}
            bucket = {"id": "id", "name": given.get("name"), "displayName": given.get("displayName"), "config": "{}"}
            found = {"bucket": {**bucket, "historyLineCount": 0, "project": project}, "inserted": True}
            return {"data": {"upsertBucket": found}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}}
        viewer = {"id": "1", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": viewer, "serverInfo": {"cliVersionInfo": {"max_cli_version": "99"}}}}

    def take(self, path: str, body: bytes) -> None:
        """What is not GraphQL: lines of the history, or a file."""
        if path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        elif path.endswith("/file_stream"):
            found = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            self.history += map(json.loads, found["content"])


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wandb: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if not self.wandb.listens:
            self.close_connection = True
            return
        time.sleep(self.wandb.seconds)
        answer: dict[str, Any] = {}
        if self.wandb.status == 200:
            if self.path.startswith("/graphql"):
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                answer = self.wandb.answer(named[1] if named else "", asked.get("variables") or {})
            else:
                self.wandb.take(self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(self.wandb.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client went away
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def wandb_server() -> Generator[WandbServer]:
    server = WandbServer()
    yield server
    server.stop()
