"""The kernel of the leaky ReLU on a finer grid against its definition, in Triton's interpreter."""

import math

import pytest
import torch

from gan3d.ops.filtered_lrelu import filtered_lrelu

EXACT = {"gain": 1.5, "slope": 0.25, "clamp": 0.75}  # in float32, which kernels take numbers in
OPTIONS = {
    "up and down": {"up": 2, "down": 2, "padding": (8, 7, 6, 9), **EXACT},
    "up 4": {"up": 4, "down": 2, "padding": 9, "flip_filter": True, "gain": 1.7},
    "up": {"up": 3, "padding": (7, 6), "slope": 0.1},
    "down and crop": {"down": 2, "padding": (-1, 4, 5, -1)},
    "several tiles": {"up": 4, "down": 1, "padding": 12},
}


def draws(*shapes: tuple[int, ...], dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


def inputs(h: int = 9, w: int = 11, c: int = 2) -> list[torch.Tensor]:
    x, b, fu, fd = draws((1, c, h, w), (c,), (8,), (5,))
    return [x.requires_grad_(), fu, fd, b.requires_grad_()]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients_are_those_of_the_definition(options):
    x, fu, fd, b = inputs(17 if options.get("padding") == 12 else 9)
    found = []
    for backend in ("reference", "fast", "triton"):
        y = filtered_lrelu(x, fu, fd, b, backend=backend, **options)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad((weights * y).sum(), (x, b))))
    for equation, fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, equation)
        torch.testing.assert_close(kernel, fast)


def test_a_gradient_penalty_is_that_of_the_chain():
    x, fu, fd, b = inputs()
    found = []
    for backend in ("fast", "triton"):
        y = filtered_lrelu(x * x, fu, fd, b, backend=backend, **OPTIONS["up and down"])
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), (x, b), allow_unused=True))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


def test_derivatives_of_any_order():
    x, fu, fd, b = inputs(3, 2, 1)

    def op(x, b):
        return filtered_lrelu(x, fu, fd, b, backend="triton", **OPTIONS["up and down"]) ** 2

    assert torch.autograd.gradcheck(op, (x, b), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, b), fast_mode=True)


def test_without_filters_or_bias():
    x = inputs()[0]
    options = {"up": 2, "down": 3, "padding": (2, 1), "backend": "triton"}
    expected = filtered_lrelu(x, **options | {"backend": "reference"})
    torch.testing.assert_close(filtered_lrelu(x, **options), expected)


def test_other_filters_take_the_chain():
    x, fu, fd, b = inputs()
    for filters in ((fu, fd.outer(fd)), (fu, torch.ones(49).double() / 49)):
        y = filtered_lrelu(x, *filters, b, up=4, padding=20, backend="triton")
        assert torch.equal(y, filtered_lrelu(x, *filters, b, up=4, padding=20, backend="fast"))


def test_half_precision_is_computed_in_float32():
    x, fu, fd, b = (tensor.detach().float() for tensor in inputs())
    options = OPTIONS["up and down"]
    y = filtered_lrelu(x.half(), fu, fd, b, backend="triton", **options)
    assert y.dtype == torch.float16
    expected = filtered_lrelu(x.half().float(), fu, fd, b, backend="fast", **options)
    torch.testing.assert_close(y, expected.half(), rtol=1e-3, atol=1e-3)


def test_nan_is_not_clamped_away():
    x, fu, fd, b = inputs()
    x = x.detach().clone()
    x[0, 1] = math.nan
    y = filtered_lrelu(x, fu, fd, b, backend="triton", **OPTIONS["up and down"])
    assert y[0, 1].isnan().all()
    assert y[0, 0].isfinite().all()


def test_the_op_is_well_registered():
    from gan3d.ops.triton.filtered_lrelu import filtered_lrelu_maps

    x, fu, fd, b = inputs(3, 2, 1)
    options = (2, 2, [8, 7, 6, 9], 1.4, 0.2, 0.9, False)
    torch.library.opcheck(filtered_lrelu_maps, (None, x, b, fu, fd, *options, False))
    plain = (x.detach(), b.detach(), fu, fd, *options, True)
    out = filtered_lrelu_maps(None, *plain[:-1], False)
    v = torch.randn_like(out).requires_grad_()
    torch.library.opcheck(filtered_lrelu_maps, (v, *plain))


def test_it_compiles_into_one_graph():
    x, fu, fd, b = inputs(3, 2, 1)

    def op(x, b):
        return filtered_lrelu(x, fu, fd, b, backend="triton", **OPTIONS["up and down"])

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, b), op(x, b))
    grads = [torch.autograd.grad(f(x, b).square().sum(), (x, b)) for f in (compiled, op)]
    torch.testing.assert_close(*grads)
