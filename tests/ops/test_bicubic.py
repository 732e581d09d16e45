"""Gamma: its explicit matrix, constants and ramps, torch's antialiased bicubic, derivatives."""

import pytest
import torch
import torch.nn.functional as F

from gan3d.ops.bicubic import bicubic_downsample, cubic_taps


def cubic(t: float) -> float:
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def matrix(size: int, factor: int) -> torch.Tensor:
    """Gamma along one axis, [size/S size]; taps beyond the border go to the border pixel."""
    rows = torch.zeros(size // factor, size, dtype=torch.float64)
    for p in range(size // factor):
        for i in range(4 * factor):
            source = min(max(factor * p + i - 3 * factor // 2, 0), size - 1)
            rows[p, source] += cubic((i - 2 * factor + 0.5) / factor) / factor
    return rows


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_it_equals_the_matrix_of_its_definition(factor):
    h, w = 2 * factor, 3 * factor
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    expected = matrix(h, factor) @ x @ matrix(w, factor).T
    torch.testing.assert_close(bicubic_downsample(x, factor), expected)


def test_it_is_not_lowered_by_autocast_and_returns_float32_at_least():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = bicubic_downsample(x, 4)
        half = bicubic_downsample(x.bfloat16(), 4)
    assert torch.equal(lowered, bicubic_downsample(x, 4))
    assert torch.equal(half, bicubic_downsample(x.bfloat16().float(), 4))


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_taps_are_symmetric_and_sum_to_one(factor):
    taps = cubic_taps(factor)
    assert len(taps) == 4 * factor
    assert taps.sum().item() == pytest.approx(1)
    torch.testing.assert_close(taps, taps.flip(0))


def test_constants_are_preserved():
    x = torch.full((1, 2, 12, 16), 0.7, dtype=torch.float64)
    torch.testing.assert_close(bicubic_downsample(x, 4), x[..., ::4, ::4])


def test_a_ramp_is_not_shifted_when_pixels_are_areas():
    ramp = (torch.arange(64, dtype=torch.float64) + 0.5).expand(1, 64, 64)
    inner = bicubic_downsample(ramp, 4)[0, :, 2:-2]
    expected = (4 * (torch.arange(16, dtype=torch.float64) + 0.5)).expand(16, 16)
    torch.testing.assert_close(inner, expected[:, 2:-2])


@pytest.mark.parametrize("factor", [2, 4])
def test_away_from_the_border_it_is_torchs_antialiased_bicubic(factor):
    x = torch.randn(1, 1, 12 * factor, 12 * factor, dtype=torch.float64)
    ours = bicubic_downsample(x, factor)
    theirs = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2])


def test_leading_axes_are_kept():
    x = torch.randn(2, 5, 4, 8, 8)
    y = bicubic_downsample(x, 2)
    assert y.shape == (2, 5, 4, 4, 4)
    torch.testing.assert_close(y[1, 3], bicubic_downsample(x[1, 3], 2))


def test_first_and_second_derivatives():
    x = torch.randn(1, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bicubic_downsample(x, 2), x)
    assert torch.autograd.gradgradcheck(lambda x: bicubic_downsample(x, 2), x)


def test_odd_factors_and_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="factor 3 is not an even number"):
        bicubic_downsample(torch.zeros(1, 6, 6), 3)
    with pytest.raises(ValueError, match="multiples of factor 4"):
        bicubic_downsample(torch.zeros(1, 8, 6), 4)
