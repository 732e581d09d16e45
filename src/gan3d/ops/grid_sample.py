"""Bilinear samples of images; differentiable any number of times, in the images and in the grid.

    y[b, c, i, j] = sum_k w_k(grid[b, i, j]) image[b, c, k]

where w_k are the bilinear weights of the four neighboring pixels k.

`reference` is this sum, over rows of a table (`ops.weighted_rows`). `fast` are two kernels of
torch: y is linear in the image, y = A image, so that the derivative is A^T, and the derivative of
A^T is A again: of every order with respect to the image, also on devices where torch's own
grid_sample has no second one. A gradient of the grid that is itself differentiated goes through the
reference. On a GPU a kernel each way reads and writes images in the order of memory that they have,
and computes what is asked for alone (`ops.triton.grid_sample`).

Convention: grid (x, y) in [-1, 1] spans the image from edge to edge (align_corners=False); pixels
outside are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.ops.backend import Backend, choose, deterministic
from gan3d.ops.second_order import recorded
from gan3d.ops.weighted_rows import WeightedRows, taps


def grid_sample(image: Tensor, grid: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Bilinear samples of an image.

    Args:
        image: [b c h w].
        grid: x and y of every sample, [b H W 2].
        backend: see `ops.backend`; None chooses. On a GPU the other two add gradients of the image
            by atomics, so that under deterministic algorithms the reference takes their place.

    Returns:
        [b c H W].

    Raises:
        ValueError: the shapes do not match, or the backend does not run here.
    """
    _check(image, grid)
    backend = choose(backend, image)
    if backend == "reference" or (deterministic() and not image.is_cpu):
        return grid_sample_reference(image, grid)
    if backend == "triton":
        from gan3d.ops.triton.grid_sample import sample_image

        return sample_image(image, grid)
    return _Sample.apply(image, grid)


def grid_sample_reference(image: Tensor, grid: Tensor) -> Tensor:
    """The same function as the sum over four rows of a table of pixels."""
    b, _, h, w = image.shape
    columns, across = taps(grid[..., 0].flatten(1), w)  # 2 b p
    rows, down = taps(grid[..., 1].flatten(1), h)
    first = torch.arange(b, dtype=rows.dtype, device=rows.device)[:, None] * h
    indices = ((first + rows) * w)[:, None] + columns  # 2 2 b p
    weights = (down[:, None] * across).to(image.dtype)
    table = rearrange(image, "b c h w -> (b h w) c")
    four = weights.flatten(0, 1).flatten(1), indices.flatten(0, 1).flatten(1)  # 4 b p
    sampled = WeightedRows.apply(table, *four)
    return rearrange(sampled, "(b H W) c -> b c H W", b=b, H=grid.shape[1])


class _Sample(torch.autograd.Function):
    """y = A image."""

    @staticmethod
    def forward(ctx, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid, image if ctx.needs_input_grad[1] else None)
        ctx.size = image.shape[-2:]
        return F.grid_sample(
            image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grid, image = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if image is None:
            return _Scatter.apply(gradients[0], grid, ctx.size), None
        if torch.is_grad_enabled():
            of_image, of_grid = recorded(grid_sample_reference, [image, grid], needed, gradients)
            return of_image, of_grid
        return _backward(gradients[0], image, grid, needed)


class _Scatter(torch.autograd.Function):
    """image = A^T y: adds every sample to its four neighboring pixels."""

    @staticmethod
    def forward(ctx, y: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grid)
        image = y.new_empty(1).expand(*y.shape[:2], *size)  # the kernel reads its shape only
        found, _ = _backward(y, image, grid, (True, False))
        assert found is not None
        return found

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradients[0], grid), None, None


def _backward(
    y: Tensor, image: Tensor, grid: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Torch's gradients of image and grid, given that of y."""
    bilinear, zeros, align_corners = 0, 0, False
    of_image, of_grid = torch.ops.aten.grid_sampler_2d_backward(
        y.contiguous(), image, grid, bilinear, zeros, align_corners, list(needed)
    )
    return (of_image if needed[0] else None), (of_grid if needed[1] else None)


def _check(image: Tensor, grid: Tensor) -> None:
    fits = image.ndim == 4 and grid.ndim == 4 and grid.shape[3] == 2
    if not fits or len(image) != len(grid):
        raise ValueError(
            f"image {list(image.shape)} and grid {list(grid.shape)} are not [b c h w] and "
            "[b H W 2]; give every image a grid of x and y"
        )
