"""What the stand-in's scripts share: models, datasets and checkpoints as files, in upstream's formats."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

KEPT = 5
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


def wandb_starts(output_dir: Path) -> None:
    """As Hugging Face's callback: needs a key unless offline, and names the run after the whole output path."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "offline":
        name = f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{os.environ.get('WANDB_RUN_ID', 'random')}"
        folder = Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / name
        folder.mkdir(parents=True)
        (folder / f"run-{os.environ.get('WANDB_RUN_ID', 'random')}.wandb").write_bytes(f"{output_dir}".encode())
    elif mode != "disabled" and not os.environ.get("WANDB_API_KEY"):
        raise RuntimeError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")


def checkpoints(output_dir: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in output_dir.glob("checkpoint-*"))


def save(folder: Path, config: Any, weights: Weights, step: int, history: list[dict]) -> None:
    """In place, file by file, as upstream does; a reader may see half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(config.base_model_path) / "config.json", folder / "config.json")
    weights.save(folder)
    state = {"global_step": step, "max_steps": config.max_steps, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))


def save_checkpoint(output_dir: Path, config: Any, weights: Weights, step: int, history: list[dict]) -> None:
    folder = output_dir / f"checkpoint-{step}"
    save(folder, config, weights, step, history)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", f"{name} at {step}".encode() * 100)
    (folder / "scheduler.pt").write_bytes(b"scheduler")
    (folder / "rng_state.pth").write_bytes(b"random state")
    shutil.copytree(output_dir / "experiment_cfg", folder / "experiment_cfg", dirs_exist_ok=True)
    if (output_dir / "processor").is_dir():  # N1.7's
        shutil.copytree(output_dir / "processor", folder, dirs_exist_ok=True)
    for old in checkpoints(output_dir)[:-KEPT]:
        shutil.rmtree(output_dir / f"checkpoint-{old}")


def bar(step: int, config: Any, started: float) -> None:
    done = step / config.max_steps
    seconds = int(time.monotonic() - started)
    sys.stderr.write(
        f"\r{done:4.0%}|{'█' * int(done * 10):<10}| {step}/{config.max_steps} "
        f"[{seconds // 60:02d}:{seconds % 60:02d}<00:10, {1.9:5.2f}it/s]"
    )
    sys.stderr.flush()


def train(config: Any, weights: Weights, output_dir: Path, step: int, history: list[dict]) -> None:
    """From ``step`` to the end, as Hugging Face's trainer prints and saves it."""
    generator = np.random.default_rng(42)
    started = time.monotonic()
    bar(step, config, started)
    while step < config.max_steps:
        step += 1
        time.sleep(3600 if str(step) == os.environ.get("STANDIN_HANGS_AT") else 0.01)
        bar(step, config, started)
        if step % 10 == 0:
            line = {
                "loss": round(math.exp(-3 * step / config.max_steps), 4),
                "grad_norm": 1.25,
                "learning_rate": config.learning_rate * (1 - step / config.max_steps),
                "epoch": round(step / 66, 2),
            }
            history.append({**line, "step": step})
            print(line, flush=True)
        if step % config.save_steps == 0 or step == config.max_steps:
            weights.nudge("action_head.", generator)
            save_checkpoint(output_dir, config, weights, step, history)
    seconds = time.monotonic() - started
    print({"train_runtime": round(seconds, 4), "train_loss": 0.3, "epoch": round(step / 66, 2)})
    save(output_dir, config, weights, step, history)
    (output_dir / "training_args.bin").write_bytes(b"arguments")
