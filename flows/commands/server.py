"""``pippa server``: the Prefect server of a team, in the foreground."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.commands import Add
from flows.orchestration import lease_files
from flows.settings import KEEP_LEASES, PREFECT_QUIET
from trainer.config.settings import pippa_home, secret_from
from trainer.disk import private_folder, require_home
from trainer.errors import UsageError, require_all
from trainer.masking import without_secrets

HOST = "127.0.0.1"
PORT = 4200


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa server``."""
    parser = add(
        "server",
        server,
        description="Run the Prefect server, with the web UI, until it is stopped. Its database is the Postgres of "
        "PIPPA_POSTGRES_HOST, else a file in PIPPA_HOME/prefect.",
    )
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on (default: {HOST}; 0.0.0.0 is all, and needs a password)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default: {PORT})")


def server(arguments: Namespace) -> int:
    """``pippa server``"""
    home = pippa_home()
    keep = [name for name in os.environ if name.startswith("PREFECT_")]
    environ = {**without_secrets(os.environ, keep), **server_environment(home, port=arguments.port)}
    checks = (
        lambda: _require_password(arguments.host, environ),
        lambda: _require_port(arguments.host, arguments.port),
        lambda: require_home(home),
    )
    require_all(checks)
    private_folder(home)
    private_folder(Path(environ["PREFECT_HOME"]))
    os.umask(0o077)  # its database holds the logs of every training
    lease_files.renew(Path(environ["PREFECT_HOME"]))
    command = [sys.executable, "-m", "prefect", "server", "start"]
    # The process becomes the server: its supervisor signals the server itself.
    os.execve(  # noqa: S606 - a list, no shell
        sys.executable, [*command, "--host", arguments.host, "--port", str(arguments.port)], environ
    )


def _require_password(host: str, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for a server that others reach and that does what anybody tells it."""
    if not _is_loopback(host) and not environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise UsageError(
            f"--host {host}: there is no password, and anyone who reaches this machine could start trainings.",
            "Set one, PREFECT_API_AUTH_STRING=user:password (or …_FILE with the path of a secret file), here and where "
            f"the server is used; or leave --host at {HOST} and come through a tunnel: ssh -L {PORT}:{HOST}:{PORT}.",
        )


def _require_port(host: str, port: int) -> None:
    """Raise ``UsageError`` for a port that can't be listened on: Prefect itself would say so after seconds."""
    if not 0 < port < 65536:
        raise UsageError(f"--port {port}: a port is a number from 1 to 65535.", f"Leave it out for {PORT}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"--port {port}: another program listens on {host}:{port} already.",
                "Stop it, or choose another port; PREFECT_API_URL must then name that one.",
            ) from None
        # Of another host it is Prefect that says what is wrong.


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_environment(home: Path, environ: Mapping[str, str] = os.environ, port: int = PORT) -> dict[str, str]:
    """The variables of a server with ``home`` that listens on ``port``. Holds secrets.

    What the user set as Prefect's own variable wins.
    """
    folder = home / "prefect"
    wanted = {
        **PREFECT_QUIET,
        "PREFECT_HOME": str(folder),
        # A server is there to be watched: its log is its console.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_SERVER_UI_ENABLED": "true",
        # Prefect unpacks the web UI, by default into its own package, which is root's in an image.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
        # Where the browser finds the API, not where containers do.
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{environ.get('PIPPA_PREFECT_PORT') or port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        **KEEP_LEASES,
        **_database(environ),
    }
    if auth := secret_from(environ, "PREFECT_API_AUTH_STRING"):
        wanted["PREFECT_SERVER_API_AUTH_STRING"] = auth
        # Its own services are clients of its API.
        wanted["PREFECT_API_AUTH_STRING"] = auth
    return {name: environ.get(name) or value for name, value in wanted.items()}


def _database(environ: Mapping[str, str]) -> dict[str, str]:
    host = environ.get("PIPPA_POSTGRES_HOST")
    if not host:
        return {}
    password = secret_from(environ, "PIPPA_POSTGRES_PASSWORD")
    if not password:
        raise UsageError(
            f"PIPPA_POSTGRES_HOST is {host}, and there is no password for it.",
            "Set PIPPA_POSTGRES_PASSWORD, or PIPPA_POSTGRES_PASSWORD_FILE with the path of a secret file.",
        )
    name, _, port = host.partition(":")
    return {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": name,
        "PREFECT_SERVER_DATABASE_PORT": port or "5432",
        "PREFECT_SERVER_DATABASE_USER": "prefect",
        "PREFECT_SERVER_DATABASE_NAME": "prefect",
        "PREFECT_SERVER_DATABASE_PASSWORD": password,
    }
