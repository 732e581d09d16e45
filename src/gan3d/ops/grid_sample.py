"""Bilinear samples of images; differentiable any number of times with respect to the images.

    y[b, c, i, j] = sum_k w_k(grid[b, i, j]) image[b, c, k]

where w_k are the bilinear weights of the four neighboring pixels k. This is linear in the image,
y = A image: the derivative is A^T, and the derivative of A^T is A again. So two kernels of torch
give derivatives of every order, also on devices where torch's own grid_sample has no second one.

Convention: grid (x, y) in [-1, 1] spans the image from edge to edge (align_corners=False); pixels
outside are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample(image: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of an image.

    Not differentiable with respect to the grid. On CUDA the derivative adds with atomics, so its
    last bits vary from run to run.

    Args:
        image: [b c h w].
        grid: x and y of every sample, [b H W 2].

    Returns:
        [b c H W].

    Raises:
        ValueError: the grid requires a gradient.
    """
    if grid.requires_grad:
        raise ValueError(
            "grid_sample got a grid that requires a gradient, which is not implemented; "
            "detach the grid"
        )
    return _Sample.apply(image, grid)


class _Sample(torch.autograd.Function):
    """y = A image."""

    @staticmethod
    def forward(ctx, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = image.shape[-2:]
        return F.grid_sample(
            image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Scatter.apply(gradients[0], grid, ctx.size), None


class _Scatter(torch.autograd.Function):
    """image = A^T y: adds every sample to its four neighboring pixels."""

    @staticmethod
    def forward(ctx, y: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grid)
        b, c = y.shape[:2]
        image = y.new_empty(1).expand(b, c, *size)  # the kernel reads its shape only
        bilinear, zeros, align_corners = 0, 0, False
        return torch.ops.aten.grid_sampler_2d_backward(
            y.contiguous(), image, grid, bilinear, zeros, align_corners, [True, False]
        )[0]

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradients[0], grid), None, None
