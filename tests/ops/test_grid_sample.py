"""gan3d.ops.grid_sample: values, and derivatives of any order in the image and in the grid."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from gan3d.ops.grid_sample import grid_sample

FORMS = ("reference", "fast")
SHAPES = [(1, 1, 1, 1, 2, 3), (2, 3, 5, 4, 7, 6), (3, 2, 8, 9, 1, 1)]  # b c h w H W


def example(b, c, h, w, H, W, dtype=torch.float64):
    torch.manual_seed(0)
    image = torch.randn(b, c, h, w, dtype=dtype)
    # Up to 1.3, which is outside of the image, where pixels are zero.
    grid = 1.3 * (2 * torch.rand(b, H, W, 2, dtype=dtype) - 1)
    return image, grid


def test_a_sample_at_a_pixel_center_is_that_pixel_and_half_way_is_the_mean():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    x = torch.tensor([0.5, 1.5, 2.5, 2.0]) / 3 * 2 - 1
    y = torch.tensor([0.5, 0.5, 1.5, 1.0]) / 2 * 2 - 1
    sampled = grid_sample(image, torch.stack([x, y], dim=-1)[None, None])
    expected = torch.tensor([0.0, 1.0, 5.0, 3.0])
    torch.testing.assert_close(sampled.flatten(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_first_derivatives_equal_those_of_torch(shape, backend):
    tensors = [x.requires_grad_() for x in example(*shape)]
    y = grid_sample(*tensors, backend=backend)
    expected = F.grid_sample(*tensors, align_corners=False)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    found, known = (torch.autograd.grad((x * weight).sum(), tensors) for x in (y, expected))
    torch.testing.assert_close(found, known)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_derivatives_are_those_of_finite_differences(shape):
    image, grid = example(*shape)
    image.requires_grad_()
    assert gradcheck(lambda x: grid_sample(x, grid), (image,))
    assert gradgradcheck(lambda x: grid_sample(x, grid), (image,))
    assert gradgradcheck(lambda x: grid_sample(x, grid).square(), (image,))


@pytest.mark.parametrize("backend", FORMS)
def test_first_and_second_derivatives_in_the_grid_are_those_of_finite_differences(backend):
    image, grid = example(1, 2, 3, 2, 1, 3)
    grid.requires_grad_()
    for tensors in ((image, grid), (image.clone().requires_grad_(), grid)):
        assert gradcheck(lambda *x: grid_sample(*x, backend=backend), tensors)
        assert gradgradcheck(lambda *x: grid_sample(*x, backend=backend).square(), tensors)


def test_the_derivative_is_the_adjoint_for_any_memory_layout():
    image, grid = example(2, 3, 6, 5, 4, 7)
    image.requires_grad_()
    y = grid_sample(image, grid)
    weight = torch.randn(2, 4, 7, 3, dtype=y.dtype).permute(0, 3, 1, 2)  # not contiguous
    (g,) = torch.autograd.grad(y, image, weight)
    torch.testing.assert_close((g * image).sum(), (weight * y).sum())


def test_a_gradient_of_the_grid_alone_is_that_of_torch():
    image, grid = example(1, 2, 3, 2, 1, 3)
    grid.requires_grad_()
    found, known = (
        torch.autograd.grad(f(image, grid).square().sum(), grid)
        for f in (grid_sample, lambda *x: F.grid_sample(*x, align_corners=False))
    )
    torch.testing.assert_close(found, known)


@pytest.mark.parametrize("shapes", [((1, 2, 3), (1, 4, 5, 2)), ((2, 1, 3, 3), (1, 4, 5, 2))])
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match="give every image a grid"):
        grid_sample(*map(torch.zeros, shapes))


def test_nothing_adds_by_atomics_under_deterministic_algorithms(monkeypatch):
    """But on the CPU torch's kernels add in order."""
    module = import_module("gan3d.ops.grid_sample")
    monkeypatch.setattr(module, "deterministic", lambda: True)
    monkeypatch.setattr(module, "_Sample", None)
    image, grid = (x.to("meta") for x in example(1, 2, 3, 2, 1, 3))
    assert grid_sample(image, grid).shape == (1, 2, 1, 3)
    with pytest.raises(AttributeError):
        grid_sample(*example(1, 2, 3, 2, 1, 3))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no GPU: second derivative of grid_sample on CUDA not checked",
)
def test_the_second_derivative_exists_on_a_gpu():
    image, grid = (x.cuda() for x in example(2, 3, 5, 4, 7, 6))
    image.requires_grad_()
    # Atomics add in varying order.
    assert gradcheck(lambda x: grid_sample(x, grid), (image,), nondet_tol=1e-10)
    assert gradgradcheck(lambda x: grid_sample(x, grid).square(), (image,), nondet_tol=1e-10)
