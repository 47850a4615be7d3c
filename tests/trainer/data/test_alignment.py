"""The rule that says which frame a row means, over all clocks there may be."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.alignment import Misaligned, align
from trainer.data.video import PACKET, FrameIndex

FPS = st.sampled_from([5, 10, 15, 20, 24, 25, 30, 50, 60])


def video(starts: np.ndarray, base: Fraction = Fraction(1, 90000)) -> FrameIndex:
    """A video whose frames come on screen at ``starts``, to the nearest tick of ``base``."""
    packets = np.zeros(len(starts), PACKET)
    packets["pts"] = np.round(np.asarray(starts) / float(base))
    return FrameIndex(packets, base, 64, 48, "h264", "", "")


def regular(frames: int, fps: float, first: float = 0.0) -> FrameIndex:
    return video(first + np.arange(frames) / fps)


@given(FPS, st.integers(1, 3000), st.integers(0, 3), st.floats(-0.49, 0.99), st.randoms(use_true_random=False))
def test_stamps_between_half_a_period_before_and_one_after_mean_their_own_frame(fps, rows, more, shift, random):
    jitter = np.array([random.uniform(max(-0.49 - shift, -0.2), min(0.99 - shift, 0.2)) for _ in range(rows)])
    times = np.sort(((np.arange(rows) + shift + jitter) / fps).astype(np.float32))
    found = align(times, regular(rows + more, fps), fps)
    np.testing.assert_array_equal(found, np.arange(rows))


@given(FPS, st.integers(2, 500), st.integers(2, 6), st.floats(-0.2, 0.45))
def test_a_faster_camera_gives_the_frame_on_screen(fps, rows, factor, shift):
    """``shift`` in periods of the camera."""
    times = (np.arange(rows) / fps + shift / (factor * fps)).astype(np.float32)
    found = align(times, regular(factor * rows, factor * fps), factor * fps)
    np.testing.assert_array_equal(found, factor * np.arange(rows))


@given(FPS, st.integers(2, 2000), st.floats(1.05, 1e6) | st.floats(-1e6, -0.55), st.integers(0, 2))
def test_a_clock_that_is_shifted_further_is_refused(fps, rows, shift, more):
    found = align((np.arange(rows) + shift) / fps, regular(rows + more, fps), fps)
    if isinstance(found, np.ndarray):  # whole periods later, the frames beyond the rows are meant
        assert 1 < shift <= more + 0.52
        np.testing.assert_array_equal(found, np.arange(rows) + int(shift + 0.27))
    else:
        assert found.cause and found.by_index == (more == 0)


@given(st.integers(300, 4000), st.floats(0.9, 0.9985) | st.floats(1.0015, 1.1))
def test_a_clock_that_drifts_is_refused_once_it_is_half_a_period_off(rows, rate):
    """Never is a row given the frame of another in silence."""
    found = align(np.arange(rows) / 30, regular(rows, 30 * rate), 30)
    if isinstance(found, np.ndarray):
        np.testing.assert_array_equal(found, np.arange(rows))
        assert rows * abs(rate - 1) < 1.1
    else:
        assert found.by_index and found.row > 0


@given(
    st.lists(st.floats(-1e10, 1e10), min_size=1, max_size=40),
    st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=40),
)
def test_any_clock_is_aligned_or_refused(times, pts):
    index = video(np.sort(np.array(pts, float)) / 90000)
    found = align(np.sort(np.array(times)), index, 30)
    if isinstance(found, Misaligned):
        assert 0 <= found.row < len(times) and 0 <= found.frame < len(pts)
    else:
        assert len(found) == len(times) and found.min() >= 0 and found.max() < len(pts)


def test_the_demo_datasets_stamps_mean_their_own_frame():
    rows = np.arange(500)
    times = ((rows + 1) / 20 - 5e-8).astype(np.float32)
    np.testing.assert_array_equal(align(times, regular(500, 20), 20), rows)


def test_about_half_of_float32_timestamps_lie_below_their_frames_start():
    """Why the exact comparison of upstream's backends takes the frame before for half of the rows."""
    exact = np.arange(1000) / 30
    stored = exact.astype(np.float32)
    assert 0.4 < (stored.astype(np.float64) < exact).mean() < 0.6
    assert (np.searchsorted(exact, stored.astype(np.float64), side="right") - 1 != np.arange(1000)).any()
    np.testing.assert_array_equal(align(stored, regular(1000, 30), 30), np.arange(1000))


@pytest.mark.parametrize("fps", [30, 60])
def test_a_clock_of_milliseconds_is_precise_enough(fps):
    index = video(np.arange(500) / fps, Fraction(1, 1000))
    for shift in (0, 1):
        np.testing.assert_array_equal(align((np.arange(500) + shift) / fps, index, fps), np.arange(500))


def test_two_rows_of_a_fast_camera_are_not_paired_by_number():
    np.testing.assert_array_equal(align(np.array([0, 1 / 15]), regular(4, 30), 30), [0, 2])
    np.testing.assert_array_equal(align(np.array([0, 1 / 30]), regular(1, 15), 15), [0, 0])


def test_by_index_the_clock_does_not_count():
    times = np.full(30, 1.7e9)
    np.testing.assert_array_equal(align(times, regular(30, 30), 30, "index"), np.arange(30))
    assert isinstance(align(times, regular(31, 30), 30, "index"), Misaligned)
