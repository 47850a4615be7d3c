"""Rotations against hand-worked values of pytorch3d's conventions, and round trips."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.dataset_meta import RotationType
from trainer.data.transforms import rotations

ALL: tuple[RotationType, ...] = get_args(RotationType)
QUARTER = np.pi / 2


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Random rotations, half turns (the hard case of quaternions) and small ones among them."""
    axis = np.array(draw(st.lists(st.integers(-9, 9), min_size=3, max_size=3).filter(any)), dtype=float)
    angle = draw(st.sampled_from([0.0, 1e-9, 1e-3, np.pi, np.pi - 1e-6]) | st.floats(0, np.pi))
    return rotations.to_matrix(axis / np.linalg.norm(axis) * angle, "axis_angle")


@given(matrix=matrices(), representation=st.sampled_from(ALL))
def test_every_representation_gives_back_the_rotation(matrix: np.ndarray, representation: RotationType) -> None:
    values = rotations.from_matrix(matrix, representation)
    assert values.shape == (rotations.width(representation),)
    np.testing.assert_allclose(rotations.to_matrix(values, representation), matrix, atol=1e-7)


@given(matrix=matrices(), source=st.sampled_from(ALL), target=st.sampled_from(ALL))
def test_conversion_and_back_is_the_same_rotation(
    matrix: np.ndarray, source: RotationType, target: RotationType
) -> None:
    values = rotations.from_matrix(matrix[None], source)
    back = rotations.convert(rotations.convert(values, source, target), target, source)
    np.testing.assert_allclose(rotations.to_matrix(back, source)[0], matrix, atol=1e-6)


@given(matrix=matrices())
def test_matrices_are_proper_rotations(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_a_quarter_turn_about_z_in_every_representation() -> None:
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    expected: dict[RotationType, list[float]] = {
        "axis_angle": [0, 0, QUARTER],
        "quaternion": [np.sqrt(0.5), 0, 0, np.sqrt(0.5)],
        "rotation_6d": [0, -1, 0, 1, 0, 0],
        "euler_angles_rpy": [0, 0, QUARTER],
        "euler_angles_ypr": [QUARTER, 0, 0],
    }
    for representation, values in expected.items():
        np.testing.assert_allclose(rotations.to_matrix(np.array(values), representation), turn, atol=1e-12)
        np.testing.assert_allclose(rotations.from_matrix(turn, representation), values, atol=1e-12)


def test_euler_letters_multiply_from_left_to_right() -> None:
    roll, pitch = np.array([0.3, 0, 0]), np.array([0, 0.5, 0])
    product = rotations.to_matrix(roll, "axis_angle") @ rotations.to_matrix(pitch, "axis_angle")
    np.testing.assert_allclose(rotations.to_matrix(np.array([0.3, 0.5, 0.0]), "euler_angles_rpy"), product, atol=1e-12)
    np.testing.assert_allclose(rotations.from_matrix(product, "euler_angles_rpy"), [0.3, 0.5, 0], atol=1e-12)


def test_quaternions_of_any_length_and_unorthogonal_6d_still_give_rotations() -> None:
    np.testing.assert_allclose(rotations.to_matrix(np.array([2.0, 0, 0, 0]), "quaternion"), np.eye(3))
    np.testing.assert_allclose(
        rotations.to_matrix(np.array([3.0, 0, 0, 1, 2, 0]), "rotation_6d"), np.eye(3), atol=1e-12
    )


def test_quaternions_come_out_with_a_non_negative_real_part() -> None:
    flipped = rotations.convert(np.array([-0.5, 0.5, 0.5, 0.5]), "quaternion", "axis_angle")
    np.testing.assert_allclose(rotations.convert(flipped, "axis_angle", "quaternion"), [0.5, -0.5, -0.5, -0.5])
