"""The presets: named, complete sets of fine-tuning arguments, declared once, with the reason beside each value.

``blog`` is the official recipe (Hugging Face blog, "Post-training Isaac GR00T N1.5 for LeRobot SO-101");
``overfit-demo`` and ``overfit-long`` are the team's own scripts; ``smoke`` proves the whole path on a CPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

from trainer.config.finetune_config import FinetuneConfig
from trainer.errors import UsageError

Goal: TypeAlias = Literal["generalise", "memorise"]
"""What a training is for: a policy that acts where it never was, or one that has its demonstrations by heart."""


class Value(NamedTuple):
    """The value a preset gives an argument, and why."""

    value: object
    reason: str


@dataclass(frozen=True)
class Preset:
    """A named set of arguments. Arguments it does not name keep the defaults of ``FinetuneConfig``."""

    name: str
    summary: str
    environment: Literal["uv", "conda"]
    """How upstream's recipe installs Isaac-GR00T; decides which ``isaac`` image is its own."""
    arguments: Mapping[str, Value]
    wandb_tags: tuple[str, ...] = field(default=())
    goal: Goal = "generalise"

    @cached_property
    def config(self) -> FinetuneConfig:
        """The preset as a complete configuration."""
        return FinetuneConfig.model_validate(self.values)

    @property
    def values(self) -> dict[str, object]:
        """What it sets, by argument."""
        return {name: argument.value for name, argument in self.arguments.items()}

    def reason(self, argument: str) -> str:
        """Why the preset sets ``argument``; empty where it keeps the default."""
        return self.arguments[argument].reason if argument in self.arguments else ""


_PYAV = Value("torchvision_av", "decodes AV1 as well as h264; decord, the default of the time, can't read AV1")
_NO = Value(False, "the pretrained features are good enough; frozen, they need no gradients or optimizer state")
_YES = Value(True, "where a new embodiment is learned")

PRESETS: dict[str, Preset] = {
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


def get_preset(name: str) -> Preset:
    """The preset called ``name``. Raises ``UsageError`` that suggests the nearest name."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    guess = f"Did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"There is no preset called {name!r}.", f"{guess}The presets are {', '.join(PRESETS)}.")


def goal_of(name: str) -> Goal:
    """What the preset called ``name`` is for; one that there is no more, to generalise."""
    return PRESETS[name].goal if name in PRESETS else "generalise"
