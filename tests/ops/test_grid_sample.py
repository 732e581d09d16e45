"""gan3d.ops.grid_sample: values, and derivatives of any order with respect to the image."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from gan3d.ops.grid_sample import grid_sample

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


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_first_derivative_equal_those_of_torch(shape):
    image, grid = example(*shape)
    image.requires_grad_()
    y = grid_sample(image, grid)
    expected = F.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * weight).sum(), image)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), image)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_derivatives_are_those_of_finite_differences(shape):
    image, grid = example(*shape)
    image.requires_grad_()
    assert gradcheck(lambda x: grid_sample(x, grid), (image,))
    assert gradgradcheck(lambda x: grid_sample(x, grid), (image,))
    assert gradgradcheck(lambda x: grid_sample(x, grid).square(), (image,))


def test_the_derivative_is_the_adjoint_for_any_memory_layout():
    image, grid = example(2, 3, 6, 5, 4, 7)
    image.requires_grad_()
    y = grid_sample(image, grid)
    weight = torch.randn(2, 4, 7, 3, dtype=y.dtype).permute(0, 3, 1, 2)  # not contiguous
    (g,) = torch.autograd.grad(y, image, weight)
    torch.testing.assert_close((g * image).sum(), (weight * y).sum())


def test_a_grid_that_requires_a_gradient_is_refused():
    image, grid = example(1, 1, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="detach the grid"):
        grid_sample(image, grid.requires_grad_())


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
