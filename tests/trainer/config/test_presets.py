"""The presets are the recipes the team compared; this table was typed from those, not from the code."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.config.finetune_config import OWN_FIELDS, FinetuneConfig
from trainer.config.n17_config import N17_OWN_FIELDS, UPSTREAM_ORDER, N17Config
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
N17_RECIPES = {
    "so101-n17": {
        "base_model_path": "nvidia/GR00T-N1.7-3B",
        "dataset_path": ["cube_to_bowl_5"],
        "embodiment_tag": "new_embodiment",
        "global_batch_size": 32,
        "dataloader_num_workers": 4,
        "max_steps": 2000,
        "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
    },
    "overfit-demo-n17": {"dataset_path": ["robot_sim.PickNPlace"], "global_batch_size": 1, "max_steps": 200},
    "blog-n17": {"dataset_path": ["youliangtan/so101-table-cleanup"], "global_batch_size": 32, "max_steps": 10_000},
    "libero-n17": {
        "embodiment_tag": "libero_sim",
        "global_batch_size": 640,
        "num_gpus": 8,
        "max_steps": 20_000,
        "state_dropout_prob": 0.2,
    },
    "smoke-n17": {
        "base_model_path": "tiny-n17",
        "dataset_path": ["synthetic.PickNPlace"],
        "global_batch_size": 8,
        "max_steps": 400,
        "save_steps": 100,
    },
}
"""Upstream's guide, its LIBERO example, and what N1.5's presets do, with N1.7."""
# The fields of upstream's FinetuneConfig (gr00t/configs/finetune_config.py, 626af89), with their defaults.
N17_DEFAULTS = {
    "modality_config_path": None,
    "tune_llm": False,
    "tune_visual": False,
    "tune_projector": True,
    "tune_diffusion_model": True,
    "state_dropout_prob": 0.2,
    "random_rotation_angle": None,
    "color_jitter_params": None,
    "extra_augmentation_config": None,
    "global_batch_size": 64,
    "dataloader_num_workers": 2,
    "learning_rate": 1e-4,
    "gradient_accumulation_steps": 1,
    "output_dir": "./outputs",
    "experiment_name": None,
    "save_steps": 1000,
    "save_total_limit": 5,
    "num_gpus": 1,
    "use_wandb": False,
    "max_steps": 10_000,
    "weight_decay": 1e-5,
    "warmup_ratio": 0.05,
    "shard_size": 1024,
    "episode_sampling_rate": 0.1,
    "num_shards_per_epoch": 100_000,
    "save_only_model": False,
    "skip_weight_loading": False,
}
LATER = ("output_dir", "save_steps")
"""What a lesson may change besides: where and how often it saves."""


def test_there_are_exactly_these_presets():
    assert list(PRESETS) == [*RECIPES, *LESSONS, *N17_RECIPES]


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


@pytest.mark.parametrize("name", N17_RECIPES)
def test_a_preset_of_n17_is_its_recipe(name):
    config = PRESETS[name].config
    assert isinstance(config, N17Config) and config.batch_size == config.global_batch_size // config.num_gpus
    assert {field: getattr(config, field) for field in N17_RECIPES[name]} == N17_RECIPES[name]


@pytest.mark.parametrize("name", ["smoke", "smoke-n17"])
def test_smoke_saves_four_times(name):
    config = PRESETS[name].config
    assert config.max_steps / config.save_steps == 4


def test_the_arguments_of_n17_are_upstreams_with_its_defaults():
    config = N17Config(dataset_path=["x"])
    assert {name: getattr(config, name) for name in N17_DEFAULTS} == N17_DEFAULTS
    required = {"base_model_path", "dataset_path", "embodiment_tag"}
    # W&B's project is WANDB_PROJECT's unless it is named.
    assert set(UPSTREAM_ORDER) == {*N17_DEFAULTS, *required, "wandb_project"}
    assert set(N17Config.fields()) == {*UPSTREAM_ORDER, *N17_OWN_FIELDS}
    for kind in (FinetuneConfig, N17Config):
        assert sorted(name for names in kind.groups.values() for name in names) == sorted(kind.fields())
        assert all(field.description for field in kind.fields().values())


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
    assert all(field.description for field in FinetuneConfig.fields().values())


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
