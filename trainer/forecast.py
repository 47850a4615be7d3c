"""What a training will need, computed from its arguments: GPU memory, host memory, disk, bytes to the store. No torch.

This is the only place that knows. What ``pippa train`` prints and warns of, the advice after an out-of-memory error,
the disk that the frame cache leaves free, and the figures in presets and docs come from here; tests hold them.
``docs/memory.md`` explains them.

Nothing of it has been measured on a GPU yet: ``MEASURED`` is where a measurement goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from trainer.config.argv import to_argv
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

FITS = 0.92
"""A training fits a card when the forecast is at most this share of its memory. The rest is for what torch's allocator
holds in pieces too small to use, and for other programs on the card."""

CARDS = {16: 15_360, 24: 23_028, 32: 32_607, 40: 40_960, 48: 46_068, 80: 81_559, 96: 97_887, 141: 143_771}
"""Sizes that cards are sold in, in GB, and what nvidia-smi shows of one in MiB: T4, A10G, RTX 5090, A100, L40S, H100,
RTX PRO 6000, H200."""

AHEAD_BYTES = 4_000_000_000
"""Samples loaded ahead of one GPU, at most. Their frames are as large as the camera's until the training's device
resizes them, and lie in pinned memory: the default 32 batches of 32 samples with two cameras of 1280x720 would take
8.6 GB of it."""

PROCESS_BYTES, CUDA_HOST_BYTES, LOADER_BYTES = 900_000_000, 2_000_000_000, 100_000_000
"""Host memory of the engine's process without the model (measured: 0.85 GB), what CUDA's libraries add to it on a GPU
(not measured), and what each data loading process adds (measured: 0.08 GB)."""

ADVISED_RANK = 32
"""Of the LoRA adapters that are suggested where memory is short."""

_LESS: tuple[dict[str, object], ...] = (
    {"tune_llm": False},
    {"tune_visual": False},
    {"tune_llm": False, "tune_visual": False},
    {"tune_diffusion_model": False},
    {"lora_full_model": False},
    {"lora_rank": ADVISED_RANK},
)
"""What can be changed, beside the batch, to need less GPU memory."""
_LESS_BY = 0.8
"""Of what was too much, to try next."""

GENERAL_ADVICE = (
    "Lower --batch-size, of N1.7 --global-batch-size (raise --gradient-accumulation-steps to keep the samples of a "
    "step), train fewer parts (--no-tune-llm, --no-tune-visual, --no-tune-diffusion-model) or use --lora-rank "
    f"{ADVISED_RANK}."
)
"""Where the model is not known."""

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
    except (OSError, ValueError, AttributeError, ValidationError, UsageError):
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


def fits(need: int, memory: int) -> bool:
    """Whether a training that needs so many bytes fits a card of so many."""
    return need <= FITS * memory


def smallest_card(need: int) -> int | None:
    """The smallest size of a card, in GB as it is sold, that a training fits; None where none is large enough."""
    return next((size for size, mib in CARDS.items() if fits(need, mib << 20)), None)


class Way(NamedTuple):
    """Flags with which a training needs less GPU memory, and how much it then needs."""

    flags: str
    total: int


def ways(config: FinetuneConfig, model: Model, memory: int) -> list[Way]:
    """How the training fits a card of ``memory`` bytes: by a smaller batch, by training less of the model, by LoRA.

    Each with the largest batch that fits, if need be with the accumulation that keeps the global batch. Where nothing
    fits, the one that needs least.
    """
    found: list[Way] = []
    tried: list[Way] = []
    for change in ({}, *_divisions(config), *_LESS):
        same = any(getattr(config, name) == value for name, value in change.items())
        # With LoRA the tune flags decide about the projector only.
        if same or (config.lora_rank and any(name.startswith("tune_") for name in change)):
            continue
        for flags in _batches(config, change):
            changed = config.model_copy(update=flags)
            changed = changed.with_batch_size(changed.batch_size)
            total = _memory(parts(model, changed), changed, CUDA_BYTES).total
            tried.append(Way(" ".join(to_argv(changed, flags)), total))
            if fits(total, memory):
                found.append(tried[-1])
                break
    return found or sorted(tried, key=lambda way: way.total)[:1]


def advice(config: FinetuneConfig, model: Model | None) -> str:
    """What to change after a GPU ran out of memory, with what it then needs as far as ``model`` is known."""
    if model is None:
        return GENERAL_ADVICE
    total = forecast(config, model).gpu.total
    found = [way for way in ways(config, model, round(_LESS_BY * total / FITS)) if way.total < total]
    if not found:
        return f"The forecast was {total / 1e9:.1f} GB: it takes a larger GPU, or one that nothing else uses."
    return f"The forecast was {total / 1e9:.1f} GB. Less takes one of these: {named(found)}."


def named(found: Sequence[Way]) -> str:
    """The flags of ``found``, with what a training then needs."""
    return ", ".join(f"`{way.flags}` ({way.total / 1e9:.1f} GB)" for way in found)


def _divisions(config: FinetuneConfig) -> Iterator[dict[str, object]]:
    """How the GPUs can divide the model, that which sends less between machines first."""
    if not config.fsdp and min(config.num_nodes, config.num_gpus) > 1:
        yield {"fsdp": True, "fsdp_devices": config.num_gpus}
    if not config.fsdp and config.processes > 1:
        yield {"fsdp": True}
    if config.fsdp and config.shards < config.processes:
        yield {"fsdp_devices": config.processes}


def _batches(config: FinetuneConfig, change: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """``change`` alone, then with the batch halved again and again, at each size first with the same global batch."""
    if change:
        yield dict(change)
    batch, samples = config.batch_size, config.batch_size * config.gradient_accumulation_steps
    while batch > 1:
        batch //= 2
        if samples % batch == 0:
            yield {**change, "batch_size": batch, "gradient_accumulation_steps": samples // batch}
        yield {**change, "batch_size": batch}


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
