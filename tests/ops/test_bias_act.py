"""Bias, activation, gain and clamp: closed forms, gradients, memory."""

import math

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gan3d.ops.bias_act import GAINS, bias_act

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
CLOSED_FORMS = {
    "linear": lambda v: v,
    "relu": lambda v: max(v, 0.0),
    "lrelu": lambda v: v if v > 0 else 0.2 * v,
    "tanh": math.tanh,
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "elu": lambda v: v if v > 0 else math.exp(v) - 1,
    "selu": lambda v: SELU_SCALE * (v if v > 0 else SELU_ALPHA * (math.exp(v) - 1)),
    "softplus": lambda v: math.log(1 + math.exp(v)),
    "swish": lambda v: v / (1 + math.exp(-v)),
}
ACTIVATIONS = pytest.mark.parametrize("act", CLOSED_FORMS)
RECORDED = pytest.mark.parametrize("recorded", [True, False], ids=["grad", "no_grad"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_activation_is_tested():
    assert set(GAINS) == set(CLOSED_FORMS)


@RECORDED
@ACTIVATIONS
def test_values_are_those_of_the_closed_form(act, recorded):
    x, b = noise(3, 5, 2, 1), noise(5, seed=1)
    gain = math.sqrt(2) if act in ("relu", "lrelu", "swish") else 1.0
    biased = (x + b[:, None, None]).flatten().tolist()
    expected = torch.tensor([CLOSED_FORMS[act](v) for v in biased]).double().reshape(x.shape)
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(bias_act(x, b, act=act), gain * expected, atol=1e-6, rtol=1e-6)
        clamped = bias_act(x, b, act=act, gain=3.0, clamp=0.4)
    torch.testing.assert_close(clamped, (3 * expected).clamp(-0.4, 0.4), atol=1e-6, rtol=1e-6)


@RECORDED
@ACTIVATIONS
def test_inputs_are_not_modified(act, recorded):
    for b in (noise(5, seed=1), torch.zeros(5).double(), None):
        x = noise(3, 5, 2)
        kept_x, kept_b = x.clone(), None if b is None else b.clone()
        with torch.set_grad_enabled(recorded):
            bias_act(x, b, act=act, gain=2.0, clamp=0.1)
        assert torch.equal(x, kept_x)
        assert b is None or torch.equal(b, kept_b)


@ACTIVATIONS
def test_every_activation_is_twice_differentiable(act):
    x, b = noise(2, 3, 4, seed=2).requires_grad_(), noise(3, seed=1).requires_grad_()

    def activated(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, clamp=1.5).square()

    assert torch.autograd.gradcheck(activated, (x, b))
    assert torch.autograd.gradgradcheck(activated, (x, b))


@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_from_the_result_are_those_of_the_operations_one_by_one(act, clamp, biased):
    """First to third order, and at inputs of all signs and at 0."""
    x = noise(3, 5, 4, 1)
    x[0, 0] = 0
    x, b = x.requires_grad_(), noise(5, seed=1).requires_grad_() if biased else None
    inputs = [x] if b is None else [x, b]

    def one_by_one() -> Tensor:
        y = x if b is None else x + b[:, None, None]
        y = 1.7 * (torch.where(y > 0, y, 0.2 * y) if act == "lrelu" else y)
        return y if clamp is None else y.clamp(-clamp, clamp)

    def orders(y: Tensor) -> list[Tensor]:
        found = [y]
        for _ in range(3):
            loss = (found[-1].pow(2) * x.detach().cos().sum()).sum()
            found += torch.autograd.grad(loss, inputs, create_graph=True)
        return found

    ours, theirs = orders(bias_act(x, b, act=act, gain=1.7, clamp=clamp)), orders(one_by_one())
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("act", ["linear", "lrelu"])
def test_only_the_result_is_kept_for_the_backward_pass(act):
    x, b = noise(3, 5, 4, 4).requires_grad_(), noise(5, seed=1).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = bias_act(x, b, act=act, clamp=0.7)
    large = [tensor for tensor in kept if tensor.numel() > b.numel()]
    assert [tensor.data_ptr() for tensor in large] == [y.data_ptr()]


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_gradient_penalty_gives_what_comes_before_a_leaky_relu_zeros(with_bias):
    """Not None: Adam leaves parameters without a gradient out of its step."""
    x, earlier = noise(3, 5).requires_grad_(), noise(5, seed=1).requires_grad_()
    y = bias_act(x, earlier, act="lrelu") if with_bias else bias_act(x + earlier, act="lrelu")
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (gradient * x.detach()).sum().backward()
    assert earlier.grad is not None
    assert not earlier.grad.any()


@pytest.mark.parametrize("alpha", [0.0, -0.5, 2.0])
def test_any_slope_has_its_gradient(alpha):
    x = torch.tensor([[-2.0, 3.0]], requires_grad=True)
    bias_act(x, act="lrelu", alpha=alpha, gain=1.0).sum().backward()
    assert x.grad.tolist() == [[alpha, 1.0]]


def test_gradients_of_a_bias_have_its_dtype():
    x = torch.ones(4, 2, dtype=torch.bfloat16, requires_grad=True)
    b = torch.ones(2, requires_grad=True)
    bias_act(x, b, act="lrelu").sum().backward()
    assert (x.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float32)


def test_no_gradient_passes_a_clamp():
    x = torch.tensor([[-9.0, 0.5, 9.0]], requires_grad=True)
    bias_act(x, torch.zeros(3), clamp=1.0).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0]]


def test_a_bias_belongs_to_a_channel_whatever_follows_it():
    b = noise(3, seed=1)
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        y = bias_act(torch.zeros(shape).double(), b)
        torch.testing.assert_close(
            y.transpose(0, 1).reshape(3, -1), b[:, None].expand(3, y.numel() // 3)
        )


@ACTIVATIONS
def test_overwrite_writes_into_x_only_if_no_gradient_is_recorded(act):
    x, b = noise(3, 5, 2), noise(5, seed=1)
    expected = bias_act(x, b, act=act, clamp=0.8)
    with torch.no_grad():
        given = x.clone()
        assert torch.equal(bias_act(given, b, act=act, clamp=0.8, overwrite=True), expected)
        assert not torch.equal(given, x)
    given = x.clone().requires_grad_()
    assert torch.equal(bias_act(given, b, act=act, clamp=0.8, overwrite=True), expected)
    assert torch.equal(given, x)


def test_slope_of_leaky_relu_is_alpha():
    x = torch.tensor([[-2.0, 3.0]])
    assert bias_act(x, act="lrelu", alpha=0.5, gain=1.0).tolist() == [[-1.0, 3.0]]


@RECORDED
def test_half_precision_stays_half_precision(recorded):
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    with torch.set_grad_enabled(recorded):
        assert bias_act(x, torch.ones(2), act="lrelu").dtype == torch.bfloat16


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"gelu.*lrelu"):
        bias_act(torch.ones(1, 1), act="gelu")


def test_a_bias_of_another_length_is_refused():
    with pytest.raises(ValueError, match="one number per channel"):
        bias_act(torch.ones(1, 2), torch.ones(3))


@RECORDED
def test_the_order_of_memory_stays(recorded):
    x = noise(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_(recorded)
    y = bias_act(x, noise(3, seed=1), act="lrelu", clamp=1.0)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_the_gain_takes_no_pass_over_the_features_beside_that_of_the_bias():
    x, b = noise(2, 3, 4, 4).requires_grad_(), noise(3, seed=1).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        bias_act(x, b, act="lrelu", gain=1.7)
    passes = [e.name for e in profiler.events() if [2, 3, 4, 4] in e.input_shapes]
    assert "aten::add" in passes
    assert not {"aten::mul", "aten::mul_"} & set(passes)
