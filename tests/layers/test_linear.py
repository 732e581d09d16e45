"""The equalized linear layer: scale of its output, learning rate of its weights."""

import pytest
import torch

from gan3d.layers.linear import EqualizedLinear


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
@pytest.mark.parametrize("features", [16, 400])
def test_unit_variance_in_unit_variance_out(features, lr_multiplier):
    torch.manual_seed(0)
    layer = EqualizedLinear(features, 500, lr_multiplier=lr_multiplier)
    y = layer(torch.randn(400, features))
    # 200,000 products that share their weights: the standard deviation of their variance is about
    # sqrt(2 / 16) / 20.
    assert y.var().item() == pytest.approx(1, abs=0.08)


def test_a_learning_rate_multiplier_slows_weight_and_bias():
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    fast, slow = EqualizedLinear(4, 2), EqualizedLinear(4, 2, lr_multiplier=0.01)
    with torch.no_grad():
        slow.weight.copy_(fast.weight / 0.01)
        fast.bias.copy_(torch.tensor([0.3, -0.2]))
        slow.bias.copy_(fast.bias / 0.01)
    torch.testing.assert_close(slow(x), fast(x))
    for layer in (fast, slow):
        layer(x).square().sum().backward()
    torch.testing.assert_close(slow.weight.grad, 0.01 * fast.weight.grad)
    torch.testing.assert_close(slow.bias.grad, 0.01 * fast.bias.grad)


def test_the_stored_initial_bias_is_not_divided_by_the_multiplier():
    layer = EqualizedLinear(4, 2, lr_multiplier=0.5, bias_init=1)
    assert layer.bias.tolist() == [1.0, 1.0]
    assert layer(torch.zeros(1, 4)).tolist() == [[0.5, 0.5]]


def test_without_a_bias_zero_stays_zero():
    for activation in ("linear", "lrelu"):
        layer = EqualizedLinear(4, 2, bias=False, activation=activation)
        assert layer(torch.zeros(1, 4)).tolist() == [[0.0, 0.0]]
        assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
def test_any_number_of_leading_dimensions(activation):
    torch.manual_seed(0)
    layer, x = EqualizedLinear(4, 2, activation=activation, bias_init=0.7), torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(layer(x), layer(x.flatten(0, 2)).unflatten(0, (2, 3, 5)))


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_gradients_are_those_of_the_equation_of_any_order(lr_multiplier):
    torch.manual_seed(0)
    layer = EqualizedLinear(3, 2, lr_multiplier=lr_multiplier).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = layer.weight.detach().clone(), torch.randn(2, dtype=torch.float64)
    given = (x, weight.requires_grad_(), bias.requires_grad_())

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    def equation(x, weight, bias):
        return x @ (weight * layer.weight_gain).t() + bias * lr_multiplier

    torch.testing.assert_close(run(*given), equation(*given), rtol=1e-12, atol=1e-12)
    grad = torch.randn(4, 2, dtype=torch.float64)
    found = torch.autograd.grad(run(*given), given, grad)
    expected = torch.autograd.grad(equation(*given), given, grad)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(run, given)
