"""Rotation representations, in pytorch3d's conventions, on float64 numpy arrays with any leading dimensions.

Quaternions have the real part first and come out with it non-negative; rotation_6d is the first two rows of the
matrix (Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks"); Euler angles
``euler_angles_rpy`` mean ``R = R_x(r) R_y(p) R_z(y)``, and so on for the other orders, in radians.
"""

from __future__ import annotations

import numpy as np

from trainer.data.dataset_meta import RotationType

WIDTHS: dict[str, int] = {"axis_angle": 3, "quaternion": 4, "rotation_6d": 6, "matrix": 9}
"""Dimensions of a representation; Euler angles, in all orders, have 3."""

_AXES = {"r": 0, "p": 1, "y": 2}


def width(rotation: RotationType) -> int:
    """Number of dimensions of ``rotation``."""
    return WIDTHS.get(rotation, 3)


def convert(values: np.ndarray, source: RotationType, target: RotationType) -> np.ndarray:
    """Turn ``values`` ``[..., width(source)]`` into ``[..., width(target)]``."""
    return values if source == target else from_matrix(to_matrix(values, source), target)


def to_matrix(values: np.ndarray, source: RotationType) -> np.ndarray:
    """Rotation matrices ``[..., 3, 3]`` of ``values`` ``[..., width(source)]``."""
    values = np.asarray(values, dtype=np.float64)
    if source == "matrix":
        return values.reshape(*values.shape[:-1], 3, 3)
    if source == "quaternion":
        return _quaternion_to_matrix(values)
    if source == "axis_angle":
        return _quaternion_to_matrix(_axis_angle_to_quaternion(values))
    if source == "rotation_6d":
        return _6d_to_matrix(values)
    matrices = [
        _about_axis(_AXES[letter], values[..., i]) for i, letter in enumerate(source.removeprefix("euler_angles_"))
    ]
    return matrices[0] @ matrices[1] @ matrices[2]


def from_matrix(matrix: np.ndarray, target: RotationType) -> np.ndarray:
    """Rotation matrices ``[..., 3, 3]`` as ``[..., width(target)]``."""
    if target == "matrix":
        return matrix.reshape(*matrix.shape[:-2], 9)
    if target == "quaternion":
        return _matrix_to_quaternion(matrix)
    if target == "axis_angle":
        return _quaternion_to_axis_angle(_matrix_to_quaternion(matrix))
    if target == "rotation_6d":
        return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)
    return _matrix_to_euler(matrix, target.removeprefix("euler_angles_"))


def _quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    # Dividing by the squared norm makes quaternions of any length give a rotation.
    s = 2.0 / (quaternion**2).sum(-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """Of the four ways to read a quaternion off a matrix, take the one that divides by the largest component."""
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = np.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], axis=-1)
    lengths = np.sqrt(np.maximum(squares, 0))
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    rows = [
        [lengths[..., 0] ** 2, a, b, c],
        [a, lengths[..., 1] ** 2, d, e],
        [b, d, lengths[..., 2] ** 2, f],
        [c, e, f, lengths[..., 3] ** 2],
    ]
    candidates = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    best = lengths.argmax(-1)[..., None]
    divisor = 2 * np.take_along_axis(lengths, best, -1)
    quaternion = np.take_along_axis(candidates, best[..., None], -2)[..., 0, :] / divisor
    return np.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def _axis_angle_to_quaternion(axis_angle: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(axis_angle, axis=-1, keepdims=True)
    # sin(a/2)/a, which np.sinc evaluates without dividing by a zero angle.
    return np.concatenate([np.cos(angle / 2), axis_angle * np.sinc(angle / (2 * np.pi)) / 2], axis=-1)


def _quaternion_to_axis_angle(quaternion: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(norm, quaternion[..., :1])
    return quaternion[..., 1:] / (np.sinc(angle / (2 * np.pi)) / 2)


def _6d_to_matrix(values: np.ndarray) -> np.ndarray:
    """Gram-Schmidt: the network's or the dataset's six numbers need not be orthonormal."""
    first, second = values[..., :3], values[..., 3:]
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    y = second - (x * second).sum(-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-2)


def _about_axis(axis: int, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    j, k = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., j, j], matrix[..., j, k] = cos, -sin
    matrix[..., k, j], matrix[..., k, k] = sin, cos
    return matrix


def _matrix_to_euler(matrix: np.ndarray, order: str) -> np.ndarray:
    """For ``R = R_a R_b R_c``, ``R[a, c]`` is the sine of the middle angle, up to the sign of the permutation abc."""
    a, b, c = (_AXES[letter] for letter in order)
    sign = 1 if (b - a) % 3 == 1 else -1
    first = np.arctan2(-sign * matrix[..., b, c], matrix[..., c, c])
    middle = np.arcsin(np.clip(sign * matrix[..., a, c], -1, 1))
    last = np.arctan2(-sign * matrix[..., a, b], matrix[..., a, a])
    return np.stack([first, middle, last], axis=-1)
