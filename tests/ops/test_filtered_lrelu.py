"""Leaky ReLU on a finer grid: against its definition, derivatives, closed-form signals."""

import importlib
import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gan3d.ops.filtered_lrelu import filtered_lrelu, filtered_lrelu_reference

module = importlib.import_module("gan3d.ops.filtered_lrelu")  # gan3d.ops has the function


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


FILTERS = {"none": None, "even": noise(6), "odd": noise(5, seed=1), "plane": noise(3, 4, seed=2)}
PADDINGS = [7, (8, 6), (7, 5, 6, 8), (5, -1, -2, 9)]


@pytest.mark.parametrize(("up", "down"), [*product([1, 2], [1, 2]), (3, 2), (2, 3), (4, 2), (1, 4)])
@pytest.mark.parametrize("fd", FILTERS)
@pytest.mark.parametrize("fu", FILTERS)
def test_fast_form_and_definition_agree_in_values_and_two_derivatives(fu, fd, up, down):
    for number, padding in enumerate(PADDINGS):
        options = {
            "up": up,
            "down": down,
            "padding": padding,
            "gain": 1.3,
            "slope": (0.3, 0.0, 0.2, 1.0)[number],
            "clamp": (None, 0.7, 2.0, 0.9)[number],
            "flip_filter": number % 2 == 1,
        }
        results = []
        for form in (filtered_lrelu, filtered_lrelu_reference):
            x, b = noise(2, 3, 7, 9).requires_grad_(), noise(3, seed=3).requires_grad_()
            y = form(x, FILTERS[fu], FILTERS[fd], b, **options)
            first = torch.autograd.grad(y.square().sum(), (x, b), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, b))
            results.append((y, *first, *second))
        for fast, definition in zip(*results, strict=True):
            torch.testing.assert_close(fast, definition, atol=1e-10, rtol=1e-10)


FILTER_SHAPES = st.one_of(
    st.none(), st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5))
)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    fu=FILTER_SHAPES,
    fd=FILTER_SHAPES,
    up=st.integers(1, 4),
    down=st.integers(1, 4),
    padding=st.tuples(*[st.integers(-4, 12)] * 4),
)
def test_fast_form_accepts_every_input_that_the_definition_accepts(size, fu, fd, up, down, padding):
    x, fu, fd = noise(1, 2, *size), fu and noise(*fu, seed=1), fd and noise(*fd, seed=2)
    options = {"up": up, "down": down, "padding": padding}
    try:
        expected = filtered_lrelu_reference(x, fu, fd, **options)
    except ValueError:
        return
    leaf = x.clone().requires_grad_()
    y = filtered_lrelu(leaf, fu, fd, **options)
    torch.testing.assert_close(y, expected)
    other = x.clone().requires_grad_()
    filtered_lrelu_reference(other, fu, fd, **options).sum().backward()
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize(("fu", "fd"), [("even", "odd"), ("odd", "plane"), ("plane", "none")])
def test_numeric_derivatives_agree(fu, fd, clamp):
    x, b = noise(1, 2, 4, 3).requires_grad_(), noise(2, seed=5).requires_grad_()

    def op(x: Tensor, b: Tensor) -> Tensor:
        return filtered_lrelu(
            x, FILTERS[fu], FILTERS[fd], b, up=2, down=2, padding=(6, 5, 7, 4), clamp=clamp
        )

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b))


def test_third_derivatives_agree_with_the_definition():
    x, f = noise(1, 1, 4, 4).requires_grad_(), FILTERS["even"]
    derivatives = []
    for form in (filtered_lrelu, filtered_lrelu_reference):
        value = form(x, f, f, up=2, down=2, padding=6, clamp=1.0).pow(4).sum()
        for _ in range(3):
            (value,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        derivatives.append(value)
    torch.testing.assert_close(*derivatives)


# -- Closed-form signals ---------------------------------------------------------------------------


def test_without_filters_it_is_the_activation():
    x, b = torch.tensor([-2.0, -0.5, 0.0, 1.0, 9.0]), torch.tensor([0.5])
    y = filtered_lrelu(x.reshape(1, 1, 1, 5), b=b, clamp=3.0)
    expected = math.sqrt(2) * torch.tensor([-0.3, 0.0, 0.5, 1.5, 3.0 / math.sqrt(2)])
    torch.testing.assert_close(y, expected.reshape(1, 1, 1, 5))


def test_a_constant_signal_is_activated_like_a_number():
    f, b = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, torch.tensor([0.25])
    for value in (-1.5, 0.75):
        x = torch.full((1, 1, 12, 12), value)
        y = filtered_lrelu(x, f, f, b, up=2, down=2, padding=(3, 2), slope=0.1, gain=2.0)
        inside = y[0, 0, 3:-3, 3:-3]
        expected = 2 * (value + 0.25) * (0.1 if value < 0 else 1)
        torch.testing.assert_close(inside, torch.full_like(inside, expected))


def test_the_bias_is_not_added_to_padded_zeros():
    x, b = torch.zeros(1, 1, 1, 1), torch.tensor([1.0])
    y = filtered_lrelu(x, b=b, up=2, padding=(1, 0, 1, 0), gain=1.0)
    # One sample of 1 (times up^2) among zeros.
    torch.testing.assert_close(y[0, 0], torch.tensor([[0.0, 0, 0], [0, 4, 0], [0, 0, 0]]))


def test_filters_are_convolved_and_with_flip_filter_correlated():
    x, f = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0, 4.0])
    options = {"padding": (2, 2, 0, 0), "gain": 1.0}
    convolved = filtered_lrelu(x, f[None], None, **options)[0, 0, 0]
    torch.testing.assert_close(convolved, f)
    correlated = filtered_lrelu(x, None, f[None], **options, flip_filter=True)[0, 0, 0]
    torch.testing.assert_close(correlated, f.flip(0))


def test_clamped_samples_have_the_value_of_the_clamp_and_no_gradient():
    f = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    x = torch.full((1, 1, 8, 8), 50.0, dtype=torch.float64).requires_grad_()
    y = filtered_lrelu(x, f, f, up=2, down=2, padding=(2, 1), clamp=0.5)
    inside = y[0, 0, 2:-2, 2:-2]  # depends on clamped samples only
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5))
    (gradient,) = torch.autograd.grad(inside.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_slope_one_is_linear_resampling_to_the_published_size():
    x, fu, fd = noise(1, 2, 9, 11), FILTERS["even"], FILTERS["odd"]
    y = filtered_lrelu(x, fu, fd, up=2, down=3, padding=(4, 3, 2, 5), slope=1.0)
    assert y.shape == (1, 2, (18 + 2 + 5 - 5 - 4 + 2) // 3, (22 + 4 + 3 - 5 - 4 + 2) // 3)
    twice = filtered_lrelu(2 * x, fu, fd, up=2, down=3, padding=(4, 3, 2, 5), slope=1.0)
    torch.testing.assert_close(twice, 2 * y)


# -- How it is computed ----------------------------------------------------------------------------


def test_chunks_of_one_map_give_the_same_numbers(monkeypatch):
    x, b, f = noise(2, 5, 8, 8).requires_grad_(), noise(5, seed=1).requires_grad_(), FILTERS["even"]
    results = []
    for samples in (1, 2**19):
        monkeypatch.setattr(module, "FINE_SAMPLES", samples)
        y = filtered_lrelu(x, f, f, b, up=2, down=2, padding=6, clamp=1.0)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, b))))
    for one, all_at_once in zip(*results, strict=True):
        torch.testing.assert_close(one, all_at_once)


def test_no_fine_grid_tensor_is_kept_for_the_derivatives():
    x = noise(1, 4, 16, 16).requires_grad_()
    y = filtered_lrelu(x, FILTERS["even"], FILTERS["even"], up=4, down=2, padding=10)
    kept = sum(tensor.numel() for tensor in y.grad_fn.saved_tensors if tensor is not None)
    assert kept < x.numel() + 20


def test_memory_layout_does_not_change_the_numbers_and_inputs_are_not_modified():
    x, b = noise(2, 4, 8, 6), noise(4, seed=1)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    for fu, fd in (("even", "odd"), ("none", "none"), ("none", "plane")):
        expected = filtered_lrelu(x, FILTERS[fu], FILTERS[fd], b, down=2, padding=5)
        y = filtered_lrelu(channels_last, FILTERS[fu], FILTERS[fd], b, down=2, padding=5)
        torch.testing.assert_close(y, expected)
        assert torch.equal(x, kept)


def test_bfloat16_is_rounded_at_the_ends_only():
    x = noise(1, 3, 16, 16, dtype=torch.float32).bfloat16()
    f = torch.full([12], 1 / 12)
    exact = filtered_lrelu(x.float(), f, f, up=2, down=2, padding=(9, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = filtered_lrelu(x, f, f, up=2, down=2, padding=(9, 8))
    assert rough.dtype == torch.bfloat16
    assert torch.equal(rough, exact.bfloat16())


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: the same numbers on one are not tested"
)
def test_a_gpu_gives_the_same_numbers():
    results = []
    for device in ("cpu", "cuda"):
        x, fu, fd = (t.to(device) for t in (noise(2, 3, 9, 8), FILTERS["even"], FILTERS["plane"]))
        y = filtered_lrelu(x.requires_grad_(), fu, fd, up=2, down=2, padding=6, clamp=1.0)
        results.append((y.cpu(), torch.autograd.grad(y.square().sum(), x)[0].cpu()))
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu)


def test_wrong_shapes_factors_and_sizes_are_refused():
    x = noise(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"expected \[b c h w\] and \[c\]"):
        filtered_lrelu(x, b=noise(3))
    with pytest.raises(ValueError, match="factors must be 1 or more"):
        filtered_lrelu(x, up=0)
    too_short = r"4 samples along w, 4 after insertion and padding .*; the filters need 11: pad"
    with pytest.raises(ValueError, match=too_short):
        filtered_lrelu(x, FILTERS["even"], FILTERS["even"])
    with pytest.raises(ValueError, match="the filters need 1: pad more or crop less"):
        filtered_lrelu(x, padding=(-4, 4, 0, 0))
