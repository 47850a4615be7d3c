"""The GPUs of this machine, as NVIDIA's driver names them; torch, which would take seconds, is not asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import NamedTuple


class Card(NamedTuple):
    """A GPU."""

    index: str
    uuid: str
    name: str
    memory: int
    """Bytes."""
    driver: str


def cards() -> list[Card]:
    """All GPUs of this machine; empty where there are none, or no driver."""
    query = "--query-gpu=index,uuid,name,memory.total,driver_version"
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [[field.strip() for field in line.split(",")] for line in found.stdout.splitlines()]
    # A name may have a comma in it; a card that shares the host's memory has none to tell.
    return [
        Card(index, uuid, ", ".join(name), int(mib) << 20 if mib.isdecimal() else 0, driver)
        for index, uuid, *name, mib, driver in (line for line in lines if len(line) >= 5)
    ]


def chosen(found: list[Card], ids: str | None) -> list[Card]:
    """Those of ``found`` that a list such as ``0,2`` or ``GPU-8f3a,GPU-77`` names, in its order; None names all."""
    if ids is None:
        return found
    named = [each.strip() for each in ids.split(",") if each.strip()]
    return [card for each in named for card in found if each == card.index or card.uuid.startswith(each)]


def used(num_gpus: int, environ: Mapping[str, str] = os.environ) -> list[Card]:
    """The cards that a training of this process will use: the first of those that ``CUDA_VISIBLE_DEVICES`` allows."""
    return chosen(cards(), environ.get("CUDA_VISIBLE_DEVICES"))[:num_gpus]
