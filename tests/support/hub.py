"""A Hugging Face hub with a few repositories, as far as ``snapshot_download`` asks."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

COMMIT = "c0ffee" * 6 + "c0de"


@contextlib.contextmanager
def hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve ``{"models/owner/name": {path: content}}``; yields its address and the list of requests it got."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requests.append(self.path)
            path = self.path.partition("?")[0].strip("/")
            for name, files in repositories.items():
                kind, _, repo = name.partition("/")
                if path.startswith(api := f"api/{name}"):
                    if "/tree/" in path:
                        entries = [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()]
                        return self.answer(entries)
                    known = path in (api, f"{api}/revision/{COMMIT}", f"{api}/revision/main")
                    siblings = [{"rfilename": each} for each in files]
                    return self.answer({"id": repo, "sha": COMMIT, "siblings": siblings} if known else None)
                prefix = f"{'' if kind == 'models' else kind + '/'}{repo}/resolve/{COMMIT}/"
                if path.startswith(prefix) and (content := files.get(path.removeprefix(prefix))) is not None:
                    return self.answer(content)
            return self.answer(None)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, body: object) -> None:
            said = {"error": "Repository not found"} if body is None else body
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/octet-stream" if body is content else "application/json")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
