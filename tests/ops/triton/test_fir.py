"""The kernel of FIR filters against the four steps of the equation, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.resample import setup_filter, upfirdn2d

OPTIONS = {
    "filter": {"padding": (2, 1, 1, 2), "gain": 2.0},
    "up": {"up": 2, "padding": (2, 1)},
    "down": {"down": 2, "padding": (1, 1, 2, 0), "flip_filter": True},
    "both": {"up": (3, 2), "down": (2, 3), "padding": (5, 4, 3, 2)},
    "crop": {"up": 2, "padding": (-3, 2, 1, -1)},
    "long crop": {"padding": (-1, -1, 0, -1), "flip_filter": True},
}
FILTERS = {"matrix": [[1.0, 2, 4], [3, 5, 7], [2, 8, 1], [6, 1, 3]], "separable": [1.0, 3, 2, 5, 4]}


def image(*shape: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def taps(kind: str) -> torch.Tensor:
    return setup_filter(FILTERS[kind], separable=kind == "separable").double()


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients_are_those_of_the_equation(options, kind):
    x = image(2, 3, 7, 9)
    found = []
    for backend in ("reference", "fast", "triton"):
        y = upfirdn2d(x, taps(kind), backend=backend, **options)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad((weights * y).sum(), x)))
    for equation, fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, equation)
        torch.testing.assert_close(kernel, fast)


def test_without_a_filter_samples_are_dropped_and_zeros_inserted():
    x = image(1, 1, 3, 4)
    for options in ({"up": 2}, {"down": 2}, {"padding": (1, -1)}):
        found = upfirdn2d(x, None, backend="triton", **options)
        assert torch.equal(found, upfirdn2d(x, None, backend="reference", **options))


def test_derivatives_of_any_order():
    x = image(1, 1, 3, 2)

    def op(x):
        return upfirdn2d(x, taps("matrix"), backend="triton", **OPTIONS["up"]) ** 2

    assert torch.autograd.gradcheck(op, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, x, fast_mode=True)


@pytest.mark.parametrize("channels", [3, 70])
def test_channels_last_stays_channels_last(channels):
    """70 channels are two tiles."""
    x = image(2, channels, 4, 5)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    found, expected = (
        upfirdn2d(x, taps("matrix"), backend=backend, **OPTIONS["up"])
        for x, backend in ((last, "triton"), (x, "fast"))
    )
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in ((found, last), (expected, x))]
    torch.testing.assert_close(*grads)


def test_half_precision_is_summed_in_float32():
    x = image(1, 2, 6, 6, dtype=torch.float32)
    found = upfirdn2d(x.half(), taps("matrix").float(), backend="triton")
    assert found.dtype == torch.float16
    expected = upfirdn2d(x.half().float(), taps("matrix").float(), backend="fast")
    torch.testing.assert_close(found, expected.half(), rtol=1e-3, atol=1e-3)


def test_a_filter_that_is_learned_has_a_gradient():
    f = taps("matrix").requires_grad_()
    (grad,) = torch.autograd.grad(upfirdn2d(image(1, 1, 5, 5), f, backend="triton").sum(), f)
    assert grad.abs().sum() > 0


def test_the_op_is_well_registered():
    from gan3d.ops.triton.fir import fir

    f = torch.ones(1, 2).double()
    for x in (image(2, 3, 2, 2), image(2, 3, 2, 2).to(memory_format=torch.channels_last)):
        torch.library.opcheck(fir, (x, f, [2, 1], [1, 2], [1, 0], [5, 1], True, 1.5))


def test_it_compiles_into_one_graph():
    x = image(1, 2, 4, 4)

    def op(x):
        return upfirdn2d(x, taps_, up=2, padding=(2, 1), backend="triton")

    taps_ = taps("matrix")
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), op(x))
    grads = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, op)]
    torch.testing.assert_close(*grads)
