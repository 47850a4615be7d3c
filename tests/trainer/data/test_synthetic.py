"""The synthetic dataset: its format, its determinism, and that the picture is needed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.data.checks import check_dataset
from trainer.data.configs import get_data_config
from trainer.data.dataset import DatasetReader
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.statistics import compute_statistics, load_statistics, needed_columns
from trainer.data.synthetic import make_synthetic
from trainer.errors import UsageError


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


def test_it_passes_the_checks_and_fits_the_demos_data_configs(synthetic: Path) -> None:
    assert check_dataset(synthetic, "fourier_gr1_arms_only").problems == []
    assert check_dataset(synthetic, "fourier_gr1_arms_waist").problems == []


def test_the_format_is_the_demo_datasets(synthetic: Path, demo_dataset: Path) -> None:
    import pyarrow.parquet as pq

    ours, theirs = DatasetMeta.load(synthetic), DatasetMeta.load(demo_dataset)
    assert ours.modality == theirs.modality
    assert (ours.info.data_path, ours.info.video_path) == (theirs.info.data_path, theirs.info.video_path)
    cameras = [name for name, feature in ours.info.features.items() if feature["dtype"] == "video"]
    assert [ours.info.camera(name) for name in cameras] == [theirs.info.camera(name) for name in cameras]
    schemas = [pq.read_schema(meta.parquet_path(0)) for meta in (ours, theirs)]
    types = [{field.name: str(field.type).replace("item", "element") for field in schema} for schema in schemas]
    assert types[0] == types[1]
    assert sorted(json.loads((synthetic / "meta/stats.json").read_text())) == sorted(
        json.loads((demo_dataset / "meta/stats.json").read_text())
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(synthetic: Path, tmp_path: Path) -> None:
    assert digest(make_synthetic(tmp_path / "again", episodes=3, seed=0)) == digest(synthetic)
    assert digest(make_synthetic(tmp_path / "other", episodes=3, seed=1)) != digest(synthetic)


def test_the_picture_is_needed(synthetic: Path) -> None:
    reader = DatasetReader(synthetic, get_data_config("fourier_gr1_arms_only"))
    steps = [reader.get_step_data(episode, 0) for episode in reader.trajectory_ids]
    state = [
        np.concatenate([value for key, value in step.items() if key.startswith("state.")], axis=1) for step in steps
    ]
    np.testing.assert_array_equal(state[0], state[1])
    np.testing.assert_array_equal(state[0], state[2])
    later = [step["action.right_arm"][-1] for step in steps]
    assert np.abs(later[0] - later[1]).max() > 0.05
    assert (np.abs(steps[0]["video.ego_view"].astype(int) - steps[1]["video.ego_view"]) > 60).any()


def test_motion_is_smooth_and_uses_both_arms_and_the_hand(synthetic: Path) -> None:
    table = DatasetReader(synthetic, get_data_config("fourier_gr1_arms_only")).table(0)
    for key in ("right_arm", "left_arm", "right_hand"):
        moves = table.state[f"state.{key}"]
        assert np.ptp(moves, axis=0).max() > 0.05, key
        assert np.abs(np.diff(moves, axis=0)).max() < 0.6, key
    np.testing.assert_allclose(table.action["action.right_arm"][:-1], table.state["state.right_arm"][1:])


def test_stats_json_is_what_computing_gives(synthetic: Path) -> None:
    meta = DatasetMeta.load(synthetic)
    assert load_statistics(meta) == compute_statistics(meta, needed_columns(meta))


def test_an_existing_folder_is_not_overwritten(synthetic: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        make_synthetic(synthetic)


def test_making_and_checking_need_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import trainer.data.checks, trainer.data.synthetic;"
        "assert not {'pyarrow', 'av', 'torch', 'matplotlib'} & set(sys.modules);"
        "path = trainer.data.synthetic.make_synthetic(Path(sys.argv[1]), episodes=1);"
        "assert trainer.data.checks.check_dataset(path, 'fourier_gr1_arms_only').problems == [];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "made")], check=True)
