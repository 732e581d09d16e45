"""Samples images at the points of a grid; differentiable any number of times with respect to the
images.

    y[b, c, i, j] = sum_k w_k(grid[b, i, j]) image[b, c, k]          bilinear weights w of the four neighbors

This is linear in the image: y = A image. So the derivative is A^T, and the derivative of that is A
again. Not every device of torch has the second derivative of its own grid_sample; with this, two of
its kernels give all of them.

Convention: grid (x, y) in [-1, 1] spans the image from edge to edge (align_corners False); pixels
beyond are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_sample(image: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of an image.

    The gradient with respect to the grid is not computed: a grid that needs one is refused. On CUDA
    the derivative adds with atomics, so its last bits vary from run to run.

    Args:
        image: [b c h w].
        grid: x and y of every sample, [b H W 2].

    Returns:
        [b c H W].
    """
    if grid.requires_grad:
        raise ValueError(
            "grid_sample got a grid that needs a gradient and gives none to it; detach the grid"
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
    """image = A^T y: adds every sample to its four neighbors."""

    @staticmethod
    def forward(ctx, y: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grid)
        b, c = y.shape[:2]
        image = y.new_empty(1).expand(b, c, *size)  # only its shape is asked for
        bilinear, zeros, align_corners = 0, 0, False
        return torch.ops.aten.grid_sampler_2d_backward(
            y.contiguous(), image, grid, bilinear, zeros, align_corners, [True, False]
        )[0]

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradients[0], grid), None, None
