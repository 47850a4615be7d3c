"""Settings of the host side: ``.env`` in the current folder, and what Prefect must find in its environment."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from trainer.config.settings import number
from trainer.errors import UsageError

STOP_GRACE_SECONDS = 300.0

PREFECT_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Prefect's own lines would tear the progress bar; they still reach its API.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # How the reconciler (flows.orchestration.reconciler) knows that the process of a flow run is alive.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Without it a server that can't be reached is silently replaced by a second one inside this process.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}


KEEP_LEASES = {
    # In memory, a server that ends would forget who holds a GPU, and the GPU would stay taken forever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


def load_environment(environ: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Add the settings of ``.env`` in the current folder to ``environ``; what is set already wins.

    Raises ``UsageError`` when the file is there and can't be read.
    """
    from dotenv import dotenv_values

    file = (folder or Path.cwd()) / ".env"
    if not file.is_file():
        return
    try:
        values = dotenv_values(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Can't read {file}: {error}", "Start from a copy of .env.example.") from None
    for name, value in values.items():
        if value is not None:
            environ.setdefault(name, value)


def prefect_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What must be in ``os.environ`` before prefect is imported. What the user set wins."""
    wanted = {**PREFECT_QUIET, "PREFECT_HOME": str(home / "prefect")}
    return {name: environ.get(name) or value for name, value in wanted.items()}


def keep_bytecode(home: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Where Python is told not to write bytecode (container images often do), cache it in ``home`` instead.

    Compiling prefect, torch and transformers again takes ten to twenty seconds per start, in each process. Where they
    are installed with their bytecode nothing changes: Python would not look there any more, and compile them too.
    """
    if not environ.get("PYTHONDONTWRITEBYTECODE") or _are_compiled("prefect", "torch", "transformers"):
        return
    del environ["PYTHONDONTWRITEBYTECODE"]
    cache = environ.setdefault("PYTHONPYCACHEPREFIX", str(home / "cache" / "bytecode"))
    sys.dont_write_bytecode = False
    sys.pycache_prefix = cache


def _are_compiled(*packages: str) -> bool:
    """Whether the bytecode of those that are installed lies beside them."""
    found = [spec for name in packages if (spec := importlib.util.find_spec(name))]
    return all(spec.cached and Path(spec.cached).is_file() for spec in found)


def stop_grace(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds a training that is stopped may take to save and upload: ``PIPPA_STOP_GRACE``."""
    seconds = number(environ, "PIPPA_STOP_GRACE", "seconds", "such as 300")
    return STOP_GRACE_SECONDS if seconds is None else seconds
