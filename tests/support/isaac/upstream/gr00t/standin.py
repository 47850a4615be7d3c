"""What the stand-in's scripts share: models, datasets and checkpoints as files, in upstream's formats."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

DATA_CONFIGS = {
    "fourier_gr1_arms_only": ["left_arm", "right_arm", "left_hand", "right_hand"],
    "so100_dualcam": ["single_arm", "gripper"],
}


class Weights:
    """All tensors of a model as raw bytes; float32 ones can be changed."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, tuple[str, list[int], bytearray]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            content = file.read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            header = json.loads(content[8 : 8 + length])
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = (8 + length + offset for offset in entry["data_offsets"])
                    self.tensors[name] = (entry["dtype"], entry["shape"], bytearray(content[begin:end]))
        if not self.tensors:
            raise OSError(f"no safetensors in {folder}")

    def nudge(self, prefix: str, generator: np.random.Generator) -> None:
        """A training step's stand-in: every float32 tensor under ``prefix`` moves a little."""
        for name, (dtype, _, data) in self.tensors.items():
            if name.startswith(prefix) and dtype == "F32":
                values = np.frombuffer(data, dtype="<f4")
                values += generator.normal(0, 1e-4, values.shape).astype("<f4")

    def save(self, folder: Path, shards: int = 2) -> None:
        """Sharded by size alone, as transformers does it."""
        total = sum(len(data) for _, _, data in self.tensors.values())
        groups: list[list[str]] = [[] for _ in range(shards)]
        filled = 0
        for name, (_, _, data) in self.tensors.items():
            groups[min(shards - 1, filled * shards // max(total, 1))].append(name)
            filled += len(data)
        weight_map = {}
        for number, names in enumerate(groups, 1):
            file = f"model-{number:05d}-of-{shards:05d}.safetensors"
            header: dict[str, object] = {"__metadata__": {"format": "pt"}}
            offset = 0
            for name in names:
                dtype, shape, data = self.tensors[name]
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
                offset += len(data)
                weight_map[name] = file
            encoded = json.dumps(header).encode()
            with (folder / file).open("wb") as stream:
                stream.write(struct.pack("<Q", len(encoded)) + encoded)
                for name in names:
                    stream.write(self.tensors[name][2])
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def episodes(dataset: Path) -> list[dict]:
    """The lines of ``episodes.jsonl``."""
    return [json.loads(line) for line in (dataset / "meta" / "episodes.jsonl").read_text().splitlines()]


def metadata(dataset: Path, tag: str) -> dict:
    """``experiment_cfg/metadata.json`` of a dataset that comes with its statistics."""
    read = {name: json.loads((dataset / "meta" / f"{name}.json").read_text()) for name in ("info", "modality", "stats")}
    statistics: dict[str, dict] = {"state": {}, "action": {}}
    modalities: dict[str, dict] = {"video": {}, "state": {}, "action": {}}
    for modality, column in (("state", "observation.state"), ("action", "action")):
        for key, entry in read["modality"][modality].items():
            start, end = entry["start"], entry["end"]
            source = read["stats"][entry.get("original_key") or column]
            statistics[modality][key] = {
                name: source[name][start:end] for name in ("max", "min", "mean", "std", "q01", "q99")
            }
            modalities[modality][key] = {
                "absolute": entry.get("absolute", True),
                "rotation_type": entry.get("rotation_type"),
                "shape": [end - start],
                "continuous": True,
            }
    for key, entry in read["modality"]["video"].items():
        feature = read["info"]["features"][entry.get("original_key") or key]
        sizes = dict(zip(feature["names"], feature["shape"], strict=True))
        modalities["video"][key] = {
            "resolution": [sizes["width"], sizes["height"]],
            "channels": sizes.get("channel", sizes.get("channels", 3)),
            "fps": float(read["info"]["fps"]),
        }
    return {tag: {"statistics": statistics, "modalities": modalities, "embodiment_tag": tag}}
