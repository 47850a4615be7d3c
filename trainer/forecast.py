"""What a training will need, computed from its arguments: GPU memory, host memory, disk, bytes to the store. No torch.

This is the only place that knows. What ``pippa train`` prints and warns of, the advice after an out-of-memory error
(``trainer.memory_advice``), the disk that the frame cache leaves free, and the figures in presets and docs come from
here; tests hold them.
``docs/memory.md`` explains them.

Nothing of it has been measured on a GPU yet: ``MEASURED`` is where a measurement goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from trainer.config.finetune_config import FinetuneConfig
from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.errors import PippaError, UsageError
from trainer.generation import DEFAULT, Generation, generation_of, is_tiny, named_generation
from trainer.gr00t.parts.memory import Part


class Model(Protocol):
    """The sizes of a model, as ``sections`` of its generation has them."""

    @property
    def generation(self) -> Generation:
        """Whose they are."""
        ...


CUDA_BYTES = 1_000_000_000
"""What a process takes of a card beside the model's tensors: CUDA's context with torch's kernels (0.5 to 0.6 GB),
workspaces of cuBLAS and cuDNN (32 MiB each on Hopper), the batch, gradients between two layers."""

MEASURED = 1.0
"""A measured peak divided by ``Memory.tensors`` of the same training; it corrects that. 1.0 until there is one:
``python -m bench.gpu_drill`` leaves ``peak_memory_bytes`` by flags and batch in its ``measured.json``."""

AHEAD_BYTES = 4_000_000_000
"""Samples loaded ahead of one GPU, at most. Their frames are as large as the camera's until the training's device
resizes them, and lie in pinned memory: the default 32 batches of 32 samples with two cameras of 1280x720 would take
8.6 GB of it."""

PROCESS_BYTES, CUDA_HOST_BYTES, LOADER_BYTES = 900_000_000, 2_000_000_000, 100_000_000
"""Host memory of the engine's process without the model (measured: 0.85 GB), what CUDA's libraries add to it on a GPU
(not measured), and what each data loading process adds (measured: 0.08 GB)."""

_KNOWN_FRAMES = {
    "synthetic.PickNPlace": (351, 256 * 256),
    "robot_sim.PickNPlace": (2096, 256 * 256),
    "youliangtan/so101-table-cleanup": (47_513, 640 * 480),
    "cube_to_bowl_5": (4148, 640 * 480),
}
"""Datasets of the presets: frames of each camera, and their pixels."""
_USUAL_PIXELS = 640 * 480
"""Of a camera, while its dataset is not known."""


class Memory(NamedTuple):
    """Memory of a training, in bytes, on each GPU (or of the process, on a CPU): with FSDP, its share."""

    parameters: int
    trained: int
    """Of the parameters; LoRA's adapters included. Both are counts, of the whole model."""
    weights: int
    moments: int
    """AdamW's two."""
    gradients: int
    activations: int
    """What autograd keeps of the forward pass, bf16 copies of float32 weights included."""
    together: int
    """Activations and gradients at the moment when they take most: the former go while the latter come."""
    buckets: int
    """Where several GPUs train, DDP's copy of the gradients; with FSDP what is gathered for a moment: the largest piece
    that is trained, its gradient and the copy that is exchanged, and a piece that is fetched ahead."""
    fixed: int

    @property
    def tensors(self) -> int:
        """Everything but ``fixed``."""
        return self.weights + self.moments + self.together + self.buckets

    @property
    def total(self) -> int:
        """All of it."""
        return round(MEASURED * self.tensors) + self.fixed


class Frames(NamedTuple):
    """A dataset's frames, decoded, in bytes."""

    rgb: int
    """All of them as RGB: 3 a pixel."""
    planes: int
    """Those of videos as 4:2:0, as nearly all are: 1.5 a pixel. Images in tables stay RGB."""


class Disk(NamedTuple):
    """What a training writes, in bytes."""

    frozen: int
    """Weights that are the same in every checkpoint: on disk and in the store once, but for Isaac-GR00T on disk."""
    changing: int
    """Weights of each checkpoint that are new."""
    moments: int
    """AdamW's, in each checkpoint on disk."""
    saves: int
    """Checkpoints of the whole training."""
    atomic: bool
    """Whether the native engine writes them, which links what is frozen."""
    frames: Frames | None
    """The dataset, decoded; None while it is not known. ``kept_frames`` says how much of it is kept."""
    kept: int
    """Checkpoints that stay on the disk."""

    @property
    def each(self) -> int:
        """What a further checkpoint takes on disk."""
        return self.changing + self.moments + (0 if self.atomic else self.frozen)

    @property
    def checkpoints(self) -> int:
        """The most that checkpoints take in the output folder: those kept and the one being saved."""
        return self.frozen * self.atomic + min(self.saves, self.kept + 1) * self.each

    @property
    def uploaded(self) -> int:
        """What all checkpoints take in the store, which keeps equal files once."""
        return self.frozen + self.saves * self.changing


@dataclass(frozen=True)
class Forecast:
    """What one training will need."""

    model: int
    """Bytes of the whole model's weights."""
    gpu: Memory
    cpu: Memory
    """Where it trains on a CPU: all in host memory, without autocast."""
    host: int
    """Bytes of host memory beside a GPU."""
    host_on_cpu: int
    disk: Disk


def parts(model: Model, config: FinetuneConfig, *, on_gpu: bool = True) -> list[Part]:
    """The parts of a model of any generation in a training, in the order of the backward pass."""
    return model.generation.module("gr00t", "memory").parts(model, config, on_gpu=on_gpu)


def forecast(config: FinetuneConfig, model: Model, *, native: bool = True) -> Forecast:
    """What training ``model`` as ``config`` says will need; ``native`` is whether pippa's own engine trains."""
    found = parts(model, config)
    gpu, cpu = _memory(found, config, CUDA_BYTES), _memory(parts(model, config, on_gpu=False), config, 0)
    disk = Disk(
        frozen=sum(part.weights - 4 * part.adapters - part.changing for part in found),
        # With LoRA both are kept: the merged weights, and all that is trained by itself.
        changing=sum(part.changing + (part.gradients if config.lora_rank else 0) for part in found),
        moments=2 * sum(part.gradients for part in found),
        saves=-(-config.max_steps // config.save_steps),
        kept=config.checkpoints_kept,
        atomic=native,
        frames=frame_bytes(config),
    )
    model_bytes = sum(part.weights for part in found)
    copies = disk.changing + disk.moments + (disk.frozen if config.fsdp else 0)
    loading = config.num_gpus * (PROCESS_BYTES + config.dataloader_num_workers * LOADER_BYTES + _ahead(config))
    return Forecast(
        model=model_bytes,
        gpu=gpu,
        cpu=cpu,
        # The model passes through host memory; later the copies of the checkpoint that is written lie there.
        host=max(config.num_gpus * model_bytes, copies) + loading + config.num_gpus * CUDA_HOST_BYTES,
        host_on_cpu=cpu.total * config.num_gpus + copies + loading,
        disk=disk,
    )


def gpu_memory(config: FinetuneConfig, model: Model) -> Memory:
    """What training ``model`` as ``config`` says takes of each GPU: ``forecast(…).gpu`` alone."""
    return _memory(parts(model, config), config, CUDA_BYTES)


def model_of(base_model: str, generation: Generation | None = None) -> Model | None:
    """The sizes of the base model called so: a tiny one's, those of a folder's config.json, else the official 3B's of
    its ``generation``, the default one where neither that nor its name tells.

    None for a folder with another kind of model, or none.
    """
    from trainer.importers.names import is_folder  # the engine imports this module, and not the importers

    if is_folder(base_model):
        return read_sections(Path(base_model).expanduser())
    sections = (generation or named_generation(base_model) or DEFAULT).module("gr00t", "sections")
    return sections.tiny() if is_tiny(base_model) else sections.official()


def read_sections(folder: Path) -> Model | None:
    """The sizes in ``folder/config.json``; None where there are none of a GR00T."""
    try:
        values = json.loads((folder / "config.json").read_text())
        generation = generation_of(values, str(folder))
        return generation.module("gr00t", "sections").read(values) if generation else None
    except (OSError, ValueError, AttributeError, UsageError):
        return None


def frame_bytes(config: FinetuneConfig) -> Frames | None:
    """Bytes of the decoded frames that the data config uses; None while a dataset is not known."""
    from trainer.importers.names import is_folder

    cameras, pixels, of_images = get_data_config(config.data_config).video, 0, 0
    for name in config.dataset_path:
        if is_folder(name):
            try:
                meta = DatasetMeta.load(Path(name).expanduser())
                used = {key: meta.info.camera(meta.modality.column("video", key)).resolution for key in cameras}
                images = [math.prod(size) for key, size in used.items() if meta.in_tables(key)]
            except (PippaError, KeyError, ValueError):  # no dataset, or one that the import changes first
                return None
            pixels += meta.total_frames * sum(map(math.prod, used.values()))
            of_images += meta.total_frames * sum(images)
        elif known := _KNOWN_FRAMES.get(name.partition("@")[0]):
            pixels += known[0] * known[1] * len(cameras)
        else:
            return None
    return Frames(3 * pixels, 3 * (pixels + of_images) // 2)


def kept_frames(frames: Frames, room: int, *, on_gpu: bool) -> int:
    """What the frame cache takes of ``frames`` in so much ``room``: as planes where they are converted ``on_gpu``, else
    as RGB, as far as that fits.
    """
    return min(frames.planes if on_gpu else frames.rgb, room)


def room_for_checkpoints(base_model: Path, config: FinetuneConfig, output_dir: Path, *, native: bool = True) -> int:
    """Bytes that the checkpoints in ``output_dir`` will take beyond those they take now, at the most; 0 where the model
    in the folder ``base_model`` is not known.
    """
    model = read_sections(base_model)
    if model is None:
        return 0
    files = (file.stat() for file in output_dir.rglob("*") if file.is_file())
    there = sum({file.st_ino: file.st_size for file in files}.values())  # links once
    return max(forecast(config, model, native=native).disk.checkpoints - there, 0)


def _memory(found: Sequence[Part], config: FinetuneConfig, fixed: int) -> Memory:
    shares = config.shards
    gradients = _share(sum(part.gradients for part in found), shares)
    kept = [part.activations + part.copies for part in found]
    if config.gradient_accumulation_steps > 1:
        together = gradients + sum(kept)  # the gradients of the micro-batches before
    else:
        # At the end of the forward pass, and after each part of the backward pass.
        together = max(
            _share(sum(part.gradients for part in found[:done]), shares) + sum(kept[done:])
            for done in range(len(found) + 1)
        )
    return Memory(
        parameters=sum(part.parameters + part.adapters for part in found),
        trained=sum(part.trained + part.adapters for part in found),
        weights=_share(sum(part.weights for part in found), shares),
        moments=2 * gradients,
        gradients=gradients,
        activations=sum(kept),
        together=together,
        buckets=_gathered(found) if config.fsdp else gradients if config.processes > 1 else 0,
        fixed=fixed,
    )


def _share(amount: int, shares: int) -> int:
    """What each of so many processes has of ``amount``."""
    return -(-amount // shares)


def _gathered(found: Sequence[Part]) -> int:
    pieces = [(part.width * part.piece, part.trained > 0) for part in found]
    return max(size for size, _ in pieces) + 3 * max((size for size, trained in pieces if trained), default=0)


def _ahead(config: FinetuneConfig) -> int:
    cameras = len(get_data_config(config.data_config).video)
    batches = config.dataloader_num_workers * config.dataloader_prefetch_factor
    return min(batches * config.batch_size * cameras * 3 * _USUAL_PIXELS, AHEAD_BYTES)
