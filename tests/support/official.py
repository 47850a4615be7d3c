"""A small repository that looks like nvidia/GR00T-N1.5-3B, and one like that of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from trainer.gr00t.n15.model import EMBEDDINGS, GR00TN15, LM_HEAD
from trainer.gr00t.n15.processor import SPECIAL_TOKENS

State = dict[str, torch.Tensor]
MODEL, TOKENIZER = "models/nvidia/GR00T-N1.5-3B", "models/lerobot/eagle2hg-processor-groot-n1p5"


def official_config(tiny: Path) -> dict[str, Any]:
    """The fields of NVIDIA's ``config.json`` (reference, 7.1) with tiny's sizes, which need an ``eagle_config``."""
    small = json.loads((tiny / "config.json").read_text())
    head, backbone = small["action_head_cfg"], small["backbone_cfg"]
    # Not in NVIDIA's file: upstream's code has them as defaults, and tiny needs one of them.
    head = {key: value for key, value in head.items() if key != "max_num_embodiments"}
    return {
        "architectures": ["GR00T_N1_5"],
        "model_type": "gr00t_n1_5",
        "action_dim": 32,
        "action_horizon": 16,
        "hidden_size": small["hidden_size"],
        "model_dtype": "float32",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "attn_implementation": None,
        "backbone_cfg": {**backbone, "use_flash_attention": True},
        "action_head_cfg": head,
        "eagle_config": {**small["eagle_config"], "torch_dtype": "bfloat16"},
    }


def official_state(tiny: Path, change: Callable[[State], object] = lambda _: None) -> State:
    """Tiny's weights in NVIDIA's dtypes: the backbone in bfloat16, the action head in float32, ``lm_head`` tied."""
    state = {
        name: tensor.to(torch.bfloat16 if name.startswith("backbone.") else torch.float32)
        for name, tensor in GR00TN15.from_pretrained(tiny).state_dict().items()
    }
    state[LM_HEAD] = state[EMBEDDINGS].clone()
    change(state)
    return state


def official_files(tiny: Path, change: Callable[[State], object] = lambda _: None) -> dict[str, bytes]:
    """Path and content of every file of the repository: three shards, their index, no tokenizer."""
    state = official_state(tiny, change)
    names = sorted(state)
    shards = [names[part::3] for part in range(3)]
    files = {"config.json": json.dumps(official_config(tiny)).encode(), "README.md": b"# GR00T N1.5", "LICENSE": b""}
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-00003.safetensors"
        files[file] = save({name: state[name].contiguous() for name in shard}, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    # With NVIDIA's own statistics, which the native engine must not take for a dataset's.
    files["experiment_cfg/metadata.json"] = b"{}"
    return files


def tokenizer_files(tiny: Path) -> dict[str, bytes]:
    """Tiny's tokenizer in the older form that upstream's package and LeRobot's repository have: no tokenizer.json."""
    document = json.loads((tiny / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"]]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(number): {"content": token, **flags} for token, number in ids.items()},
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 16384,
    }
    return {
        "vocab.json": json.dumps(document["model"]["vocab"]).encode(),
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        "added_tokens.json": json.dumps(ids).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "special_tokens_map.json": json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}).encode(),
        "config.json": b'{"model_type": "eagle_2_5_vl"}',
        "processing_eagle2_5_vl.py": b"raise SystemExit('never run')",
    }
