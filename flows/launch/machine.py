"""The machine that trains: what it is called, which GPUs it has, and how many trainings share one."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from flows.launch import LauncherName
from trainer.errors import PippaError, UsageError
from trainer.runner.cards import Card, chosen
from trainer.runner.cards import cards as found_cards

# The kernel's list; a container sees it too, without being given a GPU.
_KERNEL_GPUS = Path("/proc/driver/nvidia/gpus")


def machine_name() -> str:
    """The name of the machine that training containers run on: the Docker daemon's, without one this host's.

    A worker in a container is named like every other process of the machine, and like its successors.
    """
    return str(_daemon().get("Name") or socket.gethostname())


def gpus(launcher: LauncherName, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The ids of the GPUs that trainings may use here; empty on a CPU, and where the number is unknown.

    Raises ``UsageError`` for a ``PIPPA_GPUS`` that can't be meant.
    """
    if launcher == "process":
        if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
            return [each.strip() for each in visible.split(",") if each.strip() and each.strip() != "-1"]
        return _indices(_kernel_gpus())
    from flows.launch.docker.gpus import offered, wanted

    named, how = wanted(environ), offered(_daemon())
    if isinstance(named, list):
        return named
    if how is None:
        return []
    # Of GPUs from CDI the daemon knows the names: each by index and by UUID, and all of them together.
    ids = [str(device.get("ID", "")).rpartition("=")[2] for device in _daemon().get("DiscoveredDevices") or []]
    return sorted(each for each in ids if each.isdecimal()) or _indices(_kernel_gpus())


def cards(launcher: str, environ: Mapping[str, str] = os.environ) -> list[Card] | None:
    """The GPUs that a training started from here may use; empty on a CPU, None where they can't be known from here.

    Raises ``UsageError`` as ``gpus``.
    """
    if launcher == "process":
        return chosen(found_cards(), environ.get("CUDA_VISIBLE_DEVICES"))
    if launcher == "docker":
        from flows.launch.docker.docker_client import daemon_address, is_local
        from flows.launch.docker.gpus import wanted

        named = wanted(environ)
        if named == []:
            return []
        if is_local(daemon_address(environ)):
            # None found: the daemon may run in a virtual machine, or this process in a container without GPUs.
            return chosen(found_cards(), ",".join(named) if isinstance(named, list) else None) or None
    return None


def require_gpus(name: str, gpus: Sequence[str], wanted: int) -> None:
    """Raise ``UsageError`` for more GPUs than the machine ``name`` has; one without any trains on its processor."""
    if gpus and wanted > len(gpus):
        raise UsageError(f"--num-gpus {wanted}, but {name} has {len(gpus)}.", "Lower --num-gpus.")


def trainings_per_gpu(environ: Mapping[str, str] = os.environ) -> int:
    """How many trainings may share a GPU, or a machine without one: ``PIPPA_TRAININGS_PER_GPU``, by default 1.

    Raises ``UsageError`` when the setting is no number above 0.
    """
    text = environ.get("PIPPA_TRAININGS_PER_GPU") or "1"
    if not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"PIPPA_TRAININGS_PER_GPU is {text!r}, not a number of trainings.", "Write one, such as 2.")
    return int(text)


def occupants(gpus: Sequence[str], own: Collection[str] = ()) -> dict[str, list[str]]:
    """The runs, other than ``own``, whose containers compute on each of ``gpus``, also without a follower."""
    others = {run: ids for run, ids in _computing().items() if run not in own} if gpus else {}
    return {gpu: [run for run, ids in others.items() if gpu in ids or ids == ["all"]] for gpu in gpus}


def in_container(run_id: str) -> str:
    """A run that computes in its container, for those who wait for it."""
    return f"{run_id} (container pippa-{run_id})"


def trains_on(own: Collection[str]) -> list[str] | None:
    """The GPUs that the container of a run still computes on, which has one of these names; None without one."""
    if not _daemon():
        return None
    from flows.launch.docker.computing import goes_on

    return goes_on(own)


def _computing() -> dict[str, list[str]]:
    if not _daemon():
        return {}
    from flows.launch.docker.computing import computing

    return computing()


def _kernel_gpus() -> int:
    return len(list(_KERNEL_GPUS.iterdir())) if _KERNEL_GPUS.is_dir() else 0


def _indices(count: int) -> list[str]:
    return [str(index) for index in range(count)]


@cache
def _daemon() -> dict[str, Any]:
    """``docker info``; empty where no daemon answers."""
    from flows.launch.docker.docker_client import connect

    try:
        client = connect()
    except PippaError:
        return {}
    try:
        return client.info()
    finally:
        client.close()
