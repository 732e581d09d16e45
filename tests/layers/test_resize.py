"""Resizing for discriminators."""

import pytest
import torch
import torch.nn.functional as F

from gan3d.layers.resize import filtered_resizing

MODES = pytest.mark.parametrize("mode", ["antialiased", "none", "classic", 0.3])


@MODES
@pytest.mark.parametrize("size", [5, 12, 31])
def test_a_constant_image_stays_constant_inside(mode, size):
    y = filtered_resizing(torch.full((2, 3, 16, 16), 0.4), size, mode)
    assert y.shape == (2, 3, size, size)
    inside = y if mode != "classic" else y[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.4))


@pytest.mark.parametrize("mode", ["antialiased", "none", 0.3])
def test_an_image_of_the_right_size_is_itself(mode):
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(filtered_resizing(image, 8, mode), image)


def test_only_antialiasing_averages_what_shrinking_would_drop():
    stripes = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(8).expand(1, 1, 32, 32)
    # The samples are between columns 1 and 2, 5 and 6, ..., which are all 0; the mean is 1 / 4.
    smooth = filtered_resizing(stripes, 8, "antialiased")[0, 0, :, 2:-2]
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.25), atol=0.02, rtol=0)
    assert torch.equal(filtered_resizing(stripes, 8, "none"), torch.zeros(1, 1, 8, 8))


def test_a_number_interpolates_between_none_and_antialiased():
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    sharp, smooth = (filtered_resizing(image, 6, mode) for mode in ("none", "antialiased"))
    torch.testing.assert_close(filtered_resizing(image, 6, 0.25), 0.75 * sharp + 0.25 * smooth)


def test_enlarging_is_plain_bilinear_interpolation():
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(filtered_resizing(image, 16), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", 1.5, -0.1])
def test_unknown_modes_are_refused_with_the_known_ones(mode):
    with pytest.raises(ValueError, match="antialiased, classic, none"):
        filtered_resizing(torch.zeros(1, 3, 8, 8), 4, mode)
