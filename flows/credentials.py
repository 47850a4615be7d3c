"""The credentials of the compose stack: ``python -m flows.credentials``, a service that runs once before the others.

Those the user gave in ``.env`` are taken, the rest is made on first use and kept. Every service reads them as files of
one volume; copies of those that the command line needs go to the checkout, for its owner alone.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PIPPA = 1000
"""User and group ``pippa`` in our images."""
POSTGRES = 999
"""User ``postgres`` in the official image, whose entry point reads the password after it gave up root."""


@dataclass(frozen=True)
class Credential:
    """One file of the volume, and how it comes to be."""

    setting: str
    """The user's setting; the file has its name in lower case, without the prefix ``PIPPA_``."""
    make: Callable[[], str] | None = None
    """How to make one; None leaves the file empty when the user gave none."""
    owner: int = PIPPA
    on_host: bool = False

    @property
    def file(self) -> str:
        """The file's name."""
        return self.setting.removeprefix("PIPPA_").lower()


CREDENTIALS = (
    Credential("PIPPA_S3_ACCESS_KEY", lambda: f"pippa{secrets.token_hex(8)}", on_host=True),
    Credential("PIPPA_S3_SECRET_KEY", lambda: secrets.token_urlsafe(32), on_host=True),
    Credential("PREFECT_API_AUTH_STRING", lambda: f"pippa:{secrets.token_urlsafe(24)}", on_host=True),
    Credential("PIPPA_POSTGRES_PASSWORD", lambda: secrets.token_urlsafe(24), owner=POSTGRES),
    Credential("PIPPA_SOURCE_S3_ACCESS_KEY"),
    Credential("PIPPA_SOURCE_S3_SECRET_KEY"),
    Credential("WANDB_API_KEY"),
    Credential("HF_TOKEN"),
    Credential("PIPPA_SERVE_TOKEN", lambda: secrets.token_urlsafe(24), on_host=True),
)


def write(given: Mapping[str, str], volume: Path, host: Path, host_owner: tuple[int, int]) -> list[str]:
    """Write every credential to ``volume``, and those for the command line to ``host``, owned by ``host_owner``.

    Returns the settings whose value was made now. A file is replaced by renaming, so that a reader never sees half.
    """
    made = []
    for credential in CREDENTIALS:
        file = volume / credential.file
        value = given.get(credential.setting, "")
        # The user's own keys are kept only as long as the user gives them: taken out of .env, they are gone here too.
        if not value and credential.make:
            value = file.read_text() if file.is_file() else ""
        if not value and credential.make:
            value = credential.make()
            made.append(credential.setting)
        _replace(file, value, credential.owner, PIPPA, 0o440)
        if credential.on_host:
            _replace(host / credential.file, value, *host_owner, 0o600)
    volume.chmod(0o755)
    os.chown(host, *host_owner)
    host.chmod(0o700)
    return made


def parse(text: str) -> dict[str, str]:
    """``NAME=value`` lines, as compose.yaml writes them; a value may hold any character but a line break."""
    pairs = (line.partition("=") for line in text.splitlines() if line)
    return {name: value for name, _, value in pairs if value}


def _replace(file: Path, value: str, user: int, group: int, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(value)
    os.chown(new, user, group)
    new.chmod(mode)
    new.replace(file)


def main() -> None:
    """The service: the user's settings in /run/given, the volume at /run/pippa, the checkout's .pippa at /host."""
    host = Path("/host")
    # Docker makes .pippa as root's where there is none; the checkout's owner must be able to use it.
    owner = Path("/run/compose.yaml").stat()
    os.chown(host, owner.st_uid, owner.st_gid)
    host.chmod(0o700)
    made = write(
        parse(Path("/run/given").read_text()), Path("/run/pippa"), host / "stack", (owner.st_uid, owner.st_gid)
    )
    sys.stdout.write(f"made {', '.join(made)}\n" if made else "nothing to make\n")


if __name__ == "__main__":
    main()
