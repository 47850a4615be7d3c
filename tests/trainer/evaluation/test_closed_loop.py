"""The simulated arm and its trials: who follows the demonstrations succeeds, who holds still does not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.registered import tiny_checkpoint
from trainer import evaluate
from trainer.data.configs import get_data_config
from trainer.data.synthetic import HOME, SLICES, _motion, joints
from trainer.data.synthetic_arm import SimulatedArm
from trainer.errors import UsageError
from trainer.evaluation.closed_loop import require_robot, run_trials
from trainer.store import registry
from trainer.store.closed_loop import ClosedLoop, wilson
from trainer.store.folder import FolderStore

CONFIG = get_data_config("fourier_gr1_arms_only")


class Demonstrator:
    """Knows where everything lies, and does what the dataset's demonstrations do, ``offset`` pixels beside it."""

    def __init__(self, offset: float = 0.0, until: float = 1.0) -> None:
        self.offset, self.until = offset, until

    def predict(self, steps, frames):
        return [self.chunk(trial, first) for trial, first in frames]

    def chunk(self, trial: int, first: int) -> dict[str, np.ndarray]:
        motion = _motion(SimulatedArm(0, trial).scene, steps=70)
        motion = motion._replace(position=np.add(motion.position, (self.offset, 0)))
        rows = np.clip(first + 1 + np.arange(16), 0, int(self.until * 69))
        state, grip = joints(motion)[rows], motion.grip[rows, None]
        hand = np.array([-1.5, -1.5, -1.5, -1.5, -3.0, 3.0])
        return {
            **{f"action.{name}": state[:, slice(*SLICES[name])] for name in ("left_arm", "right_arm")},
            "action.left_hand": np.tile(hand, (16, 1)),
            "action.right_hand": hand + grip * [3, 3, 3, 3, 6, 0],
        }


@pytest.mark.parametrize(
    ("policy", "stages"),
    [
        (Demonstrator(), (20, 20, 20, 20)),
        (Demonstrator(until=0.0), (0, 0, 0, 0)),
        (Demonstrator(until=0.3), (20, 0, 0, 0)),
        (Demonstrator(until=0.5), (20, 20, 0, 0)),
        (Demonstrator(until=0.7), (20, 20, 20, 0)),
        (Demonstrator(offset=20.0, until=0.5), (0, 0, 0, 0)),
    ],
    ids=["follows", "holds still", "stops over it", "stops with it", "stops in the air", "beside it"],
)
def test_a_trial_says_how_far_it_got(policy, stages):
    found = run_trials(policy, CONFIG, trials=20, seed=0)
    assert (found.reached, found.grasped, found.lifted, found.placed) == stages


def test_the_arm_sees_what_it_does():
    """The pictures and states of a followed demonstration are the dataset's own."""
    arm = SimulatedArm(0, 3)
    scene, motion, chunk = arm.scene, _motion(arm.scene, steps=70), Demonstrator().chunk(3, 0)
    right_arm = joints(motion)[:, slice(*SLICES["right_arm"])]
    for step in range(15):
        seen = arm.observe()
        drawn = scene.draw(scene.object, 0.0, motion.position[step], motion.lift[step], motion.grip[step])
        np.testing.assert_allclose(arm.gripper, motion.position[step], atol=1e-6)
        np.testing.assert_allclose(seen["state.right_arm"][0], right_arm[step], atol=1e-9)
        assert (seen["video.ego_view"][0] == drawn).mean() > 0.999
        arm.act({name: values[step] for name, values in chunk.items()})


def test_its_scenes_are_repeatable_and_none_of_the_datasets():
    pictures = [SimulatedArm(1, 2).observe()["video.ego_view"] for _ in range(2)]
    np.testing.assert_array_equal(*pictures)
    assert len({SimulatedArm(seed, trial).scene.object.tobytes() for seed in range(3) for trial in range(9)}) == 27
    shown = [np.random.default_rng([0, episode]).uniform([120, 120], [222, 182]).tobytes() for episode in range(9)]
    assert not {SimulatedArm(0, trial).scene.object.tobytes() for trial in range(9)} & set(shown)


def test_an_action_that_is_no_number_moves_nothing():
    arm = SimulatedArm()
    with pytest.raises(ValueError, match=r"action\.right_arm is not finite"):
        arm.act({"action.right_hand": np.ones(6), "action.right_arm": np.full(7, np.nan)})
    np.testing.assert_allclose(arm.gripper, HOME, atol=1e-9)
    assert arm.steps == 0 and not arm.stages


@given(trials=st.integers(1, 500), data=st.data())
def test_the_interval_holds_the_rate_and_stays_a_probability(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1 and low < high


def test_the_interval_is_wilsons():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (successes, trials), expected in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert all(math.isclose(*pair, abs_tol=5e-5) for pair in zip(wilson(successes, trials), expected, strict=True))


def test_a_policy_of_another_robot_is_refused():
    with pytest.raises(UsageError, match=r"another robot.*video\.webcam.*action\.single_arm"):
        require_robot(get_data_config("so100"), "blog/best")


def test_a_registered_checkpoint_acts_and_its_figures_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    store = FolderStore(tmp_path / "home" / "store")
    store.create()
    entry = tiny_checkpoint(store, tmp_path)
    flags = ["--checkpoint", entry.name, "--closed-loop", "--trials", "1"]
    assert evaluate.main(flags) == 0 == evaluate.main(flags)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, again = (each["evaluation"] for each in events if each["event"] == "evaluation")
    found = ClosedLoop.model_validate(first)
    assert first == again and found.trials == 1 and found.placed == 0
    kept = registry.resolve(store, entry.name)
    assert kept.metrics["closed_loop_success_rate@trials-1,seed-0"] == 0.0 and kept.evaluation is None
