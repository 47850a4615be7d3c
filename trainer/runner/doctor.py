"""``trainer doctor``: what this machine has for training, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.config.settings import pippa_home
from trainer.errors import ExitCode, PippaError
from trainer.runner.cards import cards
from trainer.store.stores import open_store, store_folder
from trainer.training.devices import oldest_driver

_PACKAGES = ("pippa", "torch", "transformers", "accelerate", "av", "wandb", "minio")


def main() -> int:
    """Print what there is, one line each. Returns 4 when the object store can't be used."""
    out = sys.stdout.write
    out(f"{'python':<14} {platform.python_version()} on {platform.platform()}\n")
    for package in _PACKAGES:
        out(f"{package:<14} {_version(package)}\n")
    out(f"{'engine':<14} {os.environ.get('PIPPA_FINETUNE_COMMAND') or 'native (python -m trainer.finetune)'}\n")
    for line in _devices():
        out(f"{'device':<14} {line}\n")
    out(f"{'processors':<14} {os.cpu_count()}\n")
    home = pippa_home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    out(f"{'PIPPA_HOME':<14} {home}, {shutil.disk_usage(existing).free / 1e9:.1f} GB free\n")
    if Path("/dev/shm").is_dir():  # noqa: S108 - its size is all that is asked
        out(f"{'shared memory':<14} {shutil.disk_usage('/dev/shm').total / 1e9:.1f} GB\n")  # noqa: S108
    return _store(out)


def _store(out: Callable[[str], object]) -> int:
    folder = store_folder(pippa_home())
    if not os.environ.get("PIPPA_S3_ENDPOINT") and not folder.is_dir():
        out(f"{'object store':<14} the folder {folder}, made when it is first used\n")
        return ExitCode.DONE
    try:
        store = open_store()
        store.open()
    except PippaError as error:
        out(f"{'object store':<14} {error.message} {error.hint}\n")
        return int(error.exit_code)
    out(f"{'object store':<14} {store.address}: usable\n")
    return ExitCode.DONE


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    """The GPUs as the driver names them; asking torch would take half a minute on a small machine."""
    native = os.environ.get("PIPPA_ENGINE", "native") == "native"
    found = cards()
    if not found:
        return ["no NVIDIA GPU: " + ("training runs on the CPU" if native else "Isaac-GR00T can't train")]
    cuda = _torch_cuda() if native else None
    return [
        f"{card.name}, {card.memory >> 20} MiB, {card.driver}" + (_driver_problem(card.driver, cuda) if cuda else "")
        for card in found
    ]


def _driver_problem(driver: str, cuda: str) -> str:
    """What is to be said of the driver, which ends the line about a GPU."""
    needed = oldest_driver(cuda)
    if not driver.partition(".")[0].isdigit() or int(driver.partition(".")[0]) >= needed:
        return ""
    return f": the driver is too old for torch's CUDA {cuda}; install {needed} or newer"


def _torch_cuda() -> str | None:
    """The CUDA that torch was built for, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"^cuda\b.*'([\d.]+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else None
