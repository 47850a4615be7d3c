"""The compose stack of this checkout, as the command line finds it: its ports on this machine, its credentials' copies.

A person who trained with `docker compose up train-overfit` expects `pippa checkpoints list` to show what it left.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path

HOST = "127.0.0.1"
CONNECT_SECONDS = 1.0


def adopt(home: Path, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Name the stack's object store and its Prefect in ``environ``, each where it is not named and runs.

    Returns whether the store is the stack's. Says so when there is a stack whose store does not run, since what it
    holds is then not shown.
    """
    folder = home / "stack"
    _adopt_prefect(folder, environ)
    if environ.get("PIPPA_S3_ENDPOINT") or not (folder / "s3_access_key").is_file():
        return False
    store = environ.get("PIPPA_MINIO_PORT") or "9000"
    if not _answers(store):
        _say_down()
        return False
    environ["PIPPA_S3_ENDPOINT"] = f"http://{HOST}:{store}"
    for name in ("PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY"):
        _name(environ, name, folder / name.removeprefix("PIPPA_").lower())
    return True


def _adopt_prefect(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Also beside another object store: a stack with a bucket runs no store."""
    password = folder / "prefect_api_auth_string"
    port = environ.get("PIPPA_PREFECT_PORT") or "4200"
    if not environ.get("PREFECT_API_URL") and password.is_file() and _answers(port):
        environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
        _name(environ, "PREFECT_API_AUTH_STRING", password)


@functools.cache
def _say_down() -> None:
    """Once in a process: several parts of a command ask for the store."""
    sys.stderr.write(
        "note: the compose stack is not running; this uses the store of this machine. "
        "`docker compose up -d minio` starts the stack's.\n"
    )


def _name(environ: MutableMapping[str, str], secret: str, file: Path) -> None:
    if not environ.get(secret) and not environ.get(f"{secret}_FILE"):
        environ[f"{secret}_FILE"] = str(file)


def _answers(port: str) -> bool:
    try:
        with socket.create_connection((HOST, int(port)), CONNECT_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False
