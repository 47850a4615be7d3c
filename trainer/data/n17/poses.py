"""End-effector poses relative to where the end effector is (upstream's ``gr00t/data/state_action/pose.py``).

A pose is a position and a rotation; relative to a state it is ``T_state^-1 T_action``, so that it is measured in the
end effector's own frame.
"""

from __future__ import annotations

import numpy as np

from trainer.data.data_config import Pose
from trainer.data.dataset_meta import RotationType
from trainer.data.transforms import rotations

_ROTATION: dict[Pose, RotationType] = {"xyz_rot6d": "rotation_6d", "xyz_rotvec": "axis_angle"}


def width(pose: Pose) -> int:
    """Dimensions of a pose: three of the position, and those of the rotation."""
    return 3 + rotations.width(_ROTATION[pose])


def relative(action: np.ndarray, state: np.ndarray, pose: Pose) -> np.ndarray:
    """Poses ``[..., width]`` seen from ``state`` ``[..., width]``, float64. A rotation need not be orthonormal."""
    position, rotation = _split(action, pose)
    origin, frame = _split(state, pose)
    inverse = np.swapaxes(frame, -1, -2)
    moved = (inverse @ (position - origin)[..., None])[..., 0]
    return _join(moved, inverse @ rotation, pose)


def absolute(action: np.ndarray, state: np.ndarray, pose: Pose) -> np.ndarray:
    """The inverse of ``relative``."""
    position, rotation = _split(action, pose)
    origin, frame = _split(state, pose)
    return _join((frame @ position[..., None])[..., 0] + origin, frame @ rotation, pose)


def _split(values: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=np.float64)
    return values[..., :3], rotations.to_matrix(values[..., 3:], _ROTATION[pose])


def _join(position: np.ndarray, rotation: np.ndarray, pose: Pose) -> np.ndarray:
    return np.concatenate([position, rotations.from_matrix(rotation, _ROTATION[pose])], axis=-1)
