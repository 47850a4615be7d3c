"""``trainer doctor``: what stands between this machine and a training, in seconds and without importing torch."""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from trainer.config.presets import PRESETS, Preset
from trainer.config.settings import hub_token, pippa_home
from trainer.disk import require_home
from trainer.errors import ExitCode, PippaError
from trainer.forecast import forecast, model_of
from trainer.generation import is_tiny
from trainer.memory_advice import fits
from trainer.runner.cards import Card, cards
from trainer.runner.findings import Finding, Look, look, problem, tell
from trainer.runner.wandb_setup import wandb_connection
from trainer.store.stores import open_store, store_folder
from trainer.training.devices import oldest_driver

_PACKAGES = ("torch", "transformers", "accelerate", "av", "wandb", "minio")
_MIN_SHM = 1_000_000_000
"""Bytes of shared memory: data loading processes hand their batches over in it."""
_HUB_SECONDS = 5.0
_HUB_BYTES = 1_000_000


def main(preset: Preset | None = None, *, as_json: bool = False) -> int:
    """Print a line for each part, with its cure. Returns 0, or the exit code of the first problem."""
    return tell(look(checks(preset)), as_json=as_json)


def checks(preset: Preset | None) -> Sequence[Look]:
    """What to look at; ``preset`` is the one that is to be trained here, None any."""
    machine = (python, packages, partial(gpu, preset), memory, partial(disk, preset), shared_memory)
    return (*machine, store, git_lfs, wandb, hub)


def python() -> Finding:
    """Python and the system."""
    return Finding("python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")


def packages() -> Finding:
    """The packages of the engine."""
    engine = os.environ.get("PIPPA_FINETUNE_COMMAND")
    versions = ", ".join(f"{name} {_version(name)}" for name in ("pippa", *_PACKAGES))
    if engine or importlib.util.find_spec("torch") is not None:
        return Finding("engine", f"{engine or 'native (python -m trainer.finetune)'}: {versions}")
    return Finding("engine", f"torch is not installed: {versions}", "problem", "`uv sync`", ExitCode.ENGINE)


def gpu(preset: Preset | None, found: list[Card] | None = None) -> Finding:
    """The GPUs as the driver names them, and whether a preset fits: asking torch would take half a minute."""
    native = os.environ.get("PIPPA_ENGINE", "native") == "native"
    found = cards() if found is None else found
    if not found:
        needs_one = not native or (preset is not None and not is_tiny(preset.config.base_model_path))
        state = "problem" if not native and preset else "note"
        wants = ""
        if native and needs_one:
            tiny = preset.kind.generation.tiny if preset else "tiny"
            wants = f" `--base-model-path {tiny}` rehearses any preset on the CPU."
        return Finding(
            "device",
            "no NVIDIA GPU: " + ("training runs on the CPU" if native else "Isaac-GR00T can't train"),
            state,
            f"The real model wants a GPU.{wants}" if needs_one else "",
        )
    names = ", ".join(f"{card.name}, {card.memory >> 20} MiB, {card.driver}" for card in found)
    cuda = _torch_cuda() if native else None
    if cuda and (too_old := _too_old(found[0].driver, cuda)):
        return Finding("device", f"{names}: {too_old}", "problem", "`nvidia-smi` shows the driver in use.")
    room = min(card.memory for card in found)
    wanted = [preset] if preset else [each for each in PRESETS.values() if not is_tiny(each.config.base_model_path)]
    total = {each.name: _gpu_bytes(each) for each in wanted}
    lacking = [f"{name} ({needs / 1e9:.1f} GB)" for name, needs in total.items() if room and not fits(needs, room)]
    if not lacking:
        return Finding("device", names)
    return Finding(
        "device",
        f"{names}; too small by the forecast for {', '.join(lacking)}",
        "problem" if preset else "note",
        "low-vram, lora or a smaller --batch-size take less; `pippa train PRESET --dry-run` names flags that fit.",
        ExitCode.OUT_OF_MEMORY,
    )


def memory() -> Finding:
    """The machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("memory", f"{total / 1e9:.1f} GB")


def disk(preset: Preset | None) -> Finding:
    """Free space where pippa writes, beside what a preset will keep there."""
    home = pippa_home()
    try:
        require_home(home)
    except PippaError as error:
        return problem("PIPPA_HOME", error)
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    needs = 0
    if preset is not None and (model := model_of(preset.config.base_model_path, preset.kind.generation)) is not None:
        needs = forecast(preset.config, model).disk.checkpoints
    says = f"{home}, {free / 1e9:.1f} GB free"
    if needs > free:
        return Finding(
            "PIPPA_HOME",
            f"{says}; {preset.name if preset else ''} keeps {needs / 1e9:.1f} GB of checkpoints",
            "problem",
            "Free some space, or set PIPPA_HOME to a larger disk; a larger --save-steps keeps fewer.",
            ExitCode.DISK_FULL,
        )
    return Finding("PIPPA_HOME", says)


def shared_memory() -> Finding:
    """``/dev/shm``, which containers get little of."""
    folder = Path("/dev/shm")  # noqa: S108 - its size is all that is asked
    if not folder.is_dir():
        return Finding("shared memory", "this system has none to run out of")
    total = shutil.disk_usage(folder).total
    if total < _MIN_SHM:
        return Finding(
            "shared memory",
            f"{total / 1e9:.2f} GB: data loading may run out of it",
            "note",
            "`docker run --shm-size 8g`, or --dataloader-num-workers 0.",
        )
    return Finding("shared memory", f"{total / 1e9:.1f} GB")


def store() -> Finding:
    """The object store of the settings."""
    folder = store_folder(pippa_home())
    if not os.environ.get("PIPPA_S3_ENDPOINT") and not folder.is_dir():
        return Finding("object store", f"the folder {folder}, made when it is first used")
    try:
        opened = open_store()
        opened.open()
    except PippaError as error:
        return problem("object store", error)
    return Finding("object store", f"{opened.address}: usable")


def git_lfs() -> Finding:
    """Git and git-lfs, which some datasets of git repositories need."""
    missing = [name for name in ("git", "git-lfs") if shutil.which(name) is None]
    if not missing:
        return Finding("git", "git and git-lfs are installed")
    return Finding(
        "git",
        f"{' and '.join(missing)} not installed: datasets of git repositories may need it",
        "note",
        f"`sudo apt-get install {' '.join(missing)}`; hub ids, folders and S3 work without.",
    )


def wandb() -> Finding:
    """Whether W&B takes this machine's key; neither key nor answer is shown."""
    _, warning = wandb_connection()
    if warning is None:
        mode = os.environ.get("WANDB_MODE", "online").lower()
        return Finding("W&B", "the key is accepted" if mode == "online" else f"WANDB_MODE is {mode}")
    reason = warning.message.replace(": this run is recorded offline", "").rstrip(".")
    cure = "Set WANDB_API_KEY or run `wandb login`; `pippa runs sync RUN` uploads an offline run later."
    return Finding("W&B", f"{reason}; runs are recorded offline", "note", cure)


def hub() -> Finding:
    """Whether the Hugging Face hub answers, and whether there is a token for it."""
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding("hub", "HF_HUB_OFFLINE is 1: only what the object store has", "note")
    token: str | bool | None = None
    try:
        token = hub_token() or (Path.home() / ".cache" / "huggingface" / "token").is_file()
        with urllib.request.urlopen(f"{address}/api/models?limit=1", timeout=_HUB_SECONDS) as answer:  # noqa: S310
            is_hub = isinstance(json.loads(answer.read(_HUB_BYTES)), list)
    except PippaError as error:
        return problem("hub", error)
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403, 429) and error.code < 500:
            is_hub = False
        else:
            says = f"{address} answers {error.code} ({error.reason})"
            return Finding("hub", says, "note", "Try again later, or see what is between this machine and the hub.")
    except ValueError:
        is_hub = False
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return Finding(
            "hub",
            f"{address} can't be reached ({reason})",
            "note",
            "What the object store has trains without it; `pippa data push` and `pippa models add ./FOLDER` fill it.",
        )
    if not is_hub:
        cure = "Correct HF_ENDPOINT, or sign in to the network: a proxy or another server answers there."
        return Finding("hub", f"{address} is not a Hugging Face hub", "note", cure)
    return Finding("hub", f"{address} answers, {'with a token' if token else 'no token (HF_TOKEN)'}")


def _gpu_bytes(preset: Preset) -> int:
    model = model_of(preset.config.base_model_path, preset.kind.generation)
    return 0 if model is None else forecast(preset.config, model).gpu.total


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _too_old(driver: str, cuda: str) -> str:
    """The warning about an old driver; empty for one that is new enough."""
    needed = oldest_driver(cuda)
    if not driver.partition(".")[0].isdigit() or int(driver.partition(".")[0]) >= needed:
        return ""
    return f"the driver is too old for torch's CUDA {cuda}; install {needed} or newer"


def _torch_cuda() -> str | None:
    """The CUDA that torch was built for, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"^cuda\b.*'([\d.]+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else None
