"""The three recipes' command lines, as their scripts and the blog have them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flows.cli import dispatch
from flows.views.dry_run import print_plan, upstream_command_text
from trainer.config.argv import resolve
from trainer.errors import UsageError

BLOG = """\
# pinned, since upstream's default has moved: --save-steps 1000 (now 3000), --dataloader-num-workers 8 (now 12)
python scripts/gr00t_finetune.py \\
  --dataset-path ./demo_data/so101-table-cleanup \\
  --output-dir so101-checkpoints \\
  --data-config so100_dualcam \\
  --batch-size 32 \\
  --max-steps 10000 \\
  --num-gpus 1 \\
  --no-tune-llm \\
  --no-tune-visual \\
  --tune-projector \\
  --tune-diffusion-model \\
  --learning-rate 0.0001 \\
  --weight-decay 1e-05 \\
  --warmup-ratio 0.05 \\
  --report-to wandb \\
  --video-backend torchvision_av \\
  --save-steps 1000 \\
  --dataloader-num-workers 8"""
DEMO = """\
python scripts/gr00t_finetune.py \\
  --dataset-path ./demo_data/robot_sim.PickNPlace \\
  --output-dir gr00t-checkpoints-overfit-demo \\
  --data-config fourier_gr1_arms_only \\
  --batch-size 1 \\
  --max-steps 200 \\
  --num-gpus 1 \\
  --save-steps 50 \\
  --no-tune-llm \\
  --no-tune-visual \\
  --tune-projector \\
  --tune-diffusion-model \\
  --learning-rate 0.0005 \\
  --weight-decay 0.0 \\
  --warmup-ratio 0.01 \\
  --dataloader-num-workers 4 \\
  --report-to wandb \\
  --video-backend torchvision_av"""
LONG = (
    DEMO.replace("overfit-demo", "overfit-long")
    .replace("--max-steps 200", "--max-steps 2000")
    .replace("--save-steps 50", "--save-steps 100")
    .replace("--no-tune-llm", "--tune-llm")
    .replace("--no-tune-visual", "--tune-visual")
    .replace("0.0005", "0.001")
    .replace("--warmup-ratio 0.01", "--warmup-ratio 0.0")
    .replace("--dataloader-num-workers 4", "--dataloader-num-workers 2")
)


@pytest.mark.parametrize(("preset", "command"), [("blog", BLOG), ("overfit-demo", DEMO), ("overfit-long", LONG)])
def test_the_recipes_commands(preset, command):
    _, config, provenance = resolve(preset, [])
    assert upstream_command_text(config, provenance) == command


def test_flags_are_added_and_defaults_that_moved_are_pinned():
    flags = ["--dataset-path", "./mine", "--lora-rank", "8", "--video-backend", "decord", "--save-steps", "3000"]
    _, config, provenance = resolve("blog", flags)
    comment, *lines = upstream_command_text(config, provenance).splitlines()
    assert "--video-backend decord (now torchcodec)" in comment and "save-steps" not in comment
    assert "  --dataset-path ./mine \\" in lines and "  --lora-rank 8 \\" in lines and "  --save-steps 3000 \\" in lines


def test_a_model_upstream_cant_load_is_named():
    _, config, provenance = resolve("blog", ["--base-model-path", "tiny"])
    assert upstream_command_text(config, provenance).startswith("# --base-model-path tiny is pippa's own")


@pytest.mark.parametrize("engine", ["isaac-uv", "isaac-conda"])
def test_the_plan_of_upstreams_engine(engine):
    printed = io.StringIO()
    preset, config, provenance = resolve("blog", [])
    print_plan(Console(file=printed, width=200), preset, config, provenance, "docker", engine, None, {})
    assert BLOG in printed.getvalue() and engine in printed.getvalue()


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_what_the_engine_cant_do_is_refused_before_anything_starts(tmp_path, monkeypatch, dry_run):
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="prefetch factor"):
        dispatch(["train", "blog", "--engine", "isaac-uv", "--dataloader-num-workers", "0", *dry_run])
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_an_engine_that_is_not_here_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys, dry_run):
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PIPPA_FINETUNE_COMMAND", raising=False)
    with pytest.raises(UsageError, match="PIPPA_FINETUNE_COMMAND") as refused:
        dispatch(["train", "blog", "--engine", "isaac-uv", *dry_run])
    assert "--launcher docker" in refused.value.hint
    # As a setting it would else be pippa's own engine that trains, under the other's name.
    monkeypatch.setenv("PIPPA_ENGINE", "isaac-uv")
    with pytest.raises(UsageError, match="isaac-uv is not here"):
        dispatch(["train", "blog", *dry_run])
    with pytest.raises(UsageError, match="a run of the engine native"):
        dispatch(["train", "blog", "--engine", "native", *dry_run])
    assert not (tmp_path / "home").exists()

    assert dispatch(["train", "blog", "--launcher", "docker", "--dry-run"]) == 0
    monkeypatch.setenv("PIPPA_FINETUNE_COMMAND", "python scripts/gr00t_finetune.py")
    assert dispatch(["train", "blog", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("in a checkout of Isaac-GR00T") == 2
