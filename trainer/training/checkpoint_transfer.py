"""A checkpoint's way from one machine of a training to the others: a tar stream, to those who know a word."""

from __future__ import annotations

import contextlib
import secrets
import socket
import tarfile
import threading
from pathlib import Path
from typing import Any


def serve(folder: Path, host: str, copies: int) -> dict[str, Any]:
    """Send ``folder`` from here, at ``host``, to ``copies`` callers, in the background and several at a time.

    Returns ``address``, ``port`` and ``word``, with which ``fetch`` receives it.
    """
    server, word = socket.create_server((host, 0)), secrets.token_hex(16)
    threading.Thread(target=_send, args=(server, word, folder, copies), daemon=True).start()
    address, port = server.getsockname()[:2]
    return {"address": address, "port": port, "word": word}


def _send(server: socket.socket, word: str, folder: Path, copies: int) -> None:
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


def fetch(address: tuple[str, int], word: str, folder: Path, seconds: float) -> None:
    """Receive ``folder``, which has the name it was sent with. Raises ``OSError`` and ``TarError``.

    That nothing comes for ``seconds`` is a ``TimeoutError``.
    """
    staging = folder.with_name(".receiving")
    staging.mkdir(parents=True)
    with socket.create_connection(address, timeout=seconds) as connection, connection.makefile("rwb") as stream:
        stream.write(word.encode())
        stream.flush()
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            # Python before 3.11.4 has no filters, and extractall() no argument for one. Node 0 sends this.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(staging)  # noqa: S202
    (staging / folder.name).replace(folder)
    staging.rmdir()
