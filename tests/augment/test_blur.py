"""Blur: its impulse response in closed form, and its fade."""

import pytest
import torch

from gan3d.augment import Blur
from gan3d.augment.blur import blur


@pytest.mark.parametrize(("sigma", "radius"), [(0.34, 1), (1.0, 3), (2.5, 7)])
def test_an_impulse_falls_by_powers_of_two_up_to_three_sigma(sigma, radius):
    x = torch.zeros(1, 1, 21, 21)
    x[..., 10, 10] = 1.0
    k = torch.arange(-10, 11)
    taps = torch.where(k.abs() <= radius, 2.0 ** -((k / sigma) ** 2), 0.0)
    taps = taps / taps.sum()
    torch.testing.assert_close(blur(x, sigma)[0, 0], torch.outer(taps, taps))


def test_below_a_third_of_a_pixel_the_image_itself_is_returned():
    x = torch.ones(1, 3, 4, 4)
    assert blur(x, 0.33) is x
    assert blur(x, 0.0) is x


def test_the_blur_fades_linearly_and_ends():
    fading = Blur(sigma=10.0, fade_kimg=0.2)
    assert [fading.sigma_at(seen) for seen in (0, 50, 200, 1000)] == [10.0, 7.5, 0.0, 0.0]
    assert Blur(sigma=10.0, fade_kimg=0).sigma_at(0) == 0.0
