"""Statistics and ``experiment_cfg/metadata.json``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta, Info
from trainer.data.metadata import build_metadata, read_metadata, write_metadata
from trainer.data.statistics import compute_statistics, load_statistics, statistics_of
from trainer.errors import DatasetError, UsageError


def test_recomputing_gives_the_shipped_statistics(demo_dataset: Path) -> None:
    meta = DatasetMeta.load(demo_dataset)
    shipped = load_statistics(meta)
    for column, computed in compute_statistics(meta, shipped).items():
        for name, values in computed.model_dump().items():
            # Sums in float32 depend on the order of the rows.
            np.testing.assert_allclose(values, getattr(shipped[column], name), atol=2e-5, err_msg=f"{column} {name}")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"action": {"mean": [1]}}', "NaN"])
def test_unusable_statistics_are_computed_and_nothing_is_written(
    synthetic: Path, tmp_path: Path, content: str | None
) -> None:
    path = Path(shutil.copytree(synthetic, tmp_path / "dataset"))
    expected = load_statistics(DatasetMeta.load(path))
    file = path / "meta/stats.json"
    file.unlink() if content is None else file.write_text(content)
    assert load_statistics(DatasetMeta.load(path)) == expected
    assert (file.read_text() if file.exists() else None) == content


def test_data_with_nan_has_no_statistics(synthetic: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(shutil.copytree(synthetic, tmp_path / "dataset"))
    (path / "meta/stats.json").unlink()
    file = path / "data/chunk-000/episode_000002.parquet"
    columns = pq.read_table(file).to_pydict()
    columns["action"][0][0] = float("nan")
    pq.write_table(pa.table(columns), file)
    with pytest.raises(DatasetError, match=r"episode_000002.*NaN"):
        load_statistics(DatasetMeta.load(path))


def test_metadata_goes_round_and_keeps_other_tags(synthetic: Path, tmp_path: Path) -> None:
    meta = DatasetMeta.load(synthetic)
    for tag in ("gr1", "new_embodiment"):
        file = write_metadata(tmp_path / "experiment_cfg", build_metadata(meta, tag))
    assert list(json.loads(file.read_text())) == ["gr1", "new_embodiment"]
    assert read_metadata(tmp_path / "experiment_cfg", "gr1") == build_metadata(meta, "gr1")
    with pytest.raises(UsageError, match="gr1, new_embodiment, not oxe_droid"):
        read_metadata(tmp_path / "experiment_cfg", "oxe_droid")
    with pytest.raises(UsageError, match="missing"):
        read_metadata(tmp_path, "gr1")


def test_upstreams_metadata_is_read(golden: Path, tmp_path: Path) -> None:
    document = json.loads((golden / "dataset_metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps({"gr1": {**document, "num_trajectories": 5}}))
    assert read_metadata(tmp_path, "gr1").model_dump(mode="json") == document


@pytest.mark.parametrize(
    "feature",
    [
        {"shape": [480, 640, 3], "names": ["height", "width", "channel"], "video_info": {"video.fps": 30.0}},
        {
            "shape": [480, 640, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": 30, "video.channels": 3},
        },
        {"shape": [3, 480, 640], "names": ["channels", "height", "width"], "info": None},
        {"shape": [480, 640, 3]},
    ],
)
def test_cameras_of_every_v2_dialect(feature: dict) -> None:
    info = Info(data_path="", video_path="", chunks_size=1000, features={"camera": feature}, fps=30)
    camera = info.camera("camera")
    assert (camera.resolution, camera.channels, camera.fps) == ((640, 480), 3, 30.0)


def test_statistics_of_many_rows_are_summed_in_float64() -> None:
    """In float32, as upstream sums them, the standard deviation of such a column is several percent off."""
    rows = (100 + np.random.default_rng(0).normal(size=(1_500_000, 2))).astype(np.float32)
    exact = rows.std(axis=0, dtype=np.float64)
    assert (np.abs(rows.std(axis=0) / exact - 1) > 0.03).all()
    found = statistics_of([rows[:700_000], rows[700_000:]])
    np.testing.assert_allclose(found.std, exact, rtol=1e-9)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)


def test_entries_nobody_uses_are_left_out_where_they_can_not_be_described(synthetic: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(synthetic, tmp_path / "odd"))
    modality = json.loads((path / "meta/modality.json").read_text())
    modality["video"]["side"] = {"original_key": "observation.images.side"}
    modality["state"]["effort"] = {"start": 0, "end": 7, "original_key": "observation.effort"}
    modality["action"]["tail"] = {"start": 40, "end": 50}
    (path / "meta/modality.json").write_text(json.dumps(modality))
    meta, config = DatasetMeta.load(path), get_data_config("fourier_gr1_arms_only")
    assert build_metadata(meta, "gr1", config) == build_metadata(DatasetMeta.load(synthetic), "gr1")
    with pytest.raises(DatasetError):
        build_metadata(meta, "gr1")
