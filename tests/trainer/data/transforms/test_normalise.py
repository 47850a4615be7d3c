"""Normalisers: their edge cases, and that the inverse undoes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.data.configs import Normalisation
from trainer.data.statistics import Statistics, statistics_of
from trainer.data.transforms.normalise import normalise, unnormalise
from trainer.errors import UsageError

STATISTICS = Statistics(
    min=[-2.0, 5.0, 0.0], max=[2.0, 5.0, 0.0], mean=[0.5, 5.0, 0.0], std=[2.0, 0.0, 0.0], q01=[-1.0, 5.0, 0.0],
    q99=[1.0, 5.0, 0.0],
)  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min_max", [3.0, 5.0, 0.1], [1.5, 0.0, 0.0]),  # not clipped; a dimension that never moves is 0
        ("q99", [3.0, 5.0, 0.1], [1.0, 1.0, 0.1]),  # clipped; without a range the value itself, clipped
        ("mean_std", [3.0, 6.0, 0.1], [1.25, 6.0, 0.1]),
        ("scale", [1.0, 5.0, 0.1], [0.5, 1.0, 0.0]),
        ("binary", [0.5, 0.51, -1.0], [0.0, 1.0, 0.0]),
    ],
)
def test_forward(mode: Normalisation, values: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(normalise(np.array([values]), mode, STATISTICS), [expected])


def test_constant_dimensions_come_back_as_their_constant() -> None:
    np.testing.assert_allclose(unnormalise(np.array([0.0, 0.7, -0.3]), "min_max", STATISTICS), [0.0, 5.0, 0.0])


def test_scale_has_no_inverse() -> None:
    with pytest.raises(UsageError, match="no inverse"):
        unnormalise(np.zeros(3), "scale", STATISTICS)


columns = st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), min_size=2, max_size=30)


@given(rows=columns, mode=st.sampled_from(["min_max", "mean_std", "q99"]))
def test_inverse_undoes_forward(rows: list[list[float]], mode: Normalisation) -> None:
    values = np.array(rows)
    statistics = statistics_of(values)
    spread = np.array(statistics.q99) - np.array(statistics.q01)
    assume((spread > 1e-3).all())
    if mode == "q99":
        values = np.clip(values, statistics.q01, statistics.q99)
    back = unnormalise(normalise(values, mode, statistics), mode, statistics)
    np.testing.assert_allclose(back, values, rtol=1e-9, atol=1e-6)


@given(rows=columns)
def test_min_max_of_the_data_itself_lies_within_one(rows: list[list[float]]) -> None:
    values = np.array(rows)
    assert np.abs(normalise(values, "min_max", statistics_of(values))).max() <= 1 + 1e-9


@given(rows=columns)
def test_scale_keeps_signs_and_zeros_and_lies_within_one(rows: list[list[float]]) -> None:
    values = np.array(rows)
    scaled = normalise(values, "scale", statistics_of(values))
    assert np.abs(scaled).max() <= 1 + 1e-9
    assert (np.sign(scaled) == np.sign(values)).all()


@given(rows=columns)
def test_binary_survives_any_number_of_turns(rows: list[list[float]]) -> None:
    values = np.array(rows)
    once = normalise(values, "binary", STATISTICS)
    assert set(np.unique(once)) <= {0.0, 1.0} and ((once == 1) == (values > 0.5)).all()
    np.testing.assert_array_equal(unnormalise(once, "binary", STATISTICS), once)
    np.testing.assert_array_equal(normalise(once, "binary", STATISTICS), once)


@given(rows=columns)
def test_q99_of_anything_lies_within_one(rows: list[list[float]]) -> None:
    values = np.array(rows)
    assert np.abs(normalise(values * 3, "q99", statistics_of(values))).max() <= 1
