"""Training samples: order, padding, determinism over workers and epochs, mixtures."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from trainer.data.collate import Collator, finish_images
from trainer.data.configs import get_data_config
from trainer.data.dataset import DatasetReader, TrainingDataset, stable_hash
from trainer.data.synthetic import make_synthetic
from trainer.data.transforms.augment import augment
from trainer.data.transforms.sample import Sample
from trainer.errors import DatasetError

CONFIG = "fourier_gr1_arms_only"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def dataset(synthetic: Path, cache: Path) -> TrainingDataset:
    return TrainingDataset([synthetic], CONFIG, "new_embodiment", cache_dir=cache)


def same(one: Sample, other: Sample) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in one)  # type: ignore[literal-required]


def test_the_real_demo_dataset_end_to_end(demo_dataset: Path, demo_reader: DatasetReader, cache: Path) -> None:
    dataset = TrainingDataset([demo_dataset], CONFIG, "gr1", cache_dir=cache)
    assert len(dataset) == 2096
    progress: list[tuple[int, int]] = []
    dataset.prepare(lambda done, of: progress.append((done, of)))
    assert progress[-1] == (5, 5)
    for index, episode, step in ((0, 0, 0), (415, 0, 415), (416, 1, 0), (1000, 2, 114), (2095, 4, 327)):
        sample = dataset[index]
        raw = demo_reader.get_step_data(episode, step)
        assert sample["embodiment_id"] == 24
        assert sample["text"] == raw["annotation.human.action.task_description"][0]
        assert sample["images"].shape == (1, 224, 224, 3) and sample["images"].dtype == np.uint8
        np.testing.assert_array_equal(sample["state"][:, :52], np.float32(dataset.transform.state.forward(raw)))
        np.testing.assert_array_equal(sample["action"][:, :26], np.float32(dataset.transform.action.forward(raw)))
        assert sample["state"].shape == (1, 64) and sample["action"].shape == (16, 32)
        assert sample["action_mask"][:, :26].all() and not sample["action_mask"][:, 26:].any()
        np.testing.assert_array_equal(
            dataset.frames.frames(dataset.readers[0].meta.video_path("ego_view", episode), np.array([step]))[0],
            raw["video.ego_view"][0],
        )


def test_steps_follow_the_order_of_the_episodes_file(synthetic: Path, tmp_path: Path, cache: Path) -> None:
    path = Path(shutil.copytree(synthetic, tmp_path / "reversed"))
    lines = (path / "meta/episodes.jsonl").read_text().splitlines()
    (path / "meta/episodes.jsonl").write_text("\n".join([*reversed(lines), ""]))
    first = json.loads(lines[-1])
    dataset = TrainingDataset([path], CONFIG, "new_embodiment", cache_dir=cache)
    assert dataset[0]["text"] == first["tasks"][0]
    assert dataset[first["length"]]["text"] == json.loads(lines[-2])["tasks"][0]


def test_steps_beyond_the_end_repeat_the_last_row_or_are_zero(synthetic: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(synthetic, tmp_path / "relative"))
    modality = json.loads((path / "meta/modality.json").read_text())
    modality["action"]["right_arm"]["absolute"] = False
    (path / "meta/modality.json").write_text(json.dumps(modality))
    dataset = TrainingDataset([path], CONFIG, "new_embodiment")
    reader, length = dataset.readers[0], dataset.readers[0].lengths[0]
    step = reader.get_step_data(0, length - 3)
    assert (step["action.right_arm"][3:] == 0).all() and (step["action.right_arm"][:3] != 0).any()
    np.testing.assert_array_equal(step["action.left_arm"][3:], np.repeat(step["action.left_arm"][2:3], 13, axis=0))
    sample = dataset[length - 3]
    np.testing.assert_array_equal(sample["action"][:, :26], np.float32(dataset.transform.action.forward(step)))
    assert sample["action_mask"][15, :26].all()
    batch = dataset.__getitems__([0, length - 3])
    np.testing.assert_array_equal(batch.vectors["action"][1].numpy(), sample["action"])
    beyond = reader.get_step_data(0, length + 5)
    np.testing.assert_array_equal(beyond["state.left_arm"], reader.get_step_data(0, length - 1)["state.left_arm"])


def test_samples_depend_on_seed_epoch_and_index_alone(synthetic: Path, dataset: TrainingDataset, cache: Path) -> None:
    again = TrainingDataset([synthetic], CONFIG, "new_embodiment", cache_dir=cache)
    other = TrainingDataset([synthetic], CONFIG, "new_embodiment", cache_dir=cache, seed=1)
    uncached = TrainingDataset([synthetic], CONFIG, "new_embodiment")
    first = dataset[10]
    torch.rand(5)
    assert same(first, again[10]) and same(first, uncached[10])
    assert not np.array_equal(first["images"], other[10]["images"])
    again.set_epoch(1)
    later = again[10]
    assert not np.array_equal(first["images"], later["images"])
    np.testing.assert_array_equal(first["action"], later["action"])
    again.set_epoch(0)
    assert same(first, again[10])


def test_workers_change_nothing_and_follow_the_epoch(dataset: TrainingDataset) -> None:
    def load(workers: int) -> list[dict[str, Any]]:
        loader = DataLoader(
            dataset, 4, sampler=[*range(12)], num_workers=workers, collate_fn=Collator(Encoder()),
            persistent_workers=workers > 0,
        )  # fmt: skip
        batches = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            batches += [finish_images(batch) for batch in loader]
        dataset.set_epoch(0)
        return batches

    here, there = load(0), load(2)
    assert len(here) == 6
    for one, other in zip(here, there, strict=True):
        assert one.pop("one_embodiment") is other.pop("one_embodiment") is True
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(here[0]["eagle_pixel_values"], here[3]["eagle_pixel_values"])


def test_a_batch_holds_the_samples_themselves(pair: list[Path], dataset: TrainingDataset) -> None:
    """The loader's batches against one sample after the other: of one dataset, and of a mixture."""
    mixture = TrainingDataset(pair, CONFIG, "new_embodiment")
    for source in (dataset, mixture):
        length = source.readers[0].lengths[0]
        indices = [length - 1, 3, length, length + 1, 0]
        samples, batch = [source[index] for index in indices], source.__getitems__(indices)
        assert batch.texts == [sample["text"] for sample in samples]
        for key, values in batch.vectors.items():
            expected = np.stack([sample[key] for sample in samples])  # type: ignore[literal-required]
            np.testing.assert_array_equal(values.numpy(), expected, err_msg=key)
            assert values.numpy().dtype == expected.dtype
        pixels = augment(batch.frames, batch.jitter).add(1).mul(127.5).round().permute(0, 2, 3, 1).numpy()
        images = np.concatenate([sample["images"] for sample in samples]).astype(np.float32)
        assert np.abs(pixels - images).max() <= 1 and (pixels != images).mean() < 1e-3


def test_a_pickled_reader_still_reads(synthetic: Path) -> None:
    reader = DatasetReader(synthetic, get_data_config(CONFIG))
    reader.get_step_data(0, 0)
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(
        copy.get_step_data(0, 3)["state.left_arm"], reader.get_step_data(0, 3)["state.left_arm"]
    )


def test_indices_out_of_range_end_iteration(dataset: TrainingDataset) -> None:
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_camera_the_dataset_lacks_is_a_dataset_error(synthetic: Path) -> None:
    with pytest.raises(DatasetError, match=r"so100 expects video\.webcam; .* has ego_view"):
        TrainingDataset([synthetic], "so100", "new_embodiment")


def test_text_annotations_and_fixed_size_lists_are_read_too(synthetic: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(synthetic, tmp_path / "texts"))
    file = path / "data/chunk-000/episode_000000.parquet"
    columns = pq.read_table(file).to_pydict()
    expected = columns["action"]
    columns["action"] = pa.array(columns["action"], pa.list_(pa.float32(), 44))
    columns["annotation.human.action.task_description"] = ["fold the towel"] * len(expected)
    pq.write_table(pa.table(columns), file)
    step = DatasetReader(path, get_data_config(CONFIG)).get_step_data(0, 0)
    assert step["annotation.human.action.task_description"] == ["fold the towel"]
    np.testing.assert_allclose(step["action.left_arm"][0], expected[0][:7], atol=1e-6)


@pytest.fixture(scope="module")
def pair(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Datasets of three and one episodes."""
    return [synthetic, make_synthetic(tmp_path_factory.mktemp("pair") / "one", episodes=1, seed=7)]


def draws(dataset: TrainingDataset, count: int = 4000) -> Counter[tuple[int, int]]:
    """How often each (dataset, trajectory) is drawn."""
    located = (dataset._locate(i % len(dataset) + (i // len(dataset)) * 100_000) for i in range(count))
    return Counter((dataset._parts.index(part), part.episode_of(row)) for part, row in located)


@pytest.mark.parametrize("by_dataset", [True, False])
@pytest.mark.parametrize("by_trajectory", [True, False])
def test_mixture_probabilities(pair: list[Path], by_dataset: bool, by_trajectory: bool) -> None:
    mixture = TrainingDataset(
        pair, CONFIG, "new_embodiment",
        balance_dataset_weights=by_dataset, balance_trajectory_weights=by_trajectory,
    )  # fmt: skip
    lengths = [np.array(list(reader.lengths.values())) for reader in mixture.readers]
    totals = np.array([length.sum() for length in lengths])
    shares = totals / totals.sum() if by_dataset else np.array([0.5, 0.5])
    assert len(mixture) == (totals.sum() if by_dataset else 2 * totals.max())
    drawn, count = draws(mixture), 4000
    for part, own in enumerate(lengths):
        within = own / own.sum() if by_trajectory else np.full(len(own), 1 / len(own))
        for trajectory, share in enumerate(within):
            expected = shares[part] * share
            slack = 4 * np.sqrt(expected * (1 - expected) / count)
            assert drawn[part, trajectory] / count == pytest.approx(expected, abs=slack)


def test_mixture_draws_are_upstreams_and_change_with_the_epoch(pair: list[Path]) -> None:
    mixture = TrainingDataset(pair, CONFIG, "new_embodiment")
    # The lower 128 bits of `printf "(0, 3, 42)" | sha256sum`.
    assert stable_hash((0, 3, 42)) == 0x6335831389634EFF0C97A95F2BE19C0F
    first = [mixture._locate(i)[1] for i in range(20)]
    assert first == [mixture._locate(i)[1] for i in range(20)]
    mixture.set_epoch(1)
    assert first != [mixture._locate(i)[1] for i in range(20)]
    assert mixture[5]["state"].shape == (1, 64)


def test_mixture_statistics_are_merged_by_weight(pair: list[Path]) -> None:
    mixture = TrainingDataset(pair, CONFIG, "new_embodiment")
    parts = [TrainingDataset([path], CONFIG, "new_embodiment").metadata.statistics for path in pair]
    merged = mixture.metadata.statistics.action["right_arm"]
    columns = [part.action["right_arm"] for part in parts]
    np.testing.assert_allclose(merged.min, np.minimum(columns[0].min, columns[1].min))
    np.testing.assert_allclose(merged.max, np.maximum(columns[0].max, columns[1].max))
    np.testing.assert_allclose(
        merged.q99, np.average([c.q99 for c in columns], axis=0, weights=mixture.dataset_weights)
    )
    # Weighted by length, mean and deviation of the mixture are those of all rows together.
    rows = np.concatenate(
        [reader.table(e).action["action.right_arm"] for reader in mixture.readers for e in reader.lengths]
    )
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(merged.std, rows.std(axis=0), atol=1e-5)


def test_mixtures_of_different_robots_are_refused(pair: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(pair[1], tmp_path / "other"))
    modality = json.loads((path / "meta/modality.json").read_text())
    modality["state"]["extra"] = {"start": 0, "end": 3}
    (path / "meta/modality.json").write_text(json.dumps(modality))
    mixture = TrainingDataset([pair[0], path], CONFIG, "new_embodiment")
    assert "extra" not in mixture.metadata.modalities.state  # nothing uses it
    modality["state"]["left_arm"] = {"start": 0, "end": 6}
    (path / "meta/modality.json").write_text(json.dumps(modality))
    with pytest.raises(DatasetError, match="differ in their cameras"):
        TrainingDataset([pair[0], path], CONFIG, "new_embodiment")


class Encoder:
    """Stands in for the model's processor."""

    def encode(self, texts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        assert all(image.shape == (1, 224, 224, 3) for image in images)
        return self.encode_prompts(texts, [1] * len(texts))

    def encode_prompts(self, texts: Sequence[str], views: Sequence[int]) -> dict[str, torch.Tensor]:
        assert list(views) == [1] * len(texts)
        return {"eagle_input_ids": torch.tensor([[len(text)] for text in texts])}


def test_collator_stacks_a_batch(dataset: TrainingDataset) -> None:
    batch = Collator(Encoder())([dataset[0], dataset[1]])
    assert batch.pop("one_embodiment") is True
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert shapes == {
        "eagle_input_ids": ((2, 1), torch.int64),
        "state": ((2, 1, 64), torch.float32),
        "state_mask": ((2, 1, 64), torch.bool),
        "action": ((2, 16, 32), torch.float32),
        "action_mask": ((2, 16, 32), torch.bool),
        "embodiment_id": ((2,), torch.int64),
    }
    assert batch["embodiment_id"].tolist() == [31, 31]
    observed = [{key: value for key, value in dataset[0].items() if not key.startswith("action")}]
    assert "action" not in Collator(Encoder())(observed)  # type: ignore[arg-type]


def test_a_batch_equals_upstreams(golden: Path, demo_dataset: Path) -> None:
    from safetensors.torch import load_file

    dataset = TrainingDataset([demo_dataset], CONFIG, "new_embodiment")
    expected = load_file(golden / "batch_A.safetensors")
    batch = Collator(Encoder())([dataset[100], dataset[250]])
    for key in ("state", "state_mask", "action", "action_mask", "embodiment_id"):
        torch.testing.assert_close(batch[key].double(), expected[key].double(), rtol=0, atol=1e-6)
