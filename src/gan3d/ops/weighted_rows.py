"""Weighted sums of rows of a table, differentiable any number of times, and bilinear weights.

    y_p = sum_k weights[k, p] rows[indices[k, p]]

The four texels around a point of an image are such rows (`ops.grid_sample`), those of three planes
too (`ops.triplane`).

Convention: a coordinate in [-1, 1] spans `size` texels from edge to edge, texel centers at
half-integers (align_corners=False); outside, weights are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def taps(coordinate: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Indices and weights of the two texels around coordinates [..], [2 ..] each; a weight is 0
    outside the plane.
    """
    position = ((coordinate + 1) * size - 1) / 2
    # Clamping keeps far points (and infinities) within the range of integers; their weights are
    # still 0.
    low = position.detach().floor().clamp(-2, size)
    fraction = (position - low).clamp(0, 1)
    index = low.int()
    both = torch.stack([index, index + 1])
    inside = both.clamp(0, size - 1)
    return inside, torch.stack([1 - fraction, fraction]) * (inside == both)


class WeightedRows(torch.autograd.Function):
    """out_p = sum_k weights[k, p] rows[indices[k, p]].

    rows [n c], weights [k p], indices [k p] -> [p c]. The forward pass is `F.embedding_bag`; unlike
    it, this function has derivatives of any order. The gradient of the rows is the same function of
    the transposed weights: on a CPU it is computed so, from sorted taps (`_transposed`). Elsewhere,
    and where it is differentiated again, the taps are scattered one after the other.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, indices)
        of_points = indices.t().contiguous()
        return F.embedding_bag(of_points, rows, mode="sum", per_sample_weights=weights.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weights, indices = ctx.saved_tensors
        grad, grad_rows, grad_weights = grads[0], None, None
        if ctx.needs_input_grad[0] and _sorts(grad):
            grad_rows = _transposed(grad, weights, indices, len(rows))
        elif ctx.needs_input_grad[0]:
            grad_rows = torch.zeros_like(rows)
            for tap, weight in zip(indices, weights):
                grad_rows = grad_rows.index_add_(0, tap, weight[:, None] * grad)
        if ctx.needs_input_grad[1]:
            grad_weights = torch.stack([(rows[tap] * grad).sum(-1) for tap in indices])
        return grad_rows, grad_weights, None


def _sorts(grad: Tensor) -> bool:
    """Whether `_transposed` may be used: on a CPU, and where nothing is recorded."""
    return grad.is_cpu and not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def _transposed(grad: Tensor, weights: Tensor, indices: Tensor, rows: int) -> Tensor:
    """sum over taps with indices[k, p] = r of weights[k, p] grad_p, [r c], on the CPU.

    A tap is sorted as one number, its row in the upper half and its place in the lower: numpy sorts
    plain numbers several times faster than torch sorts pairs, and no two are equal.
    """
    flat = indices.flatten()
    tagged = (flat.long() << 32) | torch.arange(len(flat))
    places = torch.from_numpy(np.sort(tagged.numpy())) & 0xFFFFFFFF
    starts = F.pad(torch.bincount(flat, minlength=rows).cumsum(0)[:-1], (1, 0))
    # The remainder of a 32-bit number takes a third of the time.
    number = torch.int32 if len(flat) < 1 << 31 else torch.int64
    return F.embedding_bag(
        places.to(number) % len(grad),
        grad,
        starts.to(number),
        mode="sum",
        per_sample_weights=weights.flatten()[places],
    )
