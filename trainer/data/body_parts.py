"""Which parts of a robot the dimensions of a vector belong to: by their names, or by a robot's known order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

GR1_JOINTS: dict[str, tuple[int, int]] = {
    "left_arm": (0, 7),
    "left_hand": (7, 13),
    "left_leg": (13, 19),
    "neck": (19, 22),
    "right_arm": (22, 29),
    "right_hand": (29, 35),
    "right_leg": (35, 41),
    "waist": (41, 44),
}
"""Of a Fourier GR1, as Isaac-GR00T's demo dataset has them."""

_ARM = {"single_arm": (0, 5), "gripper": (5, 6)}
_TWO_ARMS = {"left_arm": (0, 5), "left_gripper": (5, 6), "right_arm": (6, 11), "right_gripper": (11, 12)}
_ALOHA = {"left_arm": (0, 6), "left_gripper": (6, 7), "right_arm": (7, 13), "right_gripper": (13, 14)}
_FRANKA = {"single_arm": (0, 7), "gripper": (7, 8)}
_ROBOTS: tuple[tuple[str, str, int, dict[str, tuple[int, int]]], ...] = (
    ("an SO-100 or SO-101", r"so-?_?10[01]", 6, _ARM),
    ("two SO-100 or SO-101", r"so-?_?10[01]", 12, _TWO_ARMS),
    ("an ALOHA", r"aloha|vx300|trossen", 14, _ALOHA),
    ("a Franka with a gripper", r"franka|panda|fr3|droid", 8, _FRANKA),
    ("a Fourier GR1", r"gr1", 44, GR1_JOINTS),
)
"""Name for people, pattern of ``robot_type``, dimensions, parts. LeRobot's order, and the vendors'."""

_PARTS: tuple[tuple[str, set[str]], ...] = (
    ("gripper", {"gripper", "jaw", "claw"}),
    ("hand", {"hand", "thumb", "index", "middle", "ring", "pinky", "little", "finger", "palm"}),
    ("leg", {"leg", "hip", "knee", "ankle"}),
    ("arm", {"arm", "shoulder", "elbow", "wrist", "forearm"}),
    ("waist", {"waist", "torso"}),
    ("neck", {"neck", "head"}),
    ("base", {"base", "wheel", "chassis"}),
)
"""The first that has a word of the name."""
_POSITION = {"x", "y", "z"}
_ROTATION = {
    "roll",
    "pitch",
    "yaw",
    "rx",
    "ry",
    "rz",
    "wx",
    "wy",
    "wz",
    "qx",
    "qy",
    "qz",
    "qw",
    "axis",
    "angle",
    "quat",
}
_SIDES = {"left": "left", "right": "right"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


class Parts(NamedTuple):
    """A vector in named parts."""

    slices: dict[str, tuple[int, int]]
    """Key to its dimensions, the end excluded; together they are the whole vector."""
    reason: str
    """Why, for people."""


def parts_of(names: Sequence[str] | None, width: int, robot_type: str) -> Parts:
    """The parts of a vector of ``width`` dimensions called ``names``, of a robot that ``info.json`` calls
    ``robot_type``. Where neither tells it is one part, ``joints``.
    """
    if names is not None and len(names) == width:
        found = [_part(name) for name in names]
        if any(found):
            return Parts(_runs([each or "single_arm" for each in found]), f"from the names {_listed(names)}")
    for robot, pattern, dimensions, slices in _ROBOTS:
        if dimensions == width and re.search(pattern, robot_type.lower()):
            return Parts(dict(slices), f"{width} dimensions of {robot} (robot_type {robot_type})")
    reported = "names tell no parts" if names else "they have no names"
    return Parts(
        {"joints": (0, width)}, f"{width} dimensions in one part: {reported}, and the robot is not a known one"
    )


def _part(name: str) -> str:
    """The part that the name of a dimension says; empty where it says none, as ``joint_3`` does."""
    words = [word.lower() for word in _WORD.findall(name)]
    if len(words) > 1 and words[0] in ("l", "r"):
        words[0] = {"l": "left", "r": "right"}[words[0]]
    side = next((_SIDES[word] for word in words if word in _SIDES), "")
    words_seen = set(words)
    if {"panda", "finger"} <= words_seen:
        words_seen.add("gripper")
    part = next((part for part, of in _PARTS if of & words_seen), "")
    if not part and "vel" in words_seen and words_seen & {"x", "y", "theta"}:
        part = "base"  # LeKiwi's x.vel, y.vel, theta.vel
    elif not part and words_seen & _ROTATION:
        part = "end_effector_rotation"
    elif not part and words_seen & _POSITION:
        part = "end_effector_position"
    if side:
        # The waist of one of ALOHA's arms is the arm's first joint.
        return f"{side}_{'arm' if part in ('', 'waist') else part}"
    return "single_arm" if part == "arm" else part


def _runs(parts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Part to its dimensions; one that is interrupted continues as ``arm_2``."""
    starts = [i for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    seen: Counter[str] = Counter()
    slices = {}
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        part = parts[start]
        seen[part] += 1
        slices[part if seen[part] == 1 else f"{part}_{seen[part]}"] = (start, end)
    return slices


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
