"""A dataset of a dozen frames, a tiny model with dropout, and two ways to train: here, or in a process to be killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.support.training import Training, small_training, tiny_with_dropout, warm_up
from trainer.data.synthetic import make_synthetic


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums in one order, and no fight over the two cores."""
    warm_up()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model with dropout."""
    return tiny_with_dropout(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of six and five steps: six batches of two make an epoch, the last one short."""
    return shortened(tmp_path_factory.mktemp("datasets") / "short", [6, 5], seed=0)


@pytest.fixture(scope="session")
def even_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of four steps: no batch is short."""
    return shortened(tmp_path_factory.mktemp("datasets") / "even", [4, 4], seed=0)


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, to mix in."""
    return shortened(tmp_path_factory.mktemp("datasets") / "other", [4], seed=1)


def shortened(path: Path, lengths: list[int], seed: int) -> Path:
    """A synthetic dataset cut to ``lengths``: one pass over it takes seconds."""
    make_synthetic(path, episodes=len(lengths), seed=seed)
    lines = [json.loads(line) for line in (path / "meta/episodes.jsonl").read_text().splitlines()]
    for line, length in zip(lines, lengths, strict=True):
        file = path / f"data/chunk-000/episode_{line['episode_index']:06d}.parquet"
        pq.write_table(pq.read_table(file).slice(0, length), file)
        line["length"] = length
    (path / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def training(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Path,
    base_model: Path,
) -> Callable[..., Training]:
    """Makes a training in a folder of this test: ``training("name", max_steps=4, …)``, the rest by default."""
    # One cache of decoded frames for all tests of the process.
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path_factory.getbasetemp() / "pippa-home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def make(name: str, **flags: object) -> Training:
        folder = Path(str(flags.pop("output_dir", tmp_path / name)))
        return small_training(folder, dataset, base_model, **flags)

    return make
