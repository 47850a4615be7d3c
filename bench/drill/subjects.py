"""What the drill measures of each generation: its model with random weights, data for it, and how it is asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tokenizers import Tokenizer

from bench import flops, flops_n17
from bench.loops import upstream_way
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.data.collate import Collator, finish_images
from trainer.data.dataset import TrainingDataset
from trainer.data.metadata import write_metadata
from trainer.data.n17 import processor_files
from trainer.data.n17.collate import Collator as CollatorN17
from trainer.data.n17.configs import get_data_config
from trainer.data.n17.dataset import TrainingDataset as TrainingDatasetN17
from trainer.data.n17.embodiments import PROJECTOR_INDEX
from trainer.data.n17.finish import finish_images as finish_images_n17
from trainer.data.n17.settings import ProcessorSettings
from trainer.generation import N15, N17, Generation
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.n15.processor import IMAGE_TOKEN, EagleProcessor
from trainer.gr00t.n15.tiny import make_tiny_base_model, tiny_config
from trainer.gr00t.n17.config import Gr00tN1d7Config
from trainer.gr00t.n17.model import Gr00tN1d7
from trainer.gr00t.n17.positions import Positions
from trainer.gr00t.n17.processor import IMAGE_SETTINGS, ImageSettings, QwenProcessor
from trainer.gr00t.n17.sections import OFFICIAL_3B
from trainer.gr00t.n17.tiny import make_tiny_base_model as make_tiny_n17
from trainer.gr00t.n17.tiny import tiny_config as tiny_config_n17
from trainer.gr00t.weights import save_checkpoint

Collate = Callable[[Sequence[Any]], dict[str, Any]]
TAG = "new_embodiment"


class Made(NamedTuple):
    """A model on the device, its collator and processor, and a dataset with its frames."""

    model: Any
    collate: Collate
    finish_images: Callable[[dict[str, Any]], dict[str, Any]]
    """What the training does with a batch that has arrived on the device."""
    processor: Any
    dataset: Any


class Parts(Protocol):
    """The parts of one prediction of actions, in the dtypes of a served policy. Called under ``inference_mode``."""

    steps: int
    """Of denoising."""

    def features(self) -> Any:
        """What the backbone sees."""
        ...

    def denoise(self) -> Any:
        """One step of the flow."""
        ...

    def whole(self) -> Any:
        """A chunk of actions."""
        ...


class Subject(Protocol):
    """A generation in the drill."""

    generation: Generation
    preset: str
    """Of the whole run."""
    whole_flags: Mapping[str, object]
    """Of the whole run: batches of one sample, nothing reported to W&B."""
    engine_flags: Mapping[str, object]
    """What the preset says beside these, for the engine alone."""
    layers: frozenset[str]
    """Classes that are compiled by themselves."""

    def make(self, size: str, folder: Path, dataset: Path, device: torch.device) -> Made:
        """All of it; ``size`` is ``full`` or ``small``, ``folder`` is for files."""
        ...

    def config(self, batch: int, **shared: Any) -> FinetuneConfig:
        """The arguments of a training with batches of ``batch`` samples."""
        ...

    def shape(self, model: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens of a prompt, and images of a sample."""
        ...

    def flops(self, made: Made, tokens: int, images: int, tuned: Mapping[str, bool]) -> float:
        """Operations that a step has to do for one sample."""
        ...

    def waste(self, model: Any) -> Callable[[], None]:
        """Let it compute what only upstream's does; returns what undoes it."""
        ...

    def parts(self, made: Made, inputs: Mapping[str, Any]) -> Parts:
        """Of a prediction for ``inputs``, which are on the device."""
        ...

    def base_model(self, size: str, folder: Path, device: torch.device) -> Path:
        """A base model in ``folder``."""
        ...


class _N15:
    generation: Generation = N15
    preset: str = "overfit-demo"
    whole_flags: Mapping[str, object] = {"--batch-size": 1, "--report-to": "tensorboard"}
    engine_flags: Mapping[str, object] = {}
    layers: frozenset[str] = frozenset({"SiglipEncoderLayer", "Qwen3DecoderLayer", "Block"})

    def make(self, size: str, folder: Path, dataset: Path, device: torch.device) -> Made:
        tokenizer = Tokenizer.from_file(str(make_tiny_base_model(folder / "tiny") / "tokenizer.json"))
        data = TrainingDataset(
            [dataset], "fourier_gr1_arms_only", TAG, cache_dir=folder / "frames", on_gpu=device.type == "cuda"
        )
        data.prepare()
        write_metadata(folder / "experiment_cfg", data.metadata)
        torch.manual_seed(0)
        with device:
            model = GR00TN15(tiny_config(tokenizer) if size == "small" else official_config(tokenizer))
        processor = EagleProcessor(tokenizer, model.config.eagle)
        return Made(model, Collator(processor), finish_images, processor, data)

    def config(self, batch: int, **shared: Any) -> FinetuneConfig:
        return FinetuneConfig(batch_size=batch, **shared)

    def shape(self, model: GR00TN15, inputs: Mapping[str, Any]) -> tuple[int, int]:
        batch, tokens = inputs["eagle_input_ids"].shape
        return tokens, inputs["eagle_image_tokens"] // (batch * model.config.eagle.image_tokens)

    def flops(self, made: Made, tokens: int, images: int, tuned: Mapping[str, bool]) -> float:
        return flops.step_flops(made.model.config, tokens=tokens, images=images, **tuned)

    def waste(self, model: GR00TN15) -> Callable[[], None]:
        return upstream_way.compute_what_nobody_reads(model)

    def parts(self, made: Made, inputs: Mapping[str, Any]) -> Parts:
        return _PartsN15(made.model, inputs)

    def base_model(self, size: str, folder: Path, device: torch.device) -> Path:
        make_tiny_base_model(folder)
        if size == "full":
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            with device:
                model = GR00TN15(official_config(tokenizer))
            _replace_weights(model, folder)
            EagleProcessor(tokenizer, model.config.eagle).save_pretrained(folder)
        return folder


class _PartsN15:
    def __init__(self, model: GR00TN15, inputs: Mapping[str, Any]) -> None:
        self._inputs, self._backbone = inputs, model.backbone.eval()
        # A copy in bfloat16, as served: the trained head stays float32.
        self._head = head = copy.deepcopy(model.action_head).eval()
        if model.device.type == "cuda":
            head.to(torch.bfloat16)
        self.steps = head.num_inference_timesteps
        shape = (1, head.config.action_horizon, head.config.action_dim)
        self._noise = torch.randn(shape, device=model.device, dtype=head.dtype)
        self._state, self._ids = inputs["state"].to(head.dtype), inputs["embodiment_id"]
        self._context = head.context(self.features())
        self._encoded = head.state_encoder(self._state, self._ids)
        self._buckets = torch.zeros(1, dtype=torch.int64, device=model.device)

    def features(self) -> torch.Tensor:
        given = self._inputs
        return self._backbone(given["eagle_input_ids"], None, given["eagle_pixel_values"], given["eagle_image_tokens"])

    def denoise(self) -> torch.Tensor:
        return self._head.velocity(self._context, self._encoded, self._noise, self._buckets, self._ids)

    def whole(self) -> torch.Tensor:
        return self._head.get_action(self.features(), self._state, self._ids, self._noise, one_embodiment=True)


class _N17:
    generation: Generation = N17
    preset: str = "overfit-demo-n17"
    whole_flags: Mapping[str, object] = {"--global-batch-size": 1, "--no-use-wandb": None}
    engine_flags: Mapping[str, object] = {"--data-config": "gr1_arms_only"}
    layers: frozenset[str] = frozenset({"Qwen3VLVisionBlock", "Qwen3VLTextDecoderLayer", "Block"})

    def make(self, size: str, folder: Path, dataset: Path, device: torch.device) -> Made:
        tiny = make_tiny_n17(folder / "tiny")
        tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
        small = size == "small"
        settings = processor_files.read(tiny).settings if small else ProcessorSettings()
        data = TrainingDatasetN17([dataset], get_data_config("gr1_arms_only"), settings, PROJECTOR_INDEX[TAG])
        data.frames.prepare()
        (folder / "experiment_cfg").mkdir()
        torch.manual_seed(0)
        with device:
            model = Gr00tN1d7(tiny_config_n17(tokenizer) if small else official_config_n17(tokenizer))
        processor = QwenProcessor.from_directory(tiny) if small else QwenProcessor(tokenizer, model.config.checked)
        return Made(model, CollatorN17(processor), finish_images_n17, processor, data)

    def config(self, batch: int, **shared: Any) -> FinetuneConfig:
        return N17Config(global_batch_size=batch, data_config=get_data_config("gr1_arms_only"), **shared)

    def shape(self, model: Gr00tN1d7, inputs: Mapping[str, Any]) -> tuple[int, int]:  # noqa: ARG002 - as N1.5's
        batch, tokens = inputs["input_ids"].shape
        return tokens, len(inputs["image_grid_thw"]) // batch

    def flops(self, made: Made, tokens: int, images: int, tuned: Mapping[str, bool]) -> float:
        settings, config = made.processor.images, made.model.config.checked
        patches = settings.size["shortest_edge"] // settings.patch_size**2  # of a square image
        return flops_n17.step_flops(config, tokens=tokens, images=images, patches=patches, **tuned)

    def waste(self, model: Gr00tN1d7) -> Callable[[], None]:
        return upstream_way.compute_logits(model.backbone.qwen.language_model)

    def parts(self, made: Made, inputs: Mapping[str, Any]) -> Parts:
        return _PartsN17(made.model, inputs)

    def base_model(self, size: str, folder: Path, device: torch.device) -> Path:
        make_tiny_n17(folder)
        if size == "full":
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            with device:
                model = Gr00tN1d7(official_config_n17(tokenizer))
            model.to(torch.bfloat16)  # pyrefly: ignore[bad-argument-type]
            _replace_weights(model, folder)
            files = processor_files.read(folder)
            replace(files, settings=ProcessorSettings()).save(folder)
            (folder / IMAGE_SETTINGS).write_text(ImageSettings().model_dump_json())
        return folder


class _PartsN17:
    def __init__(self, model: Gr00tN1d7, inputs: Mapping[str, Any]) -> None:
        dtype = torch.bfloat16 if model.device.type == "cuda" else torch.float32
        served = copy.deepcopy(model).eval()
        served.to(dtype)  # pyrefly: ignore[bad-argument-type]
        served.backbone.reset_buffers()
        served.to(model.device)  # pyrefly: ignore[bad-argument-type]
        self._backbone, self._head = served.backbone, served.action_head
        self.steps = self._head.num_inference_timesteps
        floating = {name: each for name, each in inputs.items() if isinstance(each, torch.Tensor)}
        self._inputs = {name: each.to(dtype) if each.is_floating_point() else each for name, each in floating.items()}
        shape = (1, self._head.config.action_horizon, self._head.config.max_action_dim)
        self._noise = torch.randn(shape, device=model.device, dtype=dtype)
        self._ids, self._positions = inputs["embodiment_id"], Positions.of(inputs, model.device)
        self._context = self._attended()
        self._encoded = self._head.encode_state(self._inputs["state"], self._ids)
        self._buckets = torch.zeros(1, dtype=torch.int64, device=model.device)

    def features(self) -> torch.Tensor:
        given = self._inputs
        return self._backbone(given["input_ids"], None, given["pixel_values"], given["image_grid_thw"], self._positions)

    def _attended(self) -> Any:
        return self._head.context(self.features(), self._inputs["input_ids"] == self._backbone.image_token)

    def denoise(self) -> torch.Tensor:
        return self._head.velocity(self._context, self._encoded, self._noise, self._buckets, self._ids)

    def whole(self) -> torch.Tensor:
        state = self._inputs["state"]
        return self._head.get_action(self._attended(), state, self._ids, self._noise, one_embodiment=True)


SUBJECTS: Mapping[str, Subject] = {subject.generation.name: subject for subject in (_N15(), _N17())}
"""By the name of the generation."""


def official_config(tokenizer: Tokenizer) -> GR00TN15Config:
    """N1.5's own, but for the image token, which is that of ``tokenizer``."""
    official = GR00TN15Config()
    image_token = tokenizer.token_to_id(IMAGE_TOKEN)
    return GR00TN15Config(eagle_config={**(official.eagle_config or {}), "image_token_index": image_token})


def official_config_n17(tokenizer: Tokenizer) -> Gr00tN1d7Config:
    """N1.7's own, but for the ids of the image's tokens, which are those of ``tokenizer``."""
    values, own = OFFICIAL_3B.model_dump(), tiny_config_n17(tokenizer).checked.qwen3_vl_config
    for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id"):
        values["qwen3_vl_config"][name] = getattr(own, name)
    del values["diffusion_model_cfg"]["cross_attention_dim"]
    return Gr00tN1d7Config.from_dict(values)


def _replace_weights(model: Any, folder: Path) -> None:
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    model.set_trainable(False, False, True, True)
    save_checkpoint(model, folder)
