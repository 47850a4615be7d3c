"""What a training will need: what follows from the sizes, and who says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer import forecast as module
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS, Preset
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.synthetic import make_synthetic
from trainer.forecast import Frames, forecast, frame_bytes, kept_frames, model_of, room_for_checkpoints
from trainer.gr00t.n15.config import GR00TN15Config
from trainer.gr00t.n15.sections import Sections
from trainer.memory_advice import smallest_card

OFFICIAL = Sections.of({})


def config(**flags: Any) -> FinetuneConfig:
    """The defaults, but for ``flags``."""
    return FinetuneConfig.model_validate({"dataset_path": ["any"], "data_config": "so100_dualcam", **flags})


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with the official model's config.json, which is all that is read."""
    GR00TN15Config().to_json_file(tmp_path / "config.json", use_diff=False)
    return tmp_path


def test_the_official_models_checkpoints() -> None:
    disk = forecast(config(), OFFICIAL).disk
    # The tuned 1.07 B parameters in float32, their two moments, and the others in bfloat16.
    assert (disk.frozen / 1e9, disk.each / 1e9) == pytest.approx((2.69, 12.83), abs=0.01)
    assert disk.uploaded == disk.frozen + 10 * disk.changing
    assert forecast(config(tune_diffusion_model=False), OFFICIAL).disk.each < disk.each / 2


def test_isaac_writes_frozen_weights_into_every_checkpoint() -> None:
    ours, theirs = (forecast(config(), OFFICIAL, native=native).disk for native in (True, False))
    assert theirs.checkpoints - ours.checkpoints == 5 * ours.frozen
    assert theirs.uploaded == ours.uploaded  # the store keeps equal files once


def test_what_lies_there_already_is_not_counted_again(official: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "checkpoint-1").mkdir(parents=True)
    disk = forecast(config(), OFFICIAL).disk
    for saves, written in ((3, 3), (10, 6)):  # five are kept while the next is written
        given = config(max_steps=1000 * saves)
        assert room_for_checkpoints(official, given, out) == disk.frozen + written * disk.each
    (out / "checkpoint-1/frozen").write_bytes(bytes(100))
    (out / "checkpoint-2").mkdir()
    (out / "checkpoint-2/frozen").hardlink_to(out / "checkpoint-1/frozen")
    assert room_for_checkpoints(official, config(), out) == disk.checkpoints - 100
    assert room_for_checkpoints(tmp_path / "none", config(), out) == 0


def test_a_name_means_the_sizes_of_its_model(official: Path, tmp_path: Path) -> None:
    assert model_of("nvidia/GR00T-N1.5-3B") == model_of(str(official)) == OFFICIAL
    assert model_of("tiny") == model_of("tiny@abcdef012345") != OFFICIAL
    for content in (
        "{",
        "{}",
        '{"model_type": "gr00t_n1_6"}',
        "[]",
        '{"model_type": "gr00t_n1_5", "backbone_cfg": {"select_layer": 0}}',
    ):
        (official / "config.json").write_text(content)
        assert model_of(str(official)) is None, content
    assert model_of(str(tmp_path / "none")) is None


def test_frames_are_those_of_the_cameras_that_are_used(tmp_path: Path) -> None:
    folder = make_synthetic(tmp_path / "data")
    total = 256 * 256 * 3 * DatasetMeta.load(folder).total_frames
    usual = {"data_config": "fourier_gr1_arms_only"}
    assert frame_bytes(config(dataset_path=[str(folder)], **usual)) == (total, total // 2)
    assert frame_bytes(config(dataset_path=["synthetic.PickNPlace", str(folder)], **usual)) == (2 * total, total)
    assert frame_bytes(config(dataset_path=["somebody/else"])) is None
    shutil.rmtree(folder / "meta")
    assert frame_bytes(config(dataset_path=[str(folder)], **usual)) is None


def test_a_gpu_takes_half_of_rgb_and_a_cpu_all_there_is_room_for():
    frames = Frames(100, 50)
    for room, on_gpu, on_cpu in ((100, 50, 100), (99, 50, 99), (50, 50, 50), (20, 20, 20), (0, 0, 0)):
        assert (kept_frames(frames, room, on_gpu=True), kept_frames(frames, room, on_gpu=False)) == (on_gpu, on_cpu)


def test_images_in_tables_stay_rgb(tmp_path: Path) -> None:
    folder = make_synthetic(tmp_path / "data")
    pixels = 256 * 256 * DatasetMeta.load(folder).total_frames
    info = (folder / "meta/info.json").read_text()
    (folder / "meta/info.json").write_text(info.replace('"dtype": "video"', '"dtype": "image"'))
    images = frame_bytes(config(dataset_path=[str(folder)], data_config="fourier_gr1_arms_only"))
    assert images == (3 * pixels, 3 * pixels)


def test_the_demo_datasets_frames_are_known(demo_dataset: Path) -> None:
    usual = {"data_config": "fourier_gr1_arms_only"}
    named, real = (config(dataset_path=[name], **usual) for name in (demo_dataset.name, str(demo_dataset)))
    assert frame_bytes(named) == frame_bytes(real) == Frames(2096 * 256 * 256 * 3, 2096 * 256 * 256 * 3 // 2)


def test_fsdp_divides_the_model_and_not_the_activations() -> None:
    flags = {"num_gpus": 4, "tune_llm": True, "batch_size": 8}
    ddp, fsdp = forecast(config(**flags), OFFICIAL), forecast(config(**flags, fsdp=True), OFFICIAL)
    for kind in ("weights", "gradients", "moments"):
        assert getattr(fsdp.gpu, kind) == pytest.approx(getattr(ddp.gpu, kind) / 4, abs=4)
    assert fsdp.gpu.activations == ddp.gpu.activations and fsdp.gpu.buckets < ddp.gpu.buckets
    assert fsdp.disk == ddp.disk and fsdp.model == ddp.gpu.weights
    assert forecast(config(**flags, num_nodes=2, fsdp=True), OFFICIAL).gpu.total < fsdp.gpu.total


def test_accumulation_keeps_the_gradients_and_several_gpus_exchange_them() -> None:
    one, more, two = (
        forecast(config(**flags), OFFICIAL).gpu for flags in ({}, {"gradient_accumulation_steps": 2}, {"num_gpus": 2})
    )
    assert more.total - one.total == one.gradients + one.activations - one.together
    assert two.total - one.total == one.gradients


def test_a_measured_peak_corrects_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = forecast(config(), OFFICIAL).gpu
    monkeypatch.setattr(module, "MEASURED", 1.1)
    assert memory.total == pytest.approx(1.1 * memory.tensors + memory.fixed)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_the_presets_reasons_agree_with_the_forecast(preset: Preset) -> None:
    model = model_of(preset.config.base_model_path)
    assert model is not None
    total = forecast(preset.config, model).gpu.total
    reasons = " ".join(argument.reason for argument in preset.arguments.values())
    for figure, what in re.findall(r"(\d+) GB (or more|of GPU memory)", reasons):
        assert int(figure) == (smallest_card(total) if what == "or more" else round(total / 1e9))
    assert len(re.findall(r"\bGB\b", reasons)) == len(re.findall(r"\d GB (?:or more|of GPU memory)", reasons))
