"""What W&B wrote of a run that it recorded offline."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # pyrefly: ignore[missing-module-attribute]

from tests.support.waiting import until


def records(folder: Path) -> list[Record]:
    """The records of the offline run under ``folder``, once the last one is written: W&B's own process does that."""
    until(lambda: any(record.HasField("exit") for record in _written(folder)))
    return _written(folder)


def _written(folder: Path) -> list[Record]:
    """What is in the file: a log of blocks as LevelDB writes it, of protocol buffers."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, found, parts = file.read_bytes(), [], b""
    position = 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):
            break  # it is being written
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def config_of(found: list[Record]) -> dict[str, Any]:
    updates = [u for r in found for part in (r.run.config, r.config) for u in part.update]
    return {update.key or "/".join(update.nested_key): json.loads(update.value_json) for update in updates}


def history_of(found: list[Record], name: str) -> list[Any]:
    items = [item for record in found for item in record.history.item]
    return [json.loads(item.value_json) for item in items if name in (item.key, "/".join(item.nested_key))]
