"""The speed of an earlier run is told of one that trains the same way, and of no other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec
from trainer.runner.measured_speed import measured_speed

CONFIG = FinetuneConfig(dataset_path=["any"], batch_size=4, gradient_accumulation_steps=2)


def left(home: Path, number: int, speeds: list[float], **changes: Any) -> str:
    """A run that went on so fast, in samples per second, and when: the higher its number the later."""
    run_id = f"blog-20261201-10000{number}-abcd"
    folder = home / "runs" / run_id
    folder.mkdir(parents=True)
    ref = SnapshotRef(kind="dataset", name="any", digest="0" * 64)
    spec = RunSpec(
        run_id=run_id,
        preset="blog",
        config=CONFIG.model_copy(update=changes),
        provenance={},
        datasets=[ref],
        base_model=ref.model_copy(update={"kind": "model"}),
        wandb=WandbSpec(entity="", project="", name="", run_id="", group=""),
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    os.utime(folder / "spec.json", (number, number))
    lines = ['{"event":"phase","phase":"train"}', "noise", '{"event":"progress","step":1,"of":9}']
    lines += [
        json.dumps({"event": "progress", "step": step, "of": 9, "samples_per_second": speed})
        for step, speed in enumerate(speeds, start=2)
    ]
    (folder / "events.jsonl").write_text("\n".join(lines) + '\n{"event":"prog')
    return run_id


def test_the_newest_run_of_the_same_shape_tells(tmp_path: Path) -> None:
    left(tmp_path, 1, [80.0] * 5)
    newest = left(tmp_path, 2, [1.0, 40.0, 40.0, 41.0, 39.0], max_steps=77, learning_rate=0.1, output_dir="else")
    left(tmp_path, 3, [40.0] * 5, batch_size=8)
    left(tmp_path, 4, [40.0] * 5, tune_llm=True)
    left(tmp_path, 5, [40.0] * 4)  # it had hardly begun
    found = measured_speed(tmp_path, CONFIG, "native")
    assert found is not None and found.run_id == newest
    assert found.seconds_per_step == pytest.approx(8 / 40)
    assert measured_speed(tmp_path, CONFIG, "isaac-uv") is None


def test_what_is_damaged_or_not_there_tells_nothing(tmp_path: Path) -> None:
    assert measured_speed(tmp_path, CONFIG, "native") is None
    run_id = left(tmp_path, 1, [40.0] * 5)
    (tmp_path / "runs" / run_id / "events.jsonl").unlink()
    left(tmp_path, 2, [40.0] * 5)
    (tmp_path / "runs/blog-20261201-100002-abcd/spec.json").write_text("{")
    assert measured_speed(tmp_path, CONFIG, "native") is None
