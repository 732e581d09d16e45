"""Bootstrap intervals against what is known without them."""

import math

import pytest
import torch

from gan3d.bench import intervals
from gan3d.bench.intervals import (
    around,
    frechet_interval,
    frechet_of_samples,
    kernel_interval,
    mean_interval,
    resampled,
    states_interval,
)
from gan3d.metrics.frechet import feature_moments, frechet_distance
from gan3d.metrics.kernel import squared_mmd
from gan3d.randomness import Randomness


def rows(num: int, dim: int, name: str) -> torch.Tensor:
    return Randomness(0, range(num)).normal(name, dim)


def test_a_resample_has_as_many_images_and_every_image_alike():
    counts = resampled(10, 2000, 0, "real")
    assert torch.equal(counts.sum(1), torch.full((2000,), 10.0).double())
    assert (counts.mean(0) - 1).abs().max() < 0.1  # a count has the deviation 0.95
    assert not torch.equal(counts, resampled(10, 2000, 0, "fake"))
    assert not torch.equal(counts, resampled(10, 2000, 1, "real"))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = rows(400, 1, "x")[:, 0]
    interval = mean_interval(values, 4000, 0, "x")
    assert interval.value == pytest.approx(float(values.double().mean()))
    half = 1.96 * float(values.double().std(correction=0)) / math.sqrt(400)
    assert interval.low == pytest.approx(interval.value - half, abs=0.08 * half)
    assert interval.high == pytest.approx(interval.value + half, abs=0.08 * half)


def test_a_bias_of_the_resamples_does_not_move_the_interval():
    statistics = torch.linspace(-1, 1, 41).double()
    assert around(5.0, statistics + 100) == pytest.approx(around(5.0, statistics))
    assert around(5.0, statistics) == pytest.approx((5.0, 5 - 0.95, 5 + 0.95))


def test_the_value_of_a_frechet_interval_is_the_distance_and_the_interval_holds_its_spread():
    real, fakes = rows(300, 4, "real"), [rows(300, 4, f"fake{k}") + 0.5 for k in range(20)]
    values = [
        float(frechet_distance(*feature_moments(real), *feature_moments(fake))) for fake in fakes
    ]
    interval = frechet_interval(real, fakes[0], 200, 0)
    assert interval.value == pytest.approx(values[0], rel=1e-9)
    # the reals are drawn anew, too: of two sets the variance is about twice that of one
    spread = torch.tensor(values).std() * math.sqrt(2)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * float(spread), rel=0.4)
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(("num", "other", "dim"), [(30, 40, 100), (40, 30, 100), (60, 50, 8)])
def test_a_distance_of_weighted_samples_is_that_of_their_covariances(num, other, dim):
    """With more features than images, and with fewer."""
    x, y = rows(num, dim, "real").double() + 0.5, rows(other, dim, "fake").double() * 1.3
    drawn = zip(resampled(num, 3, 0, "real"), resampled(other, 3, 0, "fake"))
    for v, w in drawn:
        again = [x.repeat_interleave(v.long(), 0), y.repeat_interleave(w.long(), 0)]
        moments = [moment for rows in again for moment in feature_moments(rows)]
        found = frechet_of_samples(x, y, v, w, x @ y.mT)
        assert float(found) == pytest.approx(float(frechet_distance(*moments)), rel=1e-6)


def test_an_interval_of_wide_features_is_that_of_the_plain_formula(monkeypatch):
    """Features that are 0 for every image change no distance, but make 4 of them 60."""
    real, fake = rows(50, 4, "real"), rows(50, 4, "fake") + 0.5
    plain = frechet_interval(real, fake, 20, 0)
    monkeypatch.setattr(intervals, "_moments", None)  # the covariances are not made
    real, fake = (torch.nn.functional.pad(x, (0, 56)) for x in (real, fake))
    assert frechet_interval(real, fake, 20, 0) == pytest.approx(plain, rel=1e-6)


def test_the_value_of_a_kernel_interval_is_the_unbiased_distance():
    real, fake = rows(60, 4, "real"), rows(60, 4, "fake") + 0.3
    interval = kernel_interval(real, fake, 100, 0)
    assert interval.value == pytest.approx(float(squared_mmd(fake, real)), rel=1e-6)
    assert interval.low < interval.value < interval.high


def test_a_kernel_distance_of_a_resample_is_unbiased():
    """Copies are left out: else the mean over resamples would lie above the distance."""
    real, fake = rows(40, 4, "real"), rows(40, 4, "fake") + 0.3
    seen: list[torch.Tensor] = []
    original = intervals.around
    intervals.around = lambda value, found: seen.append(found) or original(value, found)
    try:
        value = kernel_interval(real, fake, 2000, 0).value
    finally:
        intervals.around = original
    (found,) = seen
    error = float(found.std()) / math.sqrt(2000)
    assert abs(float(found.mean()) - value) < 4 * error


def test_a_value_of_a_sum_of_states_has_the_interval_of_a_mean():
    values = rows(50, 1, "x")
    states = torch.cat([torch.ones(50, 1), values], dim=1).double()
    (interval,) = states_interval(lambda s: (s[1] / s[0])[None], states, 400, 0, "x")
    expected = mean_interval(values[:, 0], 400, 0, "x")
    assert interval.value == pytest.approx(expected.value)
    assert interval == pytest.approx(expected, abs=0.02)


def test_the_interval_of_a_share_stays_within_0_and_1():
    share = (torch.arange(8) < 7).double()
    states = torch.stack([torch.ones(8).double(), share], dim=1)
    (summed,) = states_interval(lambda s: (s[1] / s[0])[None], states, 100, 0, "x")
    for interval in (mean_interval(share, 100, 0, "x"), summed):
        assert 0 <= interval.low < interval.value <= interval.high <= 1
