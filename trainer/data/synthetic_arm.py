"""The synthetic dataset's robot in closed loop: an arm that follows actions, and an object that it may pick up.

The scene, the joints and the pictures are those of ``trainer.data.synthetic``, where each trial lies differently. The
arm is position-controlled, as the dataset's is: at the next step its joints are at the action's positions, unless the
counter is in the way. The hand closes by its set points. What decides a grasp and a placing is measured in the picture,
from the sizes of what is drawn, and knows nothing of any policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data.synthetic import HOME, SLICES, TASK_COLUMN, Motion, joints
from trainer.data.synthetic_scene import FOREARM, OBJECTS, SHOULDER, UPPER_ARM, Scene

CAMERA = "ego_view"
STEPS = 120
"""Of a trial, at most: at 20 Hz six seconds, one and a half times the longest demonstration."""
STAGES = ("reached", "grasped", "lifted", "placed")
"""How far a trial got: the gripper was over the object, closed on it, had it in the air, and left it on the plate."""

_STREAM = 0x9A1D
"""Keeps the trials' scenes apart from the dataset's, which are drawn from the seed and the episode alone."""
_OBJECT, _PLATE = 13.0, np.array([32.0, 25.6])
"""Radii in pixels, as they are drawn."""
_LOW, _HIGH = 0.25, 0.5
"""Lifts: below the first the fingers are at the object's height, above the second it is in the air."""
_CLOSED = 0.5


class SimulatedArm:
    """One trial: a table where object and plate lie as ``seed`` and ``trial`` say, and the arm at home."""

    def __init__(self, seed: int = 0, trial: int = 0) -> None:
        names = list(OBJECTS)
        kind = names[(seed + trial) % len(names)]
        self.scene = Scene.random(kind, np.random.default_rng([_STREAM, seed, trial]))
        self.task = f"pick the {kind} from the counter and place it in the plate"
        self.steps = 0
        self.stages: set[str] = set()
        """Of ``STAGES``, those that were reached."""
        self._joints = joints(Motion(HOME[None], np.ones(1), np.zeros(1)))[0]
        self._grip = 0.0
        self._object = self.scene.object
        self._held: np.ndarray | None = None
        """Where the object is from the gripper while that holds it."""

    @property
    def over(self) -> bool:
        """Whether the trial has ended: the object is on the plate, or the time is over."""
        return "placed" in self.stages or self.steps >= STEPS

    @property
    def gripper(self) -> np.ndarray:
        """Where it is, in pixels, as projected on the counter: the arm's forward kinematics."""
        _, shoulder, _, elbow = self._joints[slice(*SLICES["right_arm"])][:4]
        shoulder, elbow = shoulder - np.pi / 2, -elbow
        upper = UPPER_ARM * np.array([np.cos(shoulder), np.sin(shoulder)])
        return SHOULDER + upper + FOREARM * np.array([np.cos(shoulder + elbow), np.sin(shoulder + elbow)])

    @property
    def lift(self) -> float:
        """0 on the counter, 1 at the height of travel."""
        return float(self._joints[SLICES["right_arm"][0]] + 0.4) / 0.5

    def observe(self) -> dict[str, Any]:
        """What a policy sees: ``video.ego_view`` uint8 [1, 256, 256, 3], ``state.<part>`` [1, D], the instruction."""
        held = self._held is not None
        picture = self.scene.draw(self._object, self.lift if held else 0.0, self.gripper, self.lift, self._grip)
        states = {f"state.{name}": self._joints[None, slice(*part)] for name, part in SLICES.items()}
        return {f"video.{CAMERA}": picture[None], **states, TASK_COLUMN: [self.task]}

    def act(self, action: Mapping[str, Any]) -> None:
        """Take one step to ``action.<part>`` [D]; other parts stay. Raises ``ValueError`` for what is no number."""
        before, parts = self._grip, {name.removeprefix("action."): np.asarray(each) for name, each in action.items()}
        for name, target in parts.items():
            if not np.isfinite(target).all():
                raise ValueError(f"action.{name} is not finite: the arm holds")
        for name, target in parts.items():
            if name == "right_hand":
                self._grip = float(np.clip((target[:4].mean() + 1.5) / 3, 0, 1))
                target = np.array([*[1.2 * self._grip] * 4, 0.8 * self._grip, 1.74])
            if name != "left_hand":  # it stays open
                self._joints[slice(*SLICES[name])] = target
        first = SLICES["right_arm"][0]
        self._joints[first] = max(self._joints[first], -0.4)  # the counter
        self.steps += 1
        self._touch(before)

    def hold(self) -> None:
        """Stay: a position-controlled arm does, until its next action."""

    def _touch(self, before: float) -> None:
        """What the step did to the object."""
        closed, near = self._grip >= _CLOSED, np.hypot(*(self.gripper - self._object)) <= _OBJECT
        if self._held is None:
            if near:
                self.stages.add("reached")
            if near and closed and before < _CLOSED and self.lift < _LOW:
                self.stages.add("grasped")
                self._held = self._object - self.gripper
        elif closed:
            self._object = self.gripper + self._held
            if self.lift > _HIGH:
                self.stages.add("lifted")
        else:
            self._held = None  # it falls straight down
            if np.hypot(*((self._object - self.scene.plate) / _PLATE)) <= 1:
                self.stages.add("placed")
