"""The kernels of bias, activation, gain and clamp against torch's, in Triton's interpreter."""

import math

import pytest
import torch

from gan3d.ops.bias_act import bias_act

SHAPES = {"image": (2, 3, 5, 4), "matrix": (5, 3), "volume": (2, 3, 2, 2, 3), "one": (1, 1, 1, 1)}
OPTIONS = {
    "lrelu": {"act": "lrelu"},
    "clamped": {"act": "lrelu", "clamp": 0.5, "gain": 1.3},
    "linear": {"act": "linear", "gain": 2.0},
    "linear, clamped": {"act": "linear", "clamp": 0.4},
}


def draws(shape, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=dtype) for s in (shape, shape[1:2])]
    return [tensor.requires_grad_() for tensor in tensors]


def run(tensors, backend: str, **options):
    return bias_act(tensors[0], *tensors[1:], backend=backend, **options)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_torch(shape, options, with_bias):
    tensors = draws(shape)[: 1 + with_bias]
    found = []
    for backend in ("fast", "triton"):
        y = run(tensors, backend, **options)
        with torch.no_grad():
            torch.testing.assert_close(run(tensors, backend, **options), y)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad((weights * y).sum(), tensors)))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


def test_channels_last_stays_channels_last():
    x, b = draws(SHAPES["image"])
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    y = bias_act(last, b, act="lrelu", backend="triton")
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, bias_act(x, b, act="lrelu", backend="fast"))
    (grad,) = torch.autograd.grad(y.square().sum(), last)
    expected = torch.autograd.grad(bias_act(x, b, act="lrelu", backend="fast").square().sum(), x)
    torch.testing.assert_close(grad, expected[0])


def test_what_is_neither_contiguous_nor_channels_last():
    x, b = draws((4, 3, 5, 2))
    turned = x.permute(3, 1, 0, 2)
    found = bias_act(turned, b, act="lrelu", backend="triton")
    torch.testing.assert_close(found, bias_act(turned, b, act="lrelu", backend="fast"))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_derivatives_of_any_order(options):
    tensors = draws((2, 2, 2, 2))
    assert torch.autograd.gradcheck(lambda *t: run(t, "triton", **options), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: run(t, "triton", **options), tensors)


def test_a_gradient_penalty_is_that_of_torch():
    """R1 differentiates the gradient with respect to x; the bias then has a gradient of zeros."""
    found = []
    for backend in ("fast", "triton"):
        x, b = draws(SHAPES["image"])
        y = bias_act(x * x, b, act="lrelu", clamp=1.0, backend=backend)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), (x, b)))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


def test_nan_and_infinity_pass():
    x = torch.tensor([[math.nan, math.inf, -math.inf]])
    for clamp in (None, 2.0):
        found = bias_act(x, act="lrelu", clamp=clamp, backend="triton")
        torch.testing.assert_close(
            found, bias_act(x, act="lrelu", clamp=clamp, backend="fast"), equal_nan=True
        )


def test_other_activations_take_torch():
    x, b = draws(SHAPES["matrix"])
    for act in ("tanh", "softplus"):
        found = bias_act(x, b, act=act, backend="triton")
        assert torch.equal(found, bias_act(x, b, act=act, backend="fast"))


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.bias_act import bias_act_grad, fused_bias_act

    x, b = (tensor.detach() for tensor in draws(SHAPES["image"]))
    torch.library.opcheck(fused_bias_act, (x, b, 0.2, 1.5, 0.7))
    torch.library.opcheck(fused_bias_act, (x, None, 1.0, 1.0, math.inf))
    last = x.to(memory_format=torch.channels_last)
    torch.library.opcheck(fused_bias_act, (last, b, 0.2, 1.5, 0.7))
    grad = torch.ones_like(x).requires_grad_()
    torch.library.opcheck(bias_act_grad, (grad, fused_bias_act(x, b, 0.2, 1.5, 0.7), 0.2, 1.5, 0.7))


def test_it_compiles_into_one_graph():
    tensors = draws(SHAPES["image"])
    compiled = torch.compile(
        lambda *t: run(t, "triton", act="lrelu"), fullgraph=True, backend="aot_eager"
    )
    expected = run(tensors, "triton", act="lrelu")
    torch.testing.assert_close(compiled(*tensors), expected)
    grads = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), tensors))
