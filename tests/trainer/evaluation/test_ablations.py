"""What stands in the place of an input that is taken away."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.data.configs import get_data_config
from trainer.evaluation.ablations import changes

CONFIG = get_data_config("so100_dualcam")


class Recorded:
    """Every value tells its episode and frame; the last episode is shorter."""

    def __init__(self, instructions: list[str]) -> None:
        self.instructions = instructions
        self.lengths = dict.fromkeys(range(len(instructions)), 30) | {len(instructions) - 1: 5}

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict[str, Any]:
        value = 40 * trajectory_id + base_index
        return {
            **{f"video.{key}": np.full((1, 2, 2, 3), value, dtype=np.uint8) for key in CONFIG.video},
            **{f"state.{key}": np.full((1, 1), float(value)) for key in CONFIG.keys("state")},
            CONFIG.language: [self.instructions[trajectory_id]],
        }


def changed(source: Recorded, episode: int, frame: int) -> dict[str, dict[str, Any]]:
    """By ablation, the values that differ from what was recorded."""
    step = source.get_step_data(episode, frame)
    found = {}
    for input_, kind, change in changes(source, CONFIG, [episode], list(source.lengths)):
        shown = change(episode, frame, step)
        found[f"{input_} {kind}"] = {
            name: value if isinstance(value, list) else value.flat[0]
            for name, value in shown.items()
            if not np.array_equal(value, step[name])
        }
    return found


def test_each_input_is_replaced_by_something_real_and_no_other():
    found = changed(Recorded(["pick", "pick", "place", "pick"]), 1, 20)
    assert found["instruction swapped"] == {CONFIG.language: ["place"]}
    assert found["camera.front swapped"] == {"video.front": 40 * 3 + 4}  # that episode ends earlier
    assert found["camera.front frozen"] == {"video.front": 40}
    assert found["camera.front blank"] == {"video.front": 0}
    assert found["camera.wrist frozen"] == {"video.wrist": 40}
    assert found["state frozen"] == {f"state.{key}": 40.0 for key in CONFIG.keys("state")}


def test_where_all_episodes_have_one_instruction_it_is_left_out():
    found = changed(Recorded(["pick", "pick"]), 0, 3)
    assert found["instruction none"] == {CONFIG.language: [""]} and "instruction swapped" not in found


def test_one_episode_alone_has_no_other_to_show():
    assert not [name for name in changed(Recorded(["pick"]), 0, 3) if "camera" in name and "swapped" in name]
