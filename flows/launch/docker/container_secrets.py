"""What a training container gets: settings in its environment, secrets and CA certificates as files.

Both are allow-lists. Everything in the environment can be read by all who may call ``docker inspect``, so no secret is
among it; the files are copied into the container between its creation and its start, and go with it. They lie in one
folder, a volume of this container only, since the rest of its file system is read-only.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from flows.launch import Job, needed_secrets
from trainer.config.settings import secret_from
from trainer.errors import UsageError
from trainer.importers.names import isaac_repository
from trainer.runner.wandb_setup import netrc_key

UID = 1000
"""The user ``pippa`` in every image of ours."""
SECRETS = "/run/secrets"
"""The folder of the files."""
CA_FILE = f"{SECRETS}/ca.pem"
_CA_OF_SERVICES = Path("/etc/pippa/ca.pem")
"""Where ``compose.yaml`` mounts it in the containers of its services."""
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")

_SETTINGS = (
    *("PIPPA_S3_ENDPOINT", "PIPPA_S3_BUCKET", "PIPPA_S3_REGION"),
    *("PIPPA_UPLOAD_PATIENCE", "PIPPA_CPU_PROCESSES", "PIPPA_FRAME_CACHE", "PIPPA_DEBUG"),
    *("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE", "WANDB_BASE_URL"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"),
    *("PIPPA_ISAAC_REPOSITORY", "PIPPA_ISAAC_REF", "PIPPA_SOURCE_S3_ENDPOINT", "PIPPA_SOURCE_S3_REGION"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TZ"),
)
_SETTING_PREFIXES = ("NCCL_",)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environ`` that a trainer reads and that are no secrets.

    Raises ``UsageError`` for a password in the address of a git repository.
    """
    isaac_repository(environ)  # refuses one
    wanted = {
        name: value
        for name, value in environ.items()
        if value and (name in _SETTINGS or name.startswith(_SETTING_PREFIXES))
    }
    # A proxy's address may hold a password.
    proxies = {name: environ[name] for name in _PROXIES if environ.get(name) and "@" not in environ[name]}
    return wanted | proxies


def secrets(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """The secrets that ``job`` needs, by name. Raises ``UsageError`` for a secret file that can't be read."""
    names = needed_secrets(job)
    found = {name: value for name in names if (value := secret_from(environ, name))}
    if "WANDB_API_KEY" in names and "WANDB_API_KEY" not in found and (key := netrc_key(environ)):
        found["WANDB_API_KEY"] = key  # of `wandb login`
    if "HF_TOKEN" not in found and (token := _hub_login(environ)):
        found["HF_TOKEN"] = token
    return found


def secret_variables(names: Mapping[str, str]) -> dict[str, str]:
    """The variables that name the files of the secrets ``names``."""
    variables = {f"{name}_FILE": f"{SECRETS}/{name.lower()}" for name in names}
    if "HF_TOKEN" in names:
        variables["HF_TOKEN_PATH"] = variables["HF_TOKEN_FILE"]  # what the hub's own client calls it
    return variables


def certificates(environ: Mapping[str, str]) -> bytes | None:
    """The PEM file for containers: the one that compose gave this container, else the file of ``PIPPA_CA_BUNDLE``.

    Raises ``UsageError`` when that one can't be read or holds no certificate.
    """
    if _CA_OF_SERVICES.is_file():
        # In a container PIPPA_CA_BUNDLE is a path of the host; this is that file, and empty where there is none.
        return _CA_OF_SERVICES.read_bytes() or None
    path = environ.get("PIPPA_CA_BUNDLE")
    if not path:
        return None
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(
            f"PIPPA_CA_BUNDLE: can't read {path} ({error.strerror}).", "Point it at a readable PEM file."
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise UsageError(f"PIPPA_CA_BUNDLE: {path} holds no certificate.", "It must be a PEM file.")
    return content


def certificate_variables() -> dict[str, str]:
    """The variables with which OpenSSL, requests, curl and git read ``CA_FILE``."""
    return dict.fromkeys(_CA_VARIABLES, CA_FILE)


def archive(secret_values: Mapping[str, str], certificate: bytes | None, owner: int = UID) -> bytes:
    """A tar file, for ``SECRETS``, with the secrets (0400, of the user ``owner``) and the certificates."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, content: bytes, mode: int) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, owner, owner
            tar.addfile(entry, io.BytesIO(content))

        for name, value in secret_values.items():
            add(name.lower(), value.encode(), 0o400)
        if certificate:
            add(Path(CA_FILE).name, certificate, 0o444)
    return buffer.getvalue()


def _hub_login(environ: Mapping[str, str]) -> str | None:
    """The token that ``hf auth login`` left on this machine."""
    home = environ.get("HF_HOME") or "~/.cache/huggingface"
    path = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
