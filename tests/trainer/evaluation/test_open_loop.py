from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trainer.errors import EngineError
from trainer.evaluation.open_loop import BATCH, Step, evaluate_episode, evaluate_episodes, summarise
from trainer.evaluation.plots import loss_history, plot_loss, plot_open_loop

HORIZON = 4


class Demonstrations:
    """Two keys whose value tells episode, frame and key, so that a misplaced row shows."""

    def __init__(self) -> None:
        self.lengths = {7: 10, 9: 6}

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        frames = np.minimum(base_index + np.arange(HORIZON), self.lengths[trajectory_id] - 1)
        arm = np.stack([frames + 100.0 * trajectory_id, -frames], axis=1)
        return {"action.arm": arm, "action.hand": frames[:, None] * 10.0, "state.arm": arm[:1]}


class Offset:
    """Predicts the demonstrated actions, off by a constant."""

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.seen: list[dict[str, Any]] = []
        self.source = Demonstrations()

    def predict(self, steps: Sequence[Step], frames: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        self.seen += [dict(step) for step in steps]
        chunks = []
        for step, asked in zip(steps, frames, strict=True):
            episode, frame = divmod(int(step["state.arm"][0, 0]), 100)
            assert (episode, frame) == asked
            chunk = self.source.get_step_data(episode, frame)
            chunks.append({name: value + self.offset for name, value in chunk.items() if name.startswith("action.")})
        return chunks


def test_chunks_are_put_end_to_end_and_cut_to_the_episode():
    policy = Offset(0.0)
    trajectory = evaluate_episode(policy, Demonstrations(), 7, keys=["hand", "arm"], steps=150, action_horizon=HORIZON)
    assert trajectory.queried == (0, 4, 8)
    assert trajectory.names == ("hand[0]", "arm[0]", "arm[1]")
    np.testing.assert_array_equal(trajectory.demonstrated[:, 0], np.arange(10) * 10.0)
    np.testing.assert_array_equal(trajectory.demonstrated[:, 1], np.arange(10) + 700.0)
    assert trajectory.mse == 0


def test_the_policy_never_sees_the_answer():
    policy = Offset(0.0)
    evaluate_episode(policy, Demonstrations(), 9, keys=["arm"], steps=6, action_horizon=HORIZON)
    assert all(not name.startswith("action.") for observation in policy.seen for name in observation)


def test_metrics():
    trajectories = evaluate_episodes(
        Offset(2.0), Demonstrations(), [7, 9], keys=["hand"], steps=6, action_horizon=HORIZON
    )
    metrics = summarise(trajectories)
    assert metrics["open_loop_mse"] == pytest.approx(4.0)
    assert metrics["action_variance"] == pytest.approx(np.var(np.arange(6) * 10.0))
    assert metrics["open_loop_mse_over_variance"] == pytest.approx(4.0 / np.var(np.arange(6) * 10.0))


def test_holding_still_goes_on_with_the_action_before_each_question():
    def still(relative: tuple[str, ...] = ()) -> np.ndarray:
        return evaluate_episode(
            Offset(0.0),
            Demonstrations(),
            7,
            keys=["hand", "arm"],
            steps=150,
            action_horizon=HORIZON,
            relative=relative,
        ).held

    assert still()[:, 0].tolist() == [0] * 4 + [30] * 4 + [70] * 2  # of frames 0, 3 and 7
    assert still()[:, 1].tolist() == [700] * 4 + [703] * 4 + [707] * 2
    assert not still(("hand",))[:, 0].any()  # a relative action of zero is no motion
    trajectory = evaluate_episode(Offset(1.0), Demonstrations(), 9, keys=["hand"], steps=6, action_horizon=HORIZON)
    assert trajectory.hold_still_mse == pytest.approx(np.mean(np.array([0, 10, 20, 30, 10, 20]) ** 2))


def test_questions_are_asked_in_batches_that_change_nothing():
    long = Demonstrations()
    long.lengths = {7: 90}
    policy = Offset(0.0)
    policy.source = long
    trajectory = evaluate_episode(policy, long, 7, keys=["arm"], steps=90, action_horizon=HORIZON)
    assert len(policy.seen) == 23 > BATCH and trajectory.mse == 0


def test_what_is_shown_may_be_changed_and_the_answer_stays():
    def change(episode: int, frame: int, step: Step) -> Step:
        return {**step, "state.arm": step["state.arm"] + 0.25, "action.hand": step["action.hand"] * 0}

    policy = Offset(0.0)
    trajectory = evaluate_episode(
        policy, Demonstrations(), 9, keys=["hand"], steps=6, action_horizon=HORIZON, change=change
    )
    assert policy.seen[0]["state.arm"][0, 0] == 900.25
    assert trajectory.demonstrated[:, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_nan_predictions_are_an_error_that_says_what_to_do():
    with pytest.raises(EngineError, match="NaN"):
        evaluate_episode(Offset(float("nan")), Demonstrations(), 9, keys=["arm"], steps=6, action_horizon=HORIZON)


def test_plots_are_pictures(tmp_path):
    trajectory = evaluate_episode(Offset(1.0), Demonstrations(), 7, keys=["arm"], steps=10, action_horizon=HORIZON)
    state = tmp_path / "trainer_state.json"
    state.write_text('{"log_history": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 0.5}, {"train_runtime": 3}]}')
    assert loss_history(state) == [(10, 1.5), (20, 0.5)]
    for path in (
        plot_open_loop(trajectory, tmp_path / "a.png"),
        plot_loss(loss_history(state), tmp_path / "b.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
