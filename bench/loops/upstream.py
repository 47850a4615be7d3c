"""Upstream's training loop itself: the real Isaac-GR00T N1.5 code, in a separate environment, on the CPU.

Started by ``bench.step`` with that environment's Python (what upstream's pyproject.toml pins: torch 2.5.1, transformers
4.51.3, diffusers 0.30.2, accelerate 1.2.1, …). Nothing of pippa is imported here. Dataset, transforms, collator, model,
``TrainRunner`` and ``DualBrainTrainer`` are upstream's, put together as ``scripts/gr00t_finetune.py`` does. Changed,
because the code needs a GPU or what no package registry has:

- attention is SDPA instead of flash-attn; that package and pytorch3d (rotations, unused here) are empty modules;
- float32 on the CPU instead of bf16 autocast and tf32, no loader processes, no reporting;
- the backbone's sizes are those of the base model's config.json: upstream reads them from a file of its package.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from gate import Gate


def main() -> None:
    """Train until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True, help="has gr00t/; its eagle2_hg_model is changed")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--backend", default="torchcodec")
    given = parser.parse_args()
    import transformers

    gate = Gate(transformers.Trainer)
    use_sdpa(given.checkout, given.base_model)
    train(given, gate)


def use_sdpa(checkout: Path, base_model: Path) -> None:
    """Make ``gr00t`` importable without flash-attn, pytorch3d and a GPU, its backbone as large as ``base_model``'s."""
    import torch

    for name in ("flash_attn", "flash_attn.flash_attn_interface", "flash_attn.bert_padding", "pytorch3d.transforms"):
        for each in (name.split(".")[0], name):
            module = sys.modules.setdefault(each, types.ModuleType(each))
            module.__spec__ = module.__spec__ or ModuleSpec(each, None)
    for name in ("flash_attn_unpadded_qkvpacked_func", "flash_attn_varlen_qkvpacked_func"):
        setattr(sys.modules["flash_attn.flash_attn_interface"], name, None)
    for name in ("pad_input", "unpad_input"):
        setattr(sys.modules["flash_attn.bert_padding"], name, None)
    sys.modules["pytorch3d"].transforms = sys.modules["pytorch3d.transforms"]
    torch.cuda.get_device_capability = lambda *_: (8, 0)

    eagle = checkout / "gr00t/model/backbone/eagle2_hg_model"
    source = eagle / "modeling_eagle2_5_vl.py"
    source.write_text(source.read_text().replace('"flash_attention_2"', '"sdpa"'))
    config = json.loads((eagle / "config.json").read_text())
    ours = json.loads((base_model / "config.json").read_text())["eagle_config"]
    config["_attn_implementation"] = "sdpa"
    config["torch_dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        config[part].update(ours[part])
        config[part].update({"torch_dtype": "float32", "_attn_implementation": "sdpa"})
    (eagle / "config.json").write_text(json.dumps(config, indent=2))
    sys.path.insert(0, str(checkout))


def train(given: argparse.Namespace, gate: Gate) -> None:
    """What ``scripts/gr00t_finetune.py`` does with the flags of the preset ``overfit-demo``."""
    import pandas
    from gr00t.data.dataset import LeRobotSingleDataset
    from gr00t.data.schema import EmbodimentTag
    from gr00t.experiment.data_config import DATA_CONFIG_MAP
    from gr00t.experiment.runner import TrainRunner
    from gr00t.model.gr00t_n1 import GR00T_N1_5
    from transformers import TrainingArguments

    gate.imported()

    class Dataset(LeRobotSingleDataset):
        """Forks of the release read LeRobot v3; the look-ups of the release, which reads v2, for any of them."""

        def get_trajectory_data(self, trajectory_id: int) -> Any:
            chunk = trajectory_id // self._chunk_size
            name = self._data_path_pattern.format(episode_chunk=chunk, episode_index=trajectory_id)
            return pandas.read_parquet(self.dataset_path / name)

        def get_video_path(self, trajectory_id: int, key: str) -> Path:
            name = self._video_path_pattern.format(
                episode_chunk=trajectory_id // self._chunk_size,
                episode_index=trajectory_id,
                video_key=self.lerobot_modality_meta.video[key].original_key or key,
            )
            return self.dataset_path / name

    config = DATA_CONFIG_MAP["fourier_gr1_arms_only"]
    dataset = Dataset(
        dataset_path=given.dataset,
        modality_configs=config.modality_config(),
        transforms=config.transform(),
        embodiment_tag=EmbodimentTag("new_embodiment"),
        video_backend=given.backend,
    )
    model = GR00T_N1_5.from_pretrained(
        pretrained_model_name_or_path=str(given.base_model),
        tune_llm=False,
        tune_visual=False,
        tune_projector=True,
        tune_diffusion_model=True,
    )
    arguments = TrainingArguments(
        output_dir=str(given.output),
        remove_unused_columns=False,
        gradient_checkpointing=False,
        use_cpu=True,
        per_device_train_batch_size=given.batch,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        optim="adamw_torch",
        adam_beta1=0.95,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        learning_rate=5e-4,
        weight_decay=0.0,
        warmup_ratio=0.01,
        lr_scheduler_type="cosine",
        logging_steps=10.0,
        max_steps=10_000,
        save_strategy="no",
        seed=42,
        do_eval=False,
        report_to="none",
    )
    TrainRunner(train_dataset=dataset, model=model, training_args=arguments).train()


if __name__ == "__main__":
    main()
