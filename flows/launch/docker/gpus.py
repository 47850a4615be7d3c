"""Which GPUs a container gets: ``PIPPA_GPUS``, by default what the daemon offers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from docker.types import DeviceRequest

from trainer.config.finetune_config import FinetuneConfig
from trainer.errors import PippaError, UsageError
from trainer.generation import is_tiny

_DEVICE = re.compile(r"[\w.:-]+")
_REFUSALS = ("could not select device driver", "nvidia-container-cli", "unresolvable CDI devices", "nvidia.com/gpu")
TOOLKIT = (
    "Install the NVIDIA driver and the NVIDIA Container Toolkit "
    "(https://docs.nvidia.com/datacenter/cloud-native/container-toolkit), then `sudo nvidia-ctk runtime configure "
    "--runtime=docker && sudo systemctl restart docker`; `docker run --rm --gpus all ubuntu nvidia-smi` tells "
    "whether that worked."
)


def wanted(environ: Mapping[str, str]) -> str | list[str] | None:
    """``PIPPA_GPUS``: ``all``, device ids (empty for none), or None where it is not set. Raises ``UsageError``."""
    text = (environ.get("PIPPA_GPUS") or "").strip()
    if not text:
        return None
    if text in ("all", "none"):
        return "all" if text == "all" else []
    devices = [device.strip() for device in text.split(",") if device.strip()]
    if not devices or not all(_DEVICE.fullmatch(device) for device in devices):
        raise UsageError(
            f"PIPPA_GPUS is {text!r}.",
            "It is `all`, `none`, or ids as nvidia-smi -L lists them, with commas: 0,1 or GPU-<uuid>.",
        )
    if "none" in devices or "all" in devices or len(set(devices)) < len(devices):
        raise UsageError(f"PIPPA_GPUS is {text!r}.", "It is `all`, `none`, or different ids with commas: 0,1.")
    return devices


def offered(info: Mapping[str, Any]) -> str | None:
    """How the daemon of ``docker info`` hands out NVIDIA GPUs: ``nvidia`` (its runtime), ``cdi``, or not at all."""
    if "nvidia" in (info.get("Runtimes") or {}):
        return "nvidia"
    devices = info.get("DiscoveredDevices") or []
    return "cdi" if any(str(device.get("ID", "")).startswith("nvidia.com/gpu=") for device in devices) else None


def requests(info: Mapping[str, Any], environ: Mapping[str, str]) -> list[DeviceRequest]:
    """The device requests of a container that computes; none where ``PIPPA_GPUS`` or the daemon has none.

    GPUs that were named are requested also from a daemon that shows none: it refuses with its own reason.
    """
    devices, how = wanted(environ), offered(info)
    if devices == [] or (devices is None and how is None):
        return []
    ids = devices if isinstance(devices, list) else ["all"]
    if how == "cdi":
        return [DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={device}" for device in ids])]
    if ids == ["all"]:
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return [DeviceRequest(device_ids=ids, capabilities=[["gpu"]])]


def label(info: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """What the label of such a container says: the ids of its GPUs with commas, ``all``, or nothing."""
    devices = wanted(environ)
    if isinstance(devices, list):
        return ",".join(devices)
    return "all" if devices == "all" or offered(info) else ""


def require(info: Mapping[str, Any], environ: Mapping[str, str], config: FinetuneConfig) -> None:
    """Refuse a training of the real model where no GPU is, unless ``PIPPA_GPUS=none`` allows it.

    Raises ``UsageError``, as for more processes than there are GPUs.
    """
    devices = wanted(environ)
    if devices is None and offered(info) is None and not is_tiny(config.base_model_path):
        tiny = config.generation.tiny
        raise UsageError(
            "The Docker daemon offers no GPU, and a training of this base model needs one.",
            f"{TOOLKIT} To rehearse on the CPU, with a model of the same architecture and small sizes: "
            f"PIPPA_BASE_MODEL={tiny} or --base-model-path {tiny}. PIPPA_GPUS=none trains this one on the CPU.",
        )
    if isinstance(devices, list) and 0 < len(devices) < config.num_gpus:
        raise UsageError(
            f"--num-gpus {config.num_gpus}, but PIPPA_GPUS names {len(devices)}: {','.join(devices)}.",
            "Lower --num-gpus, or name more.",
        )


def refusal(message: str) -> PippaError | None:
    """The error that the daemon's ``message`` means when it could not hand out a GPU; None for another one."""
    if not any(sign in message for sign in _REFUSALS):
        return None
    # What the image asks for (NVIDIA_REQUIRE_CUDA), in the words of NVIDIA's container runtime.
    cure = "Update NVIDIA's driver." if "unsatisfied condition" in message else TOOLKIT
    return PippaError(
        f"The Docker daemon can't give a container the GPUs it requests: {message.strip()}",
        f"{cure} PIPPA_GPUS names the GPUs to use; none trains on the CPU.",
    )
