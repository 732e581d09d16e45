"""The decoder of a field: the reference's numbers and gradients, in less memory."""

import pytest
import torch
from torch import Tensor

from gan3d.ops import field_decoder
from gan3d.ops.field_decoder import decode, reference


def inputs(points: int, dtype: torch.dtype = torch.float64, grown: float = 1.0) -> list[Tensor]:
    """x [points 5], and weights of 7 hidden units and 4 outputs."""
    torch.manual_seed(0)
    shapes = ((points, 5), (7, 5), (7,), (4, 7), (4,))
    return [(grown * torch.randn(shape, dtype=dtype)).requires_grad_() for shape in shapes]


def gradients(function, given: list[Tensor], **options) -> tuple[Tensor, ...]:
    sigma, rgb = function(*given)
    loss = (sigma * torch.linspace(-1, 1, len(sigma))[:, None]).sum() + rgb.square().sum()
    return torch.autograd.grad(loss, given, **options)


@pytest.mark.parametrize("points", [1, 63, 100])
@pytest.mark.parametrize("grown", [1.0, 5.0])
def test_values_and_gradients_are_those_of_the_reference(monkeypatch, points, grown):
    monkeypatch.setattr(field_decoder, "PIECE", 7 * 40)  # the last piece is a smaller one
    given = inputs(points, grown=grown)
    for ours, theirs in zip(decode(*given), reference(*given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(decode, given), gradients(reference, given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_in_single_precision_they_differ_by_rounding():
    given = inputs(5000, torch.float32)
    rounding = torch.finfo(torch.float32).eps * 5000**0.5  # of sums over all points, in any order
    for ours, theirs in zip(gradients(decode, given), gradients(reference, given), strict=True):
        assert (ours - theirs).abs().max() <= rounding * theirs.abs().max()


def test_it_is_differentiable_twice():
    given = inputs(6)
    assert torch.autograd.gradcheck(decode, given)
    assert torch.autograd.gradgradcheck(decode, given)


def test_only_what_is_asked_for_has_a_gradient():
    """As in inversion: the weights stay, and the gradient goes on to the points."""
    x, *weights = inputs(63)
    frozen = [weight.detach() for weight in weights]
    (expected, *_) = gradients(reference, [x, *weights])
    sigma, rgb = decode(x, *frozen)
    loss = (sigma * torch.linspace(-1, 1, 63)[:, None]).sum() + rgb.square().sum()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)
    decode(x.detach(), *weights)[1].sum().backward()
    assert x.grad is None
    assert weights[0].grad is not None


def test_leading_dimensions_stay_and_there_may_be_no_points():
    x, *weights = inputs(24)
    sigma, rgb = decode(x.view(2, 3, 4, 5), *weights)
    assert (sigma.shape, rgb.shape) == ((2, 3, 4, 1), (2, 3, 4, 3))
    assert torch.equal(rgb.view(24, 3), decode(x, *weights)[1])
    assert decode(x.view(2, 12, 5)[:, :0], *weights)[0].shape == (2, 0, 1)


def test_the_features_and_the_colors_are_kept_and_nothing_else_of_that_size():
    given = inputs(1000)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        decode(*given)
    assert sorted(t.numel() for t in kept if len(t) == 1000) == [3000, 5000]
