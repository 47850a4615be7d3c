"""A Hugging Face hub with a few repositories, as far as its client asks to list, download, create and push one."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Generator, MutableMapping
from email.message import Message
from io import BufferedIOBase

from tests.support.hub_pushes import XET_TOKEN, Pushes

COMMIT = "c0ffee" * 6 + "c0de"
LARGE = 512
"""Files from this size on are git-lfs's, as the hub keeps large and binary ones."""


@contextlib.contextmanager
def hub(
    repositories: dict[str, dict[str, bytes]],
    *,
    revisions: tuple[str, ...] = ("main",),
    stall: MutableMapping[str, int] | None = None,
    corrupt: MutableMapping[str, int] | None = None,
    token: str | None = None,
    pushes: Pushes | None = None,
) -> Generator[tuple[str, list[str]]]:
    """Serve ``{"models/owner/name": {path: content}}``; yields its address and the list of requests it got.

    ``revisions`` all mean ``COMMIT``. ``stall`` says after how many bytes of a file nothing more comes, once.
    ``corrupt`` says how many times a file is sent with another content of the same length.
    ``token`` is what a client must show. ``pushes`` lets it create repositories and push to them.
    A request for a part of a file has `` bytes=N-`` behind its path.
    """
    requests: list[str] = []
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            part = self.headers.get("Range")
            requests.append(f"{self.path} {part}" if part else self.path)
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(None)  # as the hub says of what an account may not see
            path = self.path.partition("?")[0].strip("/")
            if pushes is not None and "/xet-write-token/" in path:
                return self.answer(pushes.xet_token(f"http://{self.headers['Host']}"))
            for name, files in repositories.items():
                kind, _, repo = name.partition("/")
                if path.startswith(api := f"api/{name}"):
                    if "/tree/" in path:
                        return self.answer([described(each, content) for each, content in files.items()])
                    known = path in (api, *(f"{api}/revision/{each}" for each in (COMMIT, *revisions)))
                    siblings = [{"rfilename": each} for each in files]
                    private = pushes is not None and pushes.private.get(name, False)
                    found = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": private}
                    return self.answer(found if known else None)
                prefix = f"{'' if kind == 'models' else kind + '/'}{repo}/resolve/{COMMIT}/"
                if path.startswith(prefix) and (content := files.get(path.removeprefix(prefix))) is not None:
                    return self.answer_file(path.removeprefix(prefix), content, part)
            return self.answer(None)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            content = body_of(self.headers, self.rfile)
            requests.append(f"{self.command} {self.path}")
            shown = self.headers.get("Authorization")
            wanted = XET_TOKEN if self.path.startswith(("/v1/", "/v2/")) else token
            allowed = not token or shown == f"Bearer {wanted}"
            # The signed address that takes a large file is shown no token.
            if pushes is None or not (allowed or self.command == "PUT"):
                self.answer_with(401, {"error": "Invalid credentials in Authorization header"})
                return
            address = f"http://{self.headers['Host']}"
            self.answer_with(*pushes.answer(self.path.partition("?")[0], content, address, repositories))

        do_PUT = do_POST  # noqa: N815

        def answer_with(self, status: int, document: object) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.finish_headers("application/json", len(content))
            self.wfile.write(content)

        def answer_file(self, path: str, content: bytes, part: str | None) -> None:
            first = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", part or "")) else 0
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{etag(content)}"')
            self.finish_headers("application/octet-stream", len(content) - first)
            if self.command == "HEAD":
                return
            if corrupt and corrupt.get(path, 0) > 0:
                corrupt[path] -= 1
                content = b"?" * len(content)
            if stall and (end := stall.pop(path, None)):
                self.wfile.write(content[first:end])
                self.wfile.flush()
                ended.wait()
                self.close_connection = True
                return
            self.wfile.write(content[first:])

        def answer(self, body: object) -> None:
            content = json.dumps({"error": "Repository not found"} if body is None else body).encode()
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.finish_headers("application/json", len(content))
            if self.command == "GET":
                self.wfile.write(content)

        def finish_headers(self, kind: str, length: int) -> None:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(length))
            self.send_header("Content-Type", kind)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def body_of(headers: Message, stream: BufferedIOBase) -> bytes:
    """A request's body, also one that comes in chunks."""
    if headers.get("Transfer-Encoding") != "chunked":
        return stream.read(int(headers.get("Content-Length", 0)))
    content = b""
    while size := int(stream.readline(), 16):
        content += stream.read(size)
        stream.readline()
    stream.readline()
    return content


def described(path: str, content: bytes) -> dict[str, object]:
    """An entry of a repository's listing."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if len(content) >= LARGE:
        pointer = b"version https://git-lfs.github.com/spec/v1\n"
        entry |= {"oid": git_sha1(pointer), "lfs": {"oid": etag(content), "size": len(content), "pointerSize": 134}}
    return entry


def etag(content: bytes) -> str:
    """The hash by which the hub names a content."""
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git_sha1(content)


def git_sha1(content: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
