"""The built-in presets: named, complete sets of fine-tuning arguments, each value with its reason.

``blog`` is the official recipe (Hugging Face blog, "Post-training Isaac GR00T N1.5 for LeRobot SO-101"), ``low-vram``
and ``lora`` are that on a card of 24 GB; ``overfit-demo`` and ``overfit-long`` are the team's own scripts,
``overfit-best`` and ``overfit-batch8`` what it measured to be better; ``smoke`` proves the whole path on a CPU.
``trainer.config.n17_presets`` has those of N1.7.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

from trainer.config.n17_presets import N17_PRESETS
from trainer.config.preset import Goal, Preset, Value
from trainer.config.preset_files import presets_file, read_presets
from trainer.errors import UsageError

__all__ = ["DEFAULT", "PRESETS", "Goal", "Preset", "Value", "all_presets", "get_preset", "goal_of"]


_PYAV = Value("torchvision_av", "decodes AV1 as well as h264; decord, the default of the time, can't read AV1")
_NO = Value(False, "the pretrained features are good enough; frozen, they need no gradients or optimizer state")
_YES = Value(True, "where a new embodiment is learned")

_RECIPES: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="blog",
            summary="The official recipe: SO-101 table cleanup with two cameras, 10,000 steps.",
            environment="conda",
            wandb_tags=("gr00t", "so101", "blog"),
            arguments={
                "dataset_path": Value(["youliangtan/so101-table-cleanup"], "80 demonstrations on a SO-101 arm"),
                "output_dir": Value("so101-checkpoints", "as the blog names it"),
                "data_config": Value("so100_dualcam", "a 6-joint arm seen by a front and a wrist camera"),
                "video_backend": _PYAV,
                "num_gpus": Value(1, "one GPU of 32 GB or more"),
                "batch_size": Value(32, "about 29 GB of GPU memory"),
                "max_steps": Value(10_000, "about 6.7 epochs; policies twitch when trained for less"),
                "learning_rate": Value(1e-4, "upstream's default for post-training"),
                "weight_decay": Value(1e-5, "light regularisation for a model that must generalise"),
                "warmup_ratio": Value(0.05, "500 steps for AdamW's moments to settle"),
                "save_steps": Value(1000, "ten checkpoints to choose from"),
                "dataloader_num_workers": Value(8, "two 480x640 AV1 videos are slow to decode"),
                "tune_llm": _NO,
                "tune_visual": _NO,
                "tune_projector": _YES,
                "tune_diffusion_model": _YES,
                "report_to": Value("wandb", "the team compares runs there"),
            },
        ),
        Preset(
            name="overfit-demo",
            summary="Memorise the demo dataset in 200 steps: does the pipeline learn at all?",
            environment="uv",
            goal="memorise",
            wandb_tags=("gr00t-overfit", "demo-data", "pick-place"),
            arguments={
                "dataset_path": Value(["robot_sim.PickNPlace"], "five short episodes ship with Isaac-GR00T"),
                "output_dir": Value("gr00t-checkpoints-overfit-demo", "as the script names it"),
                "data_config": Value("fourier_gr1_arms_only", "the dataset is a GR1 upper body with one camera"),
                "video_backend": _PYAV,
                "num_gpus": Value(1, "one GPU of 24 GB or more"),
                "batch_size": Value(1, "overfitting needs no averaging; about 21 GB of GPU memory"),
                "max_steps": Value(200, "minutes, not hours"),
                "learning_rate": Value(5e-4, "five times the recipe's: few steps must show a falling loss"),
                "weight_decay": Value(0.0, "regularisation works against memorising"),
                "warmup_ratio": Value(0.01, "two steps of 200"),
                "save_steps": Value(50, "four checkpoints of the way down"),
                "dataloader_num_workers": Value(4, "one small camera"),
                "tune_llm": _NO,
                "tune_visual": _NO,
                "tune_projector": _YES,
                "tune_diffusion_model": _YES,
                "report_to": Value("wandb", "the team compares runs there"),
            },
        ),
        Preset(
            name="overfit-long",
            summary="Overfit every component of the model on the demo dataset for 2,000 steps.",
            environment="uv",
            goal="memorise",
            wandb_tags=("gr00t-overfit", "demo-data", "pick-place", "long"),
            arguments={
                "dataset_path": Value(["robot_sim.PickNPlace"], "five short episodes ship with Isaac-GR00T"),
                "output_dir": Value("gr00t-checkpoints-overfit-long", "as the script names it"),
                "data_config": Value("fourier_gr1_arms_only", "the dataset is a GR1 upper body with one camera"),
                "video_backend": _PYAV,
                "num_gpus": Value(1, "one GPU of 32 GB or more, since every component is trained"),
                "batch_size": Value(1, "as the script sets it; about 29 GB of GPU memory, half of it optimizer state"),
                "max_steps": Value(2000, "long enough to see whether the loss reaches zero"),
                "learning_rate": Value(1e-3, "as the script sets it; known to be unstable when everything is tuned"),
                "weight_decay": Value(0.0, "regularisation works against memorising"),
                "warmup_ratio": Value(0.0, "as the script sets it: full rate from the first step"),
                "save_steps": Value(100, "twenty checkpoints: the instability shows between two"),
                "dataloader_num_workers": Value(2, "one small camera"),
                "tune_llm": Value(True, "all components are trained, to see the most the model can memorise"),
                "tune_visual": Value(True, "all components are trained, to see the most the model can memorise"),
                "tune_projector": _YES,
                "tune_diffusion_model": _YES,
                "report_to": Value("wandb", "the team compares runs there"),
            },
        ),
        Preset(
            name="smoke",
            summary="The whole path in about a minute on a CPU, with synthetic data and a tiny model.",
            environment="uv",
            goal="memorise",
            wandb_tags=("smoke",),
            arguments={
                "dataset_path": Value(["synthetic.PickNPlace"], "generated here: nothing to download"),
                "output_dir": Value("gr00t-checkpoints-smoke", "kept with the run"),
                "data_config": Value("fourier_gr1_arms_only", "the synthetic robot has GR1's layout"),
                "base_model_path": Value("tiny", "the same architecture in sizes a CPU can train"),
                "video_backend": _PYAV,
                "num_gpus": Value(1, "or none: it trains on a CPU"),
                "batch_size": Value(8, "what a CPU does several times a second"),
                "max_steps": Value(
                    400, "about a minute on two quiet cores; fewer don't teach the tiny model to follow"
                ),
                "learning_rate": Value(1e-3, "a tiny model takes large steps"),
                "weight_decay": Value(0.0, "regularisation works against memorising"),
                "warmup_ratio": Value(0.01, "one step or two"),
                "save_steps": Value(100, "four checkpoints, so that saving and uploading are exercised"),
                "dataloader_num_workers": Value(2, "one small camera, two cores"),
                "tune_llm": _NO,
                "tune_visual": _NO,
                "tune_projector": _YES,
                "tune_diffusion_model": _YES,
                "report_to": Value("wandb", "recorded offline when there is no key"),
            },
        ),
    )
}


def _changed(parent: str, name: str, summary: str, tags: tuple[str, ...], **arguments: Value) -> Preset:
    """The recipe ``parent`` with other values for ``arguments``."""
    recipe = _RECIPES[parent]
    return Preset(
        name, summary, recipe.environment, {**recipe.arguments, **arguments}, (*recipe.wandb_tags, *tags), recipe.goal
    )


_VARIANTS = (
    _changed(
        "overfit-demo",
        "overfit-best",
        "Memorise the demo dataset as well as the team has: 2,000 gentle steps, loss 0.0585.",
        ("best",),
        output_dir=Value("gr00t-checkpoints-overfit-best", "kept with the run"),
        learning_rate=Value(1e-4, "loss 0.0585 after 2,000 steps, where 5e-4 left 0.457 after 200"),
        max_steps=Value(2000, "the loss still fell at 200 and at 1,500"),
        warmup_ratio=Value(0.01, "twenty steps of 2,000"),
        save_steps=Value(500, "four checkpoints of the way down"),
    ),
    _changed(
        "overfit-demo",
        "overfit-batch8",
        "Memorise the demo dataset in 1,000 steps of eight samples: loss 0.0702.",
        ("batch8",),
        output_dir=Value("gr00t-checkpoints-overfit-batch8", "kept with the run"),
        batch_size=Value(8, "eight samples average out the noise that 5e-4 makes of one"),
        max_steps=Value(1000, "loss 0.0702: nearly overfit-best's in half the steps"),
        warmup_ratio=Value(0.01, "ten steps of 1,000"),
        save_steps=Value(250, "four checkpoints of the way down"),
    ),
    _changed(
        "blog",
        "low-vram",
        "The official recipe on a card of 24 GB: the diffusion transformer stays as pretrained.",
        ("low-vram",),
        output_dir=Value("so101-checkpoints-low-vram", "kept with the run"),
        num_gpus=Value(1, "one GPU of 24 GB or more"),
        batch_size=Value(32, "about 22 GB of GPU memory"),
        tune_diffusion_model=Value(False, "its gradients and optimizer state are what the card has no room for"),
    ),
    _changed(
        "blog",
        "lora",
        "The official recipe on a card of 24 GB: LoRA adapters in the action head.",
        ("lora",),
        output_dir=Value("so101-checkpoints-lora", "kept with the run"),
        num_gpus=Value(1, "one GPU of 24 GB or more"),
        batch_size=Value(32, "about 22 GB of GPU memory"),
        lora_rank=Value(32, "6.6 M parameters in the place of the action head's 1,069 M"),
        lora_alpha=Value(64, "twice the rank, as in upstream's examples"),
    ),
)

PRESETS: dict[str, Preset] = {**_RECIPES, **{preset.name: preset for preset in (*_VARIANTS, *N17_PRESETS)}}

DEFAULT = Preset("default", "Upstream's defaults; --dataset-path names the data.", "uv", {})
"""What `pippa train --dataset-path …` trains without a preset."""


def all_presets(environ: Mapping[str, str] = os.environ) -> dict[str, Preset]:
    """The built-in presets, and the user's own after them. Raises ``UsageError`` for a file that is wrong."""
    file = presets_file(environ)
    return PRESETS if file is None else {**PRESETS, **read_presets(file, PRESETS)}


def get_preset(name: str) -> Preset:
    """The preset called ``name``. Raises ``UsageError`` that suggests the nearest name."""
    if name in PRESETS:
        return PRESETS[name]
    if name == DEFAULT.name:
        return DEFAULT
    known = all_presets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"Did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"There is no preset called {name!r}.", f"{guess}The presets are {', '.join(known)}.")


def goal_of(name: str) -> Goal:
    """What the preset called ``name`` is for; one that there is no more, to generalise."""
    try:
        return get_preset(name).goal
    except UsageError:
        return "generalise"
