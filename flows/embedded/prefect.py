"""The Prefect server of a machine that has none: SQLite, one random port of 127.0.0.1, no telemetry, no web UI.

It runs in a thread of the process that records a training (``flows.orchestration.recording``), and so ends with it.
Several of them, one per training, share one database.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from flows.settings import KEEP_LEASES, PREFECT_QUIET
from trainer.config.settings import secret_from
from trainer.disk import locked
from trainer.errors import PippaError
from trainer.heavy_imports import heavy_imports

HOST = "127.0.0.1"
STOP_SECONDS = 5.0
_MADE = "database-made"

# What a server for runs started here needs: task runs, artifacts, logs. The others look for schedules, late runs,
# automations and workers, several times a second, while a training wants the processor.
_UNUSED_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "SCHEDULER",
    "TRIGGERS",
)
# Of the caller's environment only what Python needs to start; the rest may hold keys and Prefect settings.
_INHERITED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PIPPA_HOME",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "TMPDIR",
    "VIRTUAL_ENV",
)


@dataclass(frozen=True)
class PrefectApi:
    """Where the Prefect API is and how to sign in."""

    url: str
    auth: SecretStr | None = None

    def to_environ(self) -> dict[str, str]:
        """The variables Prefect's client reads. Holds the password: never log it."""
        auth = {"PREFECT_API_AUTH_STRING": self.auth.get_secret_value()} if self.auth else {}
        return {"PREFECT_API_URL": self.url, **auth}


def given_api(environ: Mapping[str, str] = os.environ) -> PrefectApi:
    """The API that ``PREFECT_API_URL`` and ``PREFECT_API_AUTH_STRING`` (or ``…_FILE``) name."""
    auth = secret_from(environ, "PREFECT_API_AUTH_STRING")
    return PrefectApi(environ["PREFECT_API_URL"], SecretStr(auth) if auth else None)


def server_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a process that is to call ``serving``; its database is ``<home>/prefect/prefect.db``."""
    return {
        **{name: environ[name] for name in _INHERITED if name in environ},
        **PREFECT_QUIET,
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES},
        "PREFECT_HOME": str(home.absolute() / "prefect"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        **KEEP_LEASES,
        # Its files would be unpacked into the installed package, and it would run no longer than a training.
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT__SERVER_FINAL": "1",
    }


@contextlib.contextmanager
def serving() -> Generator[PrefectApi]:
    """A server in a thread of this process, named in ``os.environ``; call it before anything imports Prefect.

    A first start takes a minute on a slow machine, and others wait for it. Raises ``PippaError`` when none starts.
    """
    folder = Path(os.environ["PREFECT_HOME"])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The port is bound before its number is published: no other process gets it in between. The protocol is named so
    # that asyncio turns Nagle's algorithm off: each answer waits 40 ms for an ACK otherwise.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind((HOST, 0))
        auth = f"pippa:{secrets.token_urlsafe(24)}"
        api = PrefectApi(f"http://{HOST}:{listening.getsockname()[1]}/api", SecretStr(auth))
        os.environ.update({**api.to_environ(), "PREFECT_SERVER_API_AUTH_STRING": auth})
        with heavy_imports():
            import uvicorn
            from prefect.server.api.server import create_app

        config = uvicorn.Config(create_app, factory=True, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="prefect-server", daemon=True)
        with contextlib.ExitStack() as stack:
            # One at a time: two that find no database would both make its tables.
            while not (_is_made(folder) or _taken(folder / "start.lock", stack)):
                time.sleep(0.1)
            thread.start()
            while not server.started:
                if not thread.is_alive():
                    raise PippaError("The Prefect server of this machine did not start.", f"Its database: {folder}")
                time.sleep(0.1)
            (folder / _MADE).write_text(_database(folder))
        try:
            yield api
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)


def _is_made(folder: Path) -> bool:
    """Whether this Prefect has a database to start with, and will not change its tables."""
    try:
        return (folder / _MADE).read_text() == _database(folder)
    except (OSError, sqlite3.Error):
        return False


def _database(folder: Path) -> str:
    """The version of Prefect here, and that of the tables in its database."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'prefect.db'}?mode=ro", uri=True)) as database:
        (tables,) = database.execute("select version_num from alembic_version").fetchone()
    return f"{importlib.metadata.version('prefect')} {tables}"


def _taken(lock: Path, stack: contextlib.ExitStack) -> bool:
    """Hold ``lock`` until ``stack`` is closed; False where another process holds it."""
    try:
        stack.enter_context(locked(lock, wait=False))
    except BlockingIOError:
        return False
    return True
