"""The simulated training against what can be said without simulating."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.scale import Setup, simulate


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1.0), (2, 0.5), (5, 0.4)])
def test_the_slower_of_loading_and_training_decides(workers: int, seconds: float) -> None:
    [found] = simulate(Setup(steps=400, batch=10, step=0.4, sample=0.1, spread=0.0, workers=workers))
    assert found.seconds == pytest.approx(400 * seconds, rel=0.02)
    assert found.waiting_for_data == pytest.approx(400 * (seconds - 0.4), rel=0.02, abs=2)


def test_more_loading_processes_than_cores_load_no_faster() -> None:
    eight, many = (
        simulate(Setup(steps=200, batch=10, step=0.01, sample=0.1, workers=workers, cores=8))[0].seconds
        for workers in (8, 32)
    )
    assert many == pytest.approx(eight, rel=0.1)


def test_gradients_are_exchanged_at_each_step() -> None:
    one, four = (simulate(Setup(steps=100, gpus=n, gradients=1e9, between_gpus=1e10))[0].seconds for n in (1, 4))
    assert four - one == pytest.approx(100 * 2 * 3 / 4 * 0.1, rel=0.05)


def test_a_save_stands_still_where_copying_outlasts_a_step_and_for_the_one_before() -> None:
    saves = Setup(steps=100, step=1.0, sample=0.0, save_steps=10, tuned=1e9, state=2e9, to_host=3e9, disk=1e9)
    [hidden] = simulate(saves)
    assert hidden.standing_still == pytest.approx(0.0)
    assert hidden.seconds == pytest.approx(100 * 1.0)
    [longer] = simulate(replace(saves, to_host=2e9))  # 1.5 s; after the last save comes no step
    assert longer.standing_still == pytest.approx(9 * 0.5)
    [slow] = simulate(replace(saves, disk=0.2e9))  # 1 + 15 s for a checkpoint, 10 s between two
    assert slow.standing_still == pytest.approx(9 * 6.0)


def test_the_training_state_takes_an_eleventh_of_the_link() -> None:
    setup = Setup(
        steps=10_000, step=1.0, sample=0.0, workers=1, save_steps=5, tuned=1e8, state=1e9, link=1e9, disk=1e10
    )
    [found] = simulate(setup)
    assert found.states_sent == pytest.approx(10_000 / 15, rel=0.02)  # 11 s, rounded up to the next save
    assert found.most_pending == 1 and found.after == pytest.approx(0.044 + 0.11 + 0.1)  # copied, written, sent


def test_runs_share_the_link() -> None:
    setup = Setup(steps=10, step=1.0, sample=0.0, workers=1, save_steps=10, tuned=5e9, state=0.0, link=1e9)
    assert [round(each.after) for each in simulate(setup, runs=4)] == [10, 15, 20, 25]
