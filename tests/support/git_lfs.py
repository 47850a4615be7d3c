"""A git server on loopback: git's own smart HTTP (``git http-backend``), and the API of git-lfs with its transfers."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IDENTITY = {f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
LFS_TYPE = "application/vnd.git-lfs+json"


@dataclass
class GitServer:
    """What a test can look at and change."""

    address: str
    """URL of the folder of repositories."""
    fetched: list[str] = field(default_factory=list)
    """Hash of each LFS object that was asked for, with `` bytes=N-`` for a part."""
    cut: dict[str, int] = field(default_factory=dict)
    """LFS objects whose transfer breaks after so many bytes, and keeps breaking while they are in here."""
    missing: set[str] = field(default_factory=set)
    """LFS objects the server says it lacks."""
    blobs: list[int] = field(default_factory=list)
    """How many objects each pack had that was sent."""


def git(folder: Path, *arguments: str) -> str:
    """Run git there; its output."""
    environ = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C"}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environ
    ).stdout


def repository(folder: Path, lfs: str = "*.mp4 *.parquet", branch: str = "main") -> Path:
    """An empty repository at ``folder`` that keeps files of these patterns in git-lfs."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", branch)
    git(folder, "lfs", "install", "--local")
    rules = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in lfs.split())
    (folder / ".gitattributes").write_text(rules)
    for name in ("allowFilter", "allowAnySHA1InWant"):
        git(folder, "config", f"uploadpack.{name}", "true")  # as GitHub has it
    return folder


def commit(folder: Path, files: Mapping[str, bytes] = {}) -> str:
    """Write ``files`` and commit everything; the commit."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "data")
    return git(folder, "rev-parse", "HEAD").strip()


@contextlib.contextmanager
def git_server(root: Path) -> Generator[GitServer]:
    """Serve the repositories in ``root``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if match := re.fullmatch(r"/(.+)/lfs-object/([0-9a-f]{64})", self.path):
                return self.transfer(match[1], match[2])
            return self.backend(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if match := re.fullmatch(r"/(.+)/info/lfs/objects/batch", self.path):
                return self.batch(match[1], json.loads(body))
            return self.backend(body)

        def batch(self, name: str, asked: dict) -> None:
            def entry(wanted: dict) -> dict:
                oid = wanted["oid"]
                if oid in server.missing:
                    return {**wanted, "error": {"code": 404, "message": "Object does not exist"}}
                return {**wanted, "actions": {"download": {"href": f"{server.address}/{name}/lfs-object/{oid}"}}}

            answer = {"transfer": "basic", "objects": [entry(wanted) for wanted in asked["objects"]]}
            self.send(200, {"Content-Type": LFS_TYPE}, json.dumps(answer).encode())

        def transfer(self, name: str, oid: str) -> None:
            content = (root / name.removesuffix(".git") / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid).read_bytes()
            part = self.headers.get("Range", "")
            server.fetched.append(f"{oid} {part}" if part else oid)
            first = int(match[1]) if (match := re.match(r"bytes=(\d+)-", part)) else 0
            headers = {"Content-Length": str(len(content) - first)}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.send(206 if first else 200, headers, content[first : server.cut.get(oid)])

        def backend(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            environ = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environ, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            # A pack says how many objects it has: "PACK", version, count.
            server.blobs += [int.from_bytes(m[1], "big") for m in re.finditer(rb"PACK\0\0\0\x02(.{4})", content, re.S)]
            self.send(int(headers.pop("Status", "200 OK").split()[0]), headers, content)

        def send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = GitServer(f"http://127.0.0.1:{http_server.server_port}")
    threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
