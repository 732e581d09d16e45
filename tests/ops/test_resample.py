"""FIR resampling: against scipy, against its definition, and on closed-form signals."""

from itertools import product

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gan3d.ops.resample import (
    conv2d_resample,
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upfirdn2d_reference,
    upsample2d,
)

BINOMIAL = [1, 3, 3, 1]
FILTERS = {
    "none": None,
    "binomial": setup_filter(BINOMIAL),
    "lopsided": setup_filter([1, 2, 3, 4]),
    "oblong": setup_filter([[1, -2, 3, 4], [5, 6, 7, -8], [9, 10, 11, 12]]),
    "separable": setup_filter([1, 2, -3, 4, 5], separable=True),
    "one tap": setup_filter(2.0, normalize=False),
}
FACTORS = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADDINGS = [(0, 0, 0, 0), (4, 4, 4, 4), (2, 2, 3, 3), (6, 3, 0, 4), (-1, 5, 4, -2)]


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("up", "down"), list(product([1, 2, 3], [1, 2, 3])))
def test_fast_form_and_definition_agree_in_values_and_gradients(name, up, down):
    f = None if FILTERS[name] is None else FILTERS[name].double()
    for (height, width), padding, flip_filter in product([(7, 5), (6, 9)], PADDINGS, [False, True]):
        results = []
        for form in (upfirdn2d, upfirdn2d_reference):
            x = noise(2, 3, height, width).requires_grad_()
            y = form(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=1.7)
            y.backward(noise(*y.shape, seed=1))
            results.append((y, x.grad))
        for fast, definition in zip(*results):
            torch.testing.assert_close(fast, definition, atol=1e-12, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    taps=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    up=FACTORS,
    down=FACTORS,
    padding=st.tuples(*[st.integers(-3, 6)] * 4),
)
def test_fast_form_and_definition_agree_or_both_refuse_the_input(size, taps, up, down, padding):
    x, f = noise(1, 2, *size), noise(*taps, seed=1)
    options = {"up": up, "down": down, "padding": padding}
    try:
        expected = upfirdn2d_reference(x, f, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"needs at least \d+: pad more|crop less"):
            upfirdn2d(x, f, **options)
        return
    torch.testing.assert_close(upfirdn2d(x, f, **options), expected)


def test_memory_layout_does_not_change_the_numbers():
    x, f = noise(2, 3, 8, 6), FILTERS["binomial"].double()
    strided = noise(2, 3, 16, 6)[:, :, ::2]
    channels_last = x.contiguous(memory_format=torch.channels_last)
    for function in (upsample2d, downsample2d, filter2d):
        torch.testing.assert_close(function(channels_last, f), function(x, f))
        torch.testing.assert_close(function(strided, f), function(strided.contiguous(), f))


def test_a_ramp_is_resampled_to_a_ramp_with_pixel_centers_at_half_integers():
    ramp, f = (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16), setup_filter(BINOMIAL)
    fine, coarse = upsample2d(ramp, f)[0, 0, 8], downsample2d(ramp, f)[0, 0, 4]
    torch.testing.assert_close(fine[4:-4], (torch.arange(32.0) + 0.5)[4:-4] / 2)
    torch.testing.assert_close(coarse[2:-2], (torch.arange(8.0) + 0.5)[2:-2] * 2)


def test_wrong_shapes_sizes_and_factors_are_refused():
    x = noise(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"expected \[b c h w\]"):
        upfirdn2d(x[0], None)
    with pytest.raises(ValueError, match="a filter of 4 taps needs at least 4: pad more"):
        upfirdn2d(x[..., :2], FILTERS["binomial"])
    with pytest.raises(ValueError, match="factors must be 1 or more"):
        upfirdn2d(x, None, up=0)


def test_an_image_of_one_pixel_is_resampled():
    x = noise(1, 2, 1, 1)
    for up in (1, 2, 5):
        arguments = {"up": up, "padding": (3, 3, 3, 3)}
        got = upfirdn2d(x, FILTERS["lopsided"], **arguments)
        torch.testing.assert_close(got, upfirdn2d_reference(x, FILTERS["lopsided"], **arguments))


@pytest.mark.parametrize(("up", "down"), list(product([1, 2, 3], [1, 2, 3])))
def test_separable_filters_agree_with_scipy(up, down):
    x, taps = noise(1, 1, 7, 10), [1.0, 2.0, -3.0, 4.0, 0.5]
    k = len(taps)
    f = setup_filter(taps, separable=True, normalize=False)
    ours = upfirdn2d(x, f, up=up, down=down, padding=(k - 1, k - up, k - 1, k - up))[0, 0]
    theirs = x[0, 0].numpy()
    for axis in (0, 1):
        theirs = np.apply_along_axis(
            lambda line: scipy.signal.upfirdn(taps, line, up, down), axis, theirs
        )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("name", ["lopsided", "oblong", "separable"])
def test_the_response_to_an_impulse_is_the_filter(name):
    f = FILTERS[name].double()
    kernel = f.outer(f) if f.ndim == 1 else f
    height, width = kernel.shape
    impulse = torch.zeros(1, 1, 1, 1, dtype=torch.float64) + 1
    around = (width - 1, width - 1, height - 1, height - 1)
    torch.testing.assert_close(upfirdn2d(impulse, f, padding=around)[0, 0], kernel)
    mirrored = upfirdn2d(impulse, f, padding=around, flip_filter=True)[0, 0]
    torch.testing.assert_close(mirrored, kernel.flip((0, 1)))
    torch.testing.assert_close(upfirdn2d(impulse, f, padding=around, gain=3)[0, 0], 3 * kernel)


def test_upsampling_by_two_spreads_an_impulse_over_four_pixels_per_axis():
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    expected = torch.zeros(10, 10)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    expected[3:7, 3:7] = line.outer(line)
    torch.testing.assert_close(upsample2d(x, setup_filter(BINOMIAL))[0, 0], expected)


@pytest.mark.parametrize("taps", [BINOMIAL, [1, 2, 1], [1, 2, 3, 4, 5, 4, 3, 2, 1]])
def test_a_constant_stays_that_constant_inside(taps):
    x, f = torch.full((1, 2, 16, 14), 0.75), setup_filter(taps)
    for y in (filter2d(x, f), downsample2d(x, f)):
        torch.testing.assert_close(y[:, :, 4:-4, 4:-4], torch.full_like(y[:, :, 4:-4, 4:-4], 0.75))
    if taps == BINOMIAL:  # the others weigh even and odd samples differently
        inside = upsample2d(x, f)[:, :, 8:-8, 8:-8]
        torch.testing.assert_close(inside, torch.full_like(inside, 0.75))


@pytest.mark.parametrize("name", ["binomial", "lopsided", "separable"])
@pytest.mark.parametrize("factor", [2, 3])
def test_wrappers_return_the_documented_sizes(name, factor):
    x, f = noise(1, 1, 12, 18), FILTERS[name]
    assert filter2d(x, f).shape == x.shape
    assert upsample2d(x, f, up=factor).shape == (1, 1, 12 * factor, 18 * factor)
    assert downsample2d(x, f, down=factor).shape == (1, 1, 12 // factor, 18 // factor)
    padded = downsample2d(x, f, down=factor, padding=factor)
    assert padded.shape == (1, 1, 12 // factor + 2, 18 // factor + 2)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("name", ["oblong", "separable"])
def test_resampling_is_twice_differentiable(name, up, down):
    f = FILTERS[name].double()

    def resampled(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, up=up, down=down, padding=(3, 2, 4, 4)).square()

    x = noise(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(resampled, x)
    assert torch.autograd.gradgradcheck(resampled, x)


# -- Filters ---------------------------------------------------------------------------------------


def test_short_lists_become_outer_products_long_ones_stay_separable():
    assert setup_filter([1.0] * 7).shape == (7, 7)
    assert setup_filter([1.0] * 8).shape == (8,)
    assert setup_filter([1.0] * 8, separable=False).shape == (8, 8)
    torch.testing.assert_close(setup_filter(BINOMIAL)[0], torch.tensor([1.0, 3.0, 3.0, 1.0]) / 64)
    torch.testing.assert_close(setup_filter(None), torch.ones(1, 1))


@pytest.mark.parametrize("separable", [True, False])
def test_gain_of_a_filter_scales_the_filtered_signal(separable):
    f = setup_filter([1, 2, 3], gain=5.0, separable=separable)
    y = filter2d(torch.ones(1, 1, 9, 9), f)
    torch.testing.assert_close(y[0, 0, 4, 4], torch.tensor(5.0))


@pytest.mark.parametrize("taps", [[], [[[1.0]]]])
def test_empty_and_three_dimensional_filters_are_refused(taps):
    with pytest.raises(ValueError, match="filter"):
        setup_filter(taps)


# -- Convolution with resampling -------------------------------------------------------------------


def resampled_convolution(
    x: Tensor,
    w: Tensor,
    f: Tensor,
    *,
    up: int,
    down: int,
    padding: int,
    groups: int,
    flip_weight: bool,
) -> Tensor:
    """Step by step: upsample, pad, convolve, downsample."""
    taps = f.shape[-1]
    before = after = padding
    if up > 1:
        before, after = before + (taps + up - 1) // 2, after + (taps - up) // 2
    if down > 1:
        before, after = before + (taps - down + 1) // 2, after + (taps - down) // 2
    around = (before, after, before, after)
    y = upfirdn2d_reference(x, f if up > 1 else None, up=up, padding=around, gain=up**2)
    y = F.conv2d(y, w if flip_weight else w.flip((2, 3)), groups=groups)
    return upfirdn2d_reference(y, f, down=down) if down > 1 else y


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize(("k", "padding"), [(1, 0), (3, 0), (3, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("flip_weight", [True, False])
def test_merged_convolution_agrees_with_its_steps(up, down, k, padding, flip_weight):
    f = FILTERS["lopsided"].double()
    for groups, side in product([1, 2], [6, 9]):
        options = {
            "up": up,
            "down": down,
            "padding": padding,
            "groups": groups,
            "flip_weight": flip_weight,
        }
        results = []
        for form in (conv2d_resample, resampled_convolution):
            x = noise(2, 4, side, side).requires_grad_()
            w = noise(6, 4 // groups, k, k, seed=1).requires_grad_()
            y = form(x, w, f, **options)
            y.backward(noise(*y.shape, seed=2))
            results.append((y, x.grad, w.grad))
        for merged, steps in zip(*results):
            torch.testing.assert_close(merged, steps, atol=1e-11, rtol=1e-11)


def test_groups_are_convolved_independently():
    x, w, f = noise(1, 6, 8, 8), noise(4, 3, 3, 3, seed=1), FILTERS["binomial"].double()
    for factor in ({"up": 2}, {"down": 2}, {}):
        together = conv2d_resample(x, w, f, padding=1, groups=2, **factor)
        apart = [
            conv2d_resample(x[:, 3 * g : 3 * g + 3], w[2 * g : 2 * g + 2], f, padding=1, **factor)
            for g in range(2)
        ]
        torch.testing.assert_close(together, torch.cat(apart, 1))


def test_up_and_down_at_once_and_wrong_channels_are_refused():
    x = noise(1, 2, 4, 4)
    with pytest.raises(ValueError, match="give one of them"):
        conv2d_resample(x, noise(3, 2, 3, 3), up=2, down=2)
    with pytest.raises(ValueError, match=r"expected \[b i h w\]"):
        conv2d_resample(x, noise(3, 4, 3, 3))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("k", [1, 3])
def test_convolution_with_resampling_is_twice_differentiable(up, down, k):
    f = FILTERS["binomial"].double()

    def convolved(x: Tensor, w: Tensor) -> Tensor:
        return conv2d_resample(x, w, f, up=up, down=down, padding=k // 2, flip_weight=up == 1)

    inputs = noise(1, 2, 4, 4).requires_grad_(), noise(2, 2, k, k, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(convolved, inputs)
    assert torch.autograd.gradgradcheck(convolved, inputs)


@pytest.mark.parametrize("factors", [{"down": 2}, {"up": 2}, {}])
def test_a_gradient_penalty_takes_as_many_convolutions_for_many_channels_as_for_one(factors):
    counts = []
    for channels in (1, 9):
        x = noise(2, channels, 8, 8).requires_grad_()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            y = upfirdn2d(x, setup_filter([1, 3, 3, 1]), padding=2, **factors)
            (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            gradient.square().sum().backward()
        counts.append(sum(event.name == "aten::convolution" for event in profiler.events()))
    assert counts[0] == counts[1]


def test_a_filter_that_is_learned_has_a_gradient():
    x, f = noise(1, 2, 5, 5), noise(3, 3, seed=1).requires_grad_()
    for factors in ({"down": 2}, {"up": 2}):
        fast, slow = (make(x, f, padding=1, **factors) for make in (upfirdn2d, upfirdn2d_reference))
        for mine, other in zip(
            *(torch.autograd.grad(y, f, torch.ones_like(y)) for y in (fast, slow))
        ):
            torch.testing.assert_close(mine, other)
