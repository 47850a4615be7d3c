"""The presets are the recipes the team compared; this table was typed from those, not from the code."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.config.finetune_config import OWN_FIELDS, FinetuneConfig, field_help
from trainer.config.presets import PRESETS, Preset, Value, get_preset
from trainer.errors import UsageError

RECIPES = {
    "blog": {
        "dataset_path": ["youliangtan/so101-table-cleanup"],
        "data_config": "so100_dualcam",
        "base_model_path": "nvidia/GR00T-N1.5-3B",
        "video_backend": "torchvision_av",
        "num_gpus": 1,
        "batch_size": 32,
        "max_steps": 10_000,
        "learning_rate": 1e-4,
        "weight_decay": 1e-5,
        "warmup_ratio": 0.05,
        "save_steps": 1000,
        "dataloader_num_workers": 8,
        "tune_llm": False,
        "tune_visual": False,
        "tune_projector": True,
        "tune_diffusion_model": True,
        "output_dir": "so101-checkpoints",
        "report_to": "wandb",
    },
    "overfit-demo": {
        "dataset_path": ["robot_sim.PickNPlace"],
        "data_config": "fourier_gr1_arms_only",
        "base_model_path": "nvidia/GR00T-N1.5-3B",
        "video_backend": "torchvision_av",
        "num_gpus": 1,
        "batch_size": 1,
        "max_steps": 200,
        "learning_rate": 5e-4,
        "weight_decay": 0.0,
        "warmup_ratio": 0.01,
        "save_steps": 50,
        "dataloader_num_workers": 4,
        "tune_llm": False,
        "tune_visual": False,
        "tune_projector": True,
        "tune_diffusion_model": True,
        "output_dir": "gr00t-checkpoints-overfit-demo",
        "report_to": "wandb",
    },
    "overfit-long": {
        "dataset_path": ["robot_sim.PickNPlace"],
        "data_config": "fourier_gr1_arms_only",
        "base_model_path": "nvidia/GR00T-N1.5-3B",
        "video_backend": "torchvision_av",
        "num_gpus": 1,
        "batch_size": 1,
        "max_steps": 2000,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "save_steps": 100,
        "dataloader_num_workers": 2,
        "tune_llm": True,
        "tune_visual": True,
        "tune_projector": True,
        "tune_diffusion_model": True,
        "output_dir": "gr00t-checkpoints-overfit-long",
        "report_to": "wandb",
    },
    "smoke": {
        "data_config": "fourier_gr1_arms_only",
        "base_model_path": "tiny",
        "video_backend": "torchvision_av",
        "num_gpus": 1,
        "batch_size": 8,
        "weight_decay": 0.0,
        "warmup_ratio": 0.01,
        "dataloader_num_workers": 2,
        "tune_llm": False,
        "tune_visual": False,
        "tune_projector": True,
        "tune_diffusion_model": True,
        "report_to": "wandb",
    },
}
MID_2025 = {
    "batch_size": 32,
    "learning_rate": 1e-4,
    "weight_decay": 1e-5,
    "warmup_ratio": 0.05,
    "save_steps": 1000,
    "dataloader_num_workers": 8,
    "tune_llm": False,
    "tune_visual": False,
    "tune_projector": True,
    "tune_diffusion_model": True,
}
# The fields of upstream's ArgsConfig, in its order (branch n1.5-release).
UPSTREAM_FIELDS = """dataset_path output_dir data_config batch_size max_steps num_gpus save_steps base_model_path
tune_llm tune_visual tune_projector tune_diffusion_model resume learning_rate weight_decay warmup_ratio lora_rank
lora_alpha
lora_dropout lora_full_model dataloader_num_workers gradient_accumulation_steps dataloader_prefetch_factor report_to
embodiment_tag video_backend balance_dataset_weights balance_trajectory_weights""".split()


LESSONS = {
    "overfit-best": ("overfit-demo", {"learning_rate": 1e-4, "batch_size": 1, "max_steps": 2000}),
    "overfit-batch8": ("overfit-demo", {"learning_rate": 5e-4, "batch_size": 8, "max_steps": 1000}),
    "low-vram": ("blog", {"tune_diffusion_model": False}),
    "lora": ("blog", {"lora_rank": 32, "lora_alpha": 64}),
}
"""What the team measured later: the recipe each starts from, and what it changes."""
LATER = ("output_dir", "save_steps")
"""What a lesson may change besides: where and how often it saves."""


def test_there_are_exactly_these_presets():
    assert list(PRESETS) == [*RECIPES, *LESSONS]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_changes_what_was_measured_and_nothing_else(name):
    recipe, changes = LESSONS[name]
    before, after = PRESETS[recipe].config.model_dump(), PRESETS[name].config.model_dump()
    assert {field: after[field] for field in changes} == changes
    assert {field for field in after if after[field] != before[field]} <= {*changes, *LATER}


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_is_its_recipe(name):
    config = PRESETS[name].config.model_dump()
    assert {field: config[field] for field in RECIPES[name]} == RECIPES[name]


def test_smoke_saves_four_times():
    config = PRESETS["smoke"].config
    assert config.max_steps / config.save_steps == 4


@pytest.mark.parametrize(
    ("name", "environment", "tags"),
    [
        ("blog", "conda", ["gr00t", "so101", "blog"]),
        ("overfit-demo", "uv", ["gr00t-overfit", "demo-data", "pick-place"]),
        ("overfit-long", "uv", ["gr00t-overfit", "demo-data", "pick-place", "long"]),
    ],
)
def test_environment_and_wandb_tags(name, environment, tags):
    assert PRESETS[name].environment == environment
    assert list(PRESETS[name].wandb_tags) == tags


def test_fields_are_upstreams_and_each_has_help():
    assert list(FinetuneConfig.model_fields) == [*UPSTREAM_FIELDS, *OWN_FIELDS]
    assert all(field_help().values())


def test_defaults_are_those_of_mid_2025():
    defaults = FinetuneConfig(dataset_path=["x"]).model_dump()
    assert {name: defaults[name] for name in MID_2025} == MID_2025


def test_every_value_of_a_preset_has_a_reason():
    missing = [(p.name, argument) for p in PRESETS.values() for argument in p.arguments if not p.reason(argument)]
    assert not missing


def test_a_preset_can_not_set_what_does_not_exist():
    with pytest.raises(ValidationError):
        _ = Preset("x", "", "uv", {"dataset_path": Value(["d"], "r"), "batchsize": Value(1, "r")}).config


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError) as raised:
        get_preset("overfit-dmeo")
    assert "Did you mean `overfit-demo`?" in str(raised.value)
