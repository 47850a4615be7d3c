"""The built-in presets of GR00T N1.7, each value with its reason.

``so101-n17`` and ``libero-n17`` are recipes of upstream's documentation (its guide to a new embodiment, and
``examples/LIBERO``, at commit 626af89). ``blog-n17`` and ``overfit-demo-n17`` train what ``blog`` and ``overfit-demo``
do with N1.7, ``smoke-n17`` proves the whole path on a CPU.
"""

from __future__ import annotations

from trainer.config.preset import Preset, Value
from trainer.generation import N17

_BASE = Value(N17.official, "NVIDIA's base model; open for commercial use, unlike N1.5's")
_NO = Value(False, "the pretrained features are good enough; frozen, they need no gradients or optimizer state")
_YES = Value(True, "where a new embodiment is learned")
_WANDB = Value(True, "the team compares runs there; recorded offline when there is no key")
_JITTER = Value(
    {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
    "as upstream's examples/finetune.sh sets it: another light is no surprise",
)
_PARTS = {"tune_llm": _NO, "tune_visual": _NO, "tune_projector": _YES, "tune_diffusion_model": _YES}
_RECIPE = {
    "base_model_path": _BASE,
    **_PARTS,
    "color_jitter_params": _JITTER,
    "learning_rate": Value(1e-4, "upstream's default for post-training"),
    "weight_decay": Value(1e-5, "light regularisation for a model that must generalise"),
    "use_wandb": _WANDB,
}
_SO101 = {
    **_RECIPE,
    "embodiment_tag": Value("new_embodiment", "no SO-101 is among the pretrained embodiments"),
    "data_config": Value("so100", "upstream's examples/SO100: joints relative to the state, the gripper absolute"),
    "output_dir": Value("so101-n17-checkpoints", "kept with the run"),
    "num_gpus": Value(1, "one GPU of 40 GB or more"),
}
_MEMORISE = {
    **_PARTS,
    "state_dropout_prob": Value(0.0, "regularisation works against memorising"),
    "weight_decay": Value(0.0, "regularisation works against memorising"),
}
_DEMO = "five short episodes ship with Isaac-GR00T up to N1.5"

N17_PRESETS: tuple[Preset, ...] = (
    Preset(
        name="so101-n17",
        summary="Upstream's quick start with N1.7: a SO-101 arm puts a cube into a bowl, 2,000 steps.",
        environment="uv",
        wandb_tags=("gr00t", "n1.7", "so101"),
        arguments={
            **_SO101,
            "dataset_path": Value(["cube_to_bowl_5"], "five demonstrations that ship with Isaac-GR00T N1.7"),
            "global_batch_size": Value(32, "as the guide says"),
            "dataloader_num_workers": Value(4, "as the guide says"),
            "warmup_ratio": Value(0.05, "100 steps for AdamW's moments to settle"),
            "save_steps": Value(500, "four checkpoints to choose from; the guide saves the last only"),
            "max_steps": Value(2000, "as the guide says: about 16 epochs of 4,073 usable steps"),
        },
    ),
    Preset(
        name="overfit-demo-n17",
        summary="Memorise the demo dataset with N1.7 in 200 steps: does the pipeline learn at all?",
        environment="uv",
        goal="memorise",
        wandb_tags=("gr00t-overfit", "n1.7", "demo-data", "pick-place"),
        arguments={
            **_MEMORISE,
            "base_model_path": _BASE,
            "dataset_path": Value(["robot_sim.PickNPlace"], _DEMO),
            "embodiment_tag": Value("new_embodiment", "N1.7 has no tag for a real GR1"),
            "data_config": Value("gr1_arms_only", "the dataset is a GR1 upper body with one camera"),
            "global_batch_size": Value(1, "overfitting needs no averaging"),
            "dataloader_num_workers": Value(4, "one small camera"),
            "learning_rate": Value(5e-4, "as overfit-demo: few steps must show a falling loss"),
            "warmup_ratio": Value(0.01, "two steps of 200"),
            "output_dir": Value("gr00t-checkpoints-overfit-demo-n17", "kept with the run"),
            "save_steps": Value(50, "four checkpoints of the way down"),
            "num_gpus": Value(1, "one GPU of 40 GB or more"),
            "use_wandb": _WANDB,
            "max_steps": Value(200, "minutes, not hours"),
        },
    ),
    Preset(
        name="blog-n17",
        summary="The official recipe's data with N1.7: SO-101 table cleanup with two cameras, 10,000 steps.",
        environment="uv",
        wandb_tags=("gr00t", "n1.7", "so101", "blog"),
        arguments={
            **_SO101,
            "dataset_path": Value(["youliangtan/so101-table-cleanup"], "80 demonstrations on a SO-101 arm"),
            "global_batch_size": Value(32, "as upstream's examples/finetune.sh sets it"),
            "dataloader_num_workers": Value(8, "two 480x640 AV1 videos are slow to decode"),
            "warmup_ratio": Value(0.05, "500 steps for AdamW's moments to settle"),
            "save_steps": Value(1000, "ten checkpoints to choose from"),
            "max_steps": Value(10_000, "as blog, about 7 epochs; policies twitch when trained for less"),
        },
    ),
    Preset(
        name="libero-n17",
        summary="One LIBERO suite (spatial) with N1.7 on eight GPUs; upstream reports 97.65 % success.",
        environment="uv",
        wandb_tags=("gr00t", "n1.7", "libero"),
        arguments={
            **_RECIPE,
            "dataset_path": Value(
                ["IPEC-COMMUNITY/libero_spatial_no_noops_1.0.0_lerobot"],
                "the suite of examples/LIBERO, whose modality.json belongs into its meta",
            ),
            "embodiment_tag": Value("libero_sim", "LIBERO_PANDA, which upstream registers a data config for"),
            "state_dropout_prob": Value(0.2, "as examples/LIBERO sets it"),
            "global_batch_size": Value(640, "as examples/LIBERO sets it: 80 on each GPU"),
            "dataloader_num_workers": Value(4, "as upstream's examples/finetune.sh sets it"),
            "warmup_ratio": Value(0.05, "1,000 steps for AdamW's moments to settle"),
            "output_dir": Value("libero-n17-checkpoints", "kept with the run"),
            "save_steps": Value(1000, "as upstream's examples/finetune.sh sets it"),
            "num_gpus": Value(8, "eight GPUs of 80 GB or more"),
            "max_steps": Value(20_000, "as examples/LIBERO sets it"),
        },
    ),
    Preset(
        name="smoke-n17",
        summary="The whole path with N1.7 on a CPU in a minute or two, with synthetic data and a tiny model.",
        environment="uv",
        goal="memorise",
        wandb_tags=("smoke", "n1.7"),
        arguments={
            **_MEMORISE,
            "base_model_path": Value(N17.tiny, "the same architecture in sizes a CPU can train"),
            "dataset_path": Value(["synthetic.PickNPlace"], "generated here: nothing to download"),
            "embodiment_tag": Value("new_embodiment", "the synthetic robot is no pretrained embodiment"),
            "data_config": Value("gr1_arms_only", "the synthetic robot has GR1's layout"),
            "global_batch_size": Value(8, "what a CPU does several times a second"),
            "dataloader_num_workers": Value(2, "one small camera, two cores"),
            "learning_rate": Value(1e-3, "a tiny model takes large steps"),
            "warmup_ratio": Value(0.01, "one step or two"),
            "output_dir": Value("gr00t-checkpoints-smoke-n17", "kept with the run"),
            "save_steps": Value(100, "four checkpoints, so that saving and uploading are exercised"),
            "num_gpus": Value(1, "or none: it trains on a CPU"),
            "use_wandb": Value(True, "recorded offline when there is no key"),
            "max_steps": Value(400, "a minute or two on two quiet cores; fewer don't teach the tiny model to follow"),
        },
    ),
)
