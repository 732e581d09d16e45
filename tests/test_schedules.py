"""gan3d.schedules: functions of images seen."""

import pytest

from gan3d.schedules import Ramp, crossed, fraction


def test_a_ramp_starts_at_initial_is_half_way_at_half_time_and_stays_at_final():
    ramp = Ramp(64, 128, fade_kimg=10)
    assert [ramp.at(n) for n in (0, 5_000, 10_000, 99_000)] == [64, 96, 128, 128]


def test_a_ramp_without_final_is_constant_and_without_initial_is_no_schedule():
    assert Ramp(64).at(123_456) == 64
    assert Ramp().at(5) is None


def test_nothing_to_fade_is_faded():
    assert fraction(0, 0.0) == 1.0


@pytest.mark.parametrize("batch", [1, 7, 8, 640])
def test_an_event_comes_once_per_period_whatever_the_batch_size(batch):
    seen = range(0, 10_000, batch)
    due = sum(crossed(n, n + batch, 1.0) for n in seen)
    assert due == (seen[-1] + batch) // 1000


def test_a_period_of_zero_is_never_due():
    assert not crossed(0, 10_000, 0)
