from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer.errors import EngineError
from trainer.evaluation.open_loop import evaluate_episode, evaluate_episodes, summarise
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

    def get_action(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(observation)
        arm = observation["state.arm"][0, 0]
        episode, frame = divmod(arm, 100)
        chunk = self.source.get_step_data(int(episode), int(frame))
        return {name: value + self.offset for name, value in chunk.items() if name.startswith("action.")}


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
