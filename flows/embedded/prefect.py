"""The Prefect server of a machine that has none: SQLite, one random port of 127.0.0.1, no telemetry, no web page.

It runs ``create_app`` under uvicorn as ``prefect server start`` does, without the command around it, which imports as
much again. Measured on two cores: first start 9 s (half of it migrations), later ones 4 s.
"""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from flows.embedded.service import Program, SharedService
from flows.settings import KEEP_LEASES, PREFECT_QUIET
from trainer.config.settings import secret_from
from trainer.errors import PippaError

HOST = "127.0.0.1"

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


def prefect_service(home: Path, environ: Mapping[str, str] = os.environ) -> SharedService:
    """The embedded server of ``home``; its database is ``<home>/prefect/prefect.db``."""
    return SharedService(
        home,
        "prefect",
        prepare=lambda folder: _prepare(folder, environ),
        healthy=_healthy,
        # Migrations of a first start took 50 s on a slow machine.
        timeout=180.0,
        grace=5.0,
        error=PippaError,
    )


def prefect_api(connection: Mapping[str, Any]) -> PrefectApi:
    """What ``prefect_service(...).wait_ready()`` returned, as settings."""
    return PrefectApi(connection["url"], SecretStr(connection["auth"]))


def _prepare(folder: Path, environ: Mapping[str, str]) -> Program:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    auth = f"pippa:{secrets.token_urlsafe(24)}"
    services = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES}
    return Program(
        argv=[
            *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
            *("--host", HOST, "--port", str(port), "--log-level", "warning", "--no-access-log"),
        ],
        environ={
            **{name: environ[name] for name in _INHERITED if name in environ},
            **PREFECT_QUIET,
            **services,
            "PREFECT_HOME": str(folder),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
            "PREFECT_SERVER_API_AUTH_STRING": auth,
            **KEEP_LEASES,
            # Its files would be unpacked into the installed package, and nobody could see it longer than a training.
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT__SERVER_FINAL": "1",
        },
        connection={"url": f"http://{HOST}:{port}/api", "auth": auth},
    )


def _healthy(connection: dict[str, Any]) -> bool:
    return answers(connection["url"])


def answers(api_url: str) -> bool:
    """Whether the API answers; it does so only after its migrations. Raises ``OSError`` where nothing listens."""
    url = urlsplit(api_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    client = kind(url.netloc, timeout=2.0)
    try:
        client.request("GET", f"{url.path}/health")
        return client.getresponse().status == http.client.OK
    except http.client.HTTPException:
        return False
    finally:
        client.close()
