"""Real-time chunking: a chunk continues the one that is carried out, in both generations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.n17 import TOLD_ARMS, trained_n17
from tests.support.told import make_told
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.data.reader import DatasetReader
from trainer.data.synthetic import make_synthetic
from trainer.errors import UsageError
from trainer.gr00t.policy import Policy
from trainer.gr00t.previous_chunk import PreviousChunk

EXECUTED, FROZEN, HORIZON = 6, 4, 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "synthetic", episodes=1)


@pytest.fixture(scope="module", params=["N1.5", "N1.7"])
def policy(request: Any, tiny: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("checkpoints")
    if request.param == "N1.7":
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PIPPA_HOME", str(folder / "home"))
            return Policy(trained_n17(folder, dataset), device="cpu")
    checkpoint = Path(shutil.copytree(tiny, folder / "checkpoint-1"))
    write_metadata(checkpoint / "experiment_cfg", build_metadata(DatasetMeta.load(dataset), "new_embodiment"))
    return Policy(checkpoint, "fourier_gr1_arms_only", device="cpu")


@pytest.fixture(scope="module")
def reader(policy: Policy, dataset: Path) -> DatasetReader:
    return DatasetReader(dataset, policy.data_config)


def noise(policy: Policy, seed: int, batch: int | None = None) -> np.ndarray:
    shape = policy.noise_shape if batch is None else (batch, *policy.noise_shape)
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_prefix_is_exact_and_the_seam_smoother(policy: Policy, reader: DatasetReader) -> None:
    """The seam is where the new chunk's first free step takes over. Chunks of an untrained policy are rough themselves,
    so that a jump counts beside how far the step is from what the robot was about to do.
    """
    jumps: dict[str, list[float]] = {"with": [], "without": []}
    departures: dict[str, list[float]] = {"with": [], "without": []}
    for seed in range(8):
        first = policy.get_action(reader.get_step_data(0, 8 * seed), noise(policy, seed))
        later = reader.get_step_data(0, 8 * seed + EXECUTED)
        start = noise(policy, 100 + seed)
        continued = policy.get_action(later, start, PreviousChunk(first, EXECUTED, FROZEN))
        alone = policy.get_action(later, start)
        for name, planned in first.items():
            np.testing.assert_array_equal(continued[name][:FROZEN], planned[EXECUTED : EXECUTED + FROZEN])
            if "arm" not in name:
                continue  # the hands hardly move in this dataset
            for which, values in (("with", continued[name]), ("without", alone[name])):
                jumps[which].append(float(np.abs(values[FROZEN] - planned[EXECUTED + FROZEN - 1]).mean()))
                departures[which].append(float(np.abs(values[FROZEN] - planned[EXECUTED + FROZEN]).mean()))
            assert not np.array_equal(continued[name][FROZEN:-EXECUTED], planned[EXECUTED + FROZEN :])
    assert np.mean(jumps["with"]) < np.mean(jumps["without"])
    assert np.mean(departures["with"]) < 0.75 * np.mean(departures["without"])


def test_the_more_steps_are_frozen_the_less_changes_and_none_leaves_it_free(
    policy: Policy, reader: DatasetReader
) -> None:
    first = policy.get_action(reader.get_step_data(0, 0), noise(policy, 0))
    later = reader.get_step_data(0, EXECUTED)
    names = list(first)

    def change(frozen: int) -> float:
        found = policy.get_action(later, noise(policy, 1), PreviousChunk(first, EXECUTED, frozen))
        return float(np.mean([np.abs(found[name][:-EXECUTED] - first[name][EXECUTED:]).mean() for name in names]))

    changes = [change(frozen) for frozen in (0, FROZEN, HORIZON - EXECUTED)]
    assert changes[0] > changes[1] > changes[2] == 0


def test_samples_of_a_batch_continue_their_own(policy: Policy, reader: DatasetReader) -> None:
    rows, starts = (0, 12), noise(policy, 0, 2)

    def batch(*steps: dict[str, Any]) -> dict[str, Any]:
        return {
            name: [each[name][0] for each in steps] if isinstance(value, list) else np.stack([s[name] for s in steps])
            for name, value in steps[0].items()
        }

    first = policy.get_action(batch(*(reader.get_step_data(0, row) for row in rows)), starts)
    later = [reader.get_step_data(0, row + EXECUTED) for row in rows]
    together = policy.get_action(batch(*later), starts, PreviousChunk(first, EXECUTED, FROZEN))
    for row, step in enumerate(later):
        own = PreviousChunk({name: values[row] for name, values in first.items()}, EXECUTED, FROZEN)
        for name, values in policy.get_action(step, starts[row], own).items():
            np.testing.assert_allclose(together[name][row], values, atol=1e-4)
            np.testing.assert_array_equal(together[name][row][:FROZEN], first[name][row][EXECUTED:][:FROZEN])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"executed_steps": HORIZON}, "16 steps of the previous chunk were executed; it has 16"),
        ({"executed_steps": -1}, "-1 steps"),
        ({"frozen_steps": 11}, "11 steps are frozen; 10 are left"),
        ({"ramp_rate": 0.0}, "ramp rate is 0.0"),
        ({"ramp_rate": float("nan")}, "ramp rate is nan"),
        ({"actions": {}}, r"has no action\.\w+; it has nothing"),
        ({"actions": "shorter"}, r"is \[15, \d+\]"),
        ({"actions": "nan"}, "no finite number"),
        ({"actions": "texts"}, "no finite number"),
    ],
)
def test_what_can_not_be_continued_is_refused(
    policy: Policy, reader: DatasetReader, change: dict[str, Any], problem: str
) -> None:
    step = reader.get_step_data(0, 0)
    first = policy.get_action(step, noise(policy, 0))
    others: dict[str, Any] = {
        "shorter": {name: values[1:] for name, values in first.items()},
        "nan": {name: values * np.nan for name, values in first.items()},
        "texts": {name: values.astype("U3") for name, values in first.items()},
    }
    given: dict[str, Any] = {"actions": first, "executed_steps": EXECUTED, "frozen_steps": FROZEN, **change}
    if isinstance(given["actions"], str):
        given["actions"] = others[given["actions"]]
    with pytest.raises(UsageError, match=problem):
        policy.get_action(step, previous=PreviousChunk(**given))


@pytest.mark.slow
def test_a_policy_that_could_go_either_way_goes_on_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was shown the same thing with both motions, so that its own chunk may turn round."""
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    torch.set_num_threads(1)
    dataset = make_told(tmp_path / "told", shuffled=True)
    checkpoint = trained_n17(
        tmp_path, dataset, 120, data_config=TOLD_ARMS, global_batch_size=16, learning_rate=2e-3, warmup_ratio=0.02
    )
    policy, reader = Policy(checkpoint, device="cpu"), DatasetReader(dataset, TOLD_ARMS)
    executed, frozen, jumps = 2, 2, {"with": 0.0, "without": 0.0}
    for seed in range(24):
        first = policy.get_action(reader.get_step_data(seed % 16, 0), noise(policy, seed))
        later, start = reader.get_step_data(seed % 16, executed), noise(policy, 100 + seed)
        continued = policy.get_action(later, start, PreviousChunk(first, executed, frozen))
        for which, chunk in (("with", continued), ("without", policy.get_action(later, start))):
            jumps[which] += sum(np.abs(chunk[k][frozen] - first[k][executed + frozen - 1]).mean() for k in first)
    assert jumps["with"] < 0.6 * jumps["without"]
