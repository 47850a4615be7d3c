"""Base models of ``bench.n17``, in the form that both we and upstream read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from trainer.data.data_config import DataConfig
from trainer.data.n17 import processor_files
from trainer.data.n17.dataset import TrainingDataset
from trainer.data.n17.settings import ProcessorSettings
from trainer.gr00t.n17.config import Gr00tN1d7Config
from trainer.gr00t.n17.model import EMBEDDINGS, LM_HEAD, Gr00tN1d7
from trainer.gr00t.n17.processor import IMAGE_SETTINGS, ImageSettings
from trainer.gr00t.n17.sections import OFFICIAL_QWEN
from trainer.gr00t.n17.tiny import make_tiny_base_model
from trainer.gr00t.weights import save_checkpoint

SMALL_TEXT = {
    "head_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
}
SMALL_VISION = {
    "deepstack_visual_indexes": [0],
    "depth": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_heads": 2,
    "out_hidden_size": 64,
}

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
"""What Qwen's chat template makes of the one case that GR00T uses."""


def make_base_model(folder: Path, *, small: bool) -> Path:
    """The ``tiny`` base model with the published model's images; ``small``: with its vocabulary, widths at the robot's
    side, dropout and horizon too, as ``bench.models.small_config`` is of N1.5.
    """
    make_tiny_base_model(folder)
    settings = {"shortest_image_edge": ProcessorSettings().shortest_image_edge}
    if small:
        own = json.loads((folder / "config.json").read_text())["qwen3_vl_config"]
        for weights in folder.glob("*.safetensors*"):
            weights.unlink()
        tokens = {name: own[name] for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id")}
        torch.manual_seed(0)
        model = Gr00tN1d7(small_config(tokens))
        model.set_trainable(False, False, True, True)
        save_checkpoint(model, folder)
        settings |= {"max_state_dim": 132, "max_action_dim": 132}
    files = processor_files.read(folder)
    replace(files, settings=files.settings.model_copy(update=settings)).save(folder)
    (folder / IMAGE_SETTINGS).write_text(ImageSettings().model_dump_json())
    return folder


def small_config(tokens: dict[str, int]) -> Gr00tN1d7Config:
    """Small sizes with the real vocabulary; ``tokens`` are the ids of those that mark images."""
    blocks = {"num_attention_heads": 2, "dropout": 0.2, "final_dropout": True}
    return Gr00tN1d7Config.from_dict(
        {
            "model_name": "small",
            "backbone_embedding_dim": 64,
            "select_layer": 2,
            "hidden_size": 40,
            "input_embedding_dim": 48,
            "state_dropout_prob": 0.2,
            "diffusion_model_cfg": {"num_layers": 4, "attention_head_dim": 24, "output_dim": 40, **blocks},
            "vl_self_attention_cfg": {"num_layers": 2, "attention_head_dim": 32, **blocks},
            "qwen3_vl_config": {
                "text_config": OFFICIAL_QWEN.text_config | SMALL_TEXT,
                "vision_config": OFFICIAL_QWEN.vision_config | SMALL_VISION,
                **tokens,
            },
        }
    )


def for_training(folder: Path, config: DataConfig, tag: str, data: TrainingDataset) -> None:
    """Let the base model in ``folder`` know ``tag``, as a checkpoint does."""
    processor_files.read(folder).trained_on(tag, config, data.statistics).save(folder)


def for_upstream(base_model: Path, folder: Path) -> Path:
    """``base_model`` as NVIDIA's are published: in one file, with the output matrix, and its backbone's sizes,
    tokenizer and image settings in a folder that stands for the repository of the backbone.
    """
    backbone = folder / "Qwen" / "Qwen3-VL-of-the-bench"  # upstream looks for the name
    copy = folder / "base-model"
    backbone.mkdir(parents=True)
    copy.mkdir()
    values: dict[str, Any] = json.loads((base_model / "config.json").read_text())
    qwen = values.pop("qwen3_vl_config")
    (copy / "config.json").write_text(json.dumps({**values, "model_name": str(backbone)}))
    weights = {name: tensor for file in base_model.glob("*.safetensors") for name, tensor in load_file(file).items()}
    save_file({**weights, LM_HEAD: weights[EMBEDDINGS].clone()}, copy / "model.safetensors", {"format": "pt"})
    processor = json.loads((base_model / processor_files.CONFIG).read_text())
    processor["processor_kwargs"]["model_name"] = str(backbone)
    (copy / processor_files.CONFIG).write_text(json.dumps(processor))
    for name in (processor_files.STATISTICS, processor_files.EMBODIMENTS):
        (copy / name).write_bytes((base_model / name).read_bytes())

    described = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl"}
    text = {**qwen["text_config"], "model_type": "qwen3_vl_text"}
    vision = {**qwen["vision_config"], "model_type": "qwen3_vl"}
    sizes = {**qwen, **described, "text_config": text, "vision_config": vision, "tie_word_embeddings": True}
    (backbone / "config.json").write_text(json.dumps(sizes))
    tokenizer = Tokenizer.from_file(str(base_model / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|video_pad|>", special=True, normalized=False)])
    tokenizer.save(str(backbone / "tokenizer.json"))
    token = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    (backbone / "tokenizer_config.json").write_text(json.dumps(token))
    (backbone / "chat_template.jinja").write_text(TEMPLATE)
    images = json.loads((base_model / IMAGE_SETTINGS).read_text())
    images |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor"}
    for name, kind in (
        (IMAGE_SETTINGS, {"image_processor_type": "Qwen2VLImageProcessorFast"}),
        ("video_preprocessor_config.json", {"video_processor_type": "Qwen3VLVideoProcessor"}),
    ):
        (backbone / name).write_text(json.dumps({**images, **kind}))
    return copy
