"""Whether the safetensors files of a model are all there and whole, judged by their headers. No torch."""

from __future__ import annotations

import json
from pathlib import Path

ADAPTER = "adapter"
"""The subfolder of a checkpoint with its LoRA adapters."""


def weights_problem(folder: Path) -> str | None:
    """What is missing or cut short among the safetensors files of ``folder``, or None. Raises for unreadable ones."""
    files = sorted(folder.iterdir())  # unlike glob, it raises for a folder that can't be read
    weights = [file for file in files if file.name.endswith(".safetensors")]
    if not weights:
        return "it has no weights (*.safetensors)"
    for index in (file for file in files if file.name.endswith(".safetensors.index.json")):
        shards = set(json.loads(index.read_text())["weight_map"].values())
        if missing := sorted(shards - {file.name for file in weights}):
            return f"{index.name} names {missing[0]}, which is missing"
    for file in weights:
        if file.stat().st_size != (size := _safetensors_size(file)):
            return f"{file.name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _safetensors_size(file: Path) -> int:
    """How many bytes ``file`` must have: 8 for the header's length, the header, the data up to the last offset."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= 100_000_000:
            raise ValueError(f"{file.name} is not a safetensors file")
        header = json.loads(stream.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)
