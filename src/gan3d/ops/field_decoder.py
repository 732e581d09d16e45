"""EG3D's decoder of a field (section 3.2): one hidden layer, density and colors.

    h = softplus(W_1 x + b_1),   o = W_2 h + b_2
    sigma = o_0,   rgb = 1.002 sigmoid(o_1..) - 0.001          (Mip-NeRF's widened sigmoid)

`reference` is these lines. `decode` gives the same numbers in pieces that stay in a CPU's cache,
and keeps x and rgb for the backward pass, in place of x, W_1 x + b_1, h, the sigmoid and rgb: the
backward pass computes the hidden layer again, and the sigmoid from rgb. A backward pass that is
itself differentiated goes through `reference`, so that both are differentiable any number of times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.host import kind_of
from gan3d.ops.second_order import recorded

WIDEN, SHIFT = 1.002, 0.001
PIECE = 1 << 18  # numbers of the hidden layer at once on a CPU: 1 MiB


def reference(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """The equations as they stand. Arguments as for `decode`."""
    out = F.linear(F.softplus(F.linear(x, w1, b1)), w2, b2)
    return out[..., :1], WIDEN * torch.sigmoid(out[..., 1:]) - SHIFT


def decode(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Density and colors of points.

    Args:
        x: features of points, [.. c].
        w1: [h c].
        b1: [h].
        w2: [1+f h].
        b2: [1+f].

    Returns:
        sigma [.. 1] before its activation, rgb [.. f].
    """
    sigma, rgb = _Decode.apply(x.flatten(0, -2), w1, b1, w2, b2)
    return sigma.unflatten(0, x.shape[:-1]), rgb.unflatten(0, x.shape[:-1])


def _pieces(x: Tensor, w1: Tensor) -> list[slice]:
    """Slices of the points of x [p c] that are computed together."""
    size = max(PIECE // len(w1) if kind_of(x) == "cpu" else len(x), 1)
    return [slice(start, start + size) for start in range(0, len(x), size)]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> tuple[Tensor, Tensor]:
        sigma, rgb = x.new_empty(len(x), 1), x.new_empty(len(x), len(w2) - 1)
        for some in _pieces(x, w1):
            out = F.linear(F.softplus(F.linear(x[some], w1, b1)), w2, b2)
            sigma[some] = out[:, :1]
            rgb[some] = out[:, 1:].sigmoid().mul_(WIDEN).sub_(SHIFT)
        ctx.save_for_backward(x, w1, b1, w2, b2, rgb)
        return sigma, rgb

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, rgb = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(recorded(reference, inputs, needed, grads))

        x, w1, b1, w2, _ = inputs
        of_x, of_weights = torch.empty_like(x), [torch.zeros_like(w) for w in inputs[1:]]
        of_w1, of_b1, of_w2, of_b2 = of_weights
        # Widening scales the rows of the colors, here and in the gradient of W_2.
        widening = w2.new_full((len(w2), 1), WIDEN)
        widening[0] = 1
        w2 = w2 * widening
        for some in _pieces(x, w1):
            # up to the second layer
            s = torch.add(rgb[some], SHIFT).mul_(1 / WIDEN)
            of_colors = torch.ops.aten.sigmoid_backward(grads[1][some], s)
            of_out = torch.cat([grads[0][some], of_colors], 1)
            before = F.linear(x[some], w1, b1)
            of_hidden = torch.ops.aten.softplus_backward(of_out @ w2, before, 1, 20)
            torch.mm(of_hidden, w1, out=of_x[some])
            if any(needed[1:]):
                of_w2.addmm_(of_out.t(), F.softplus(before))
                of_b2 += of_out.sum(0)
                of_w1.addmm_(of_hidden.t(), x[some])
                of_b1 += of_hidden.sum(0)
        of_w2.mul_(widening)
        of_b2.mul_(widening[:, 0])
        found = zip(needed, (of_x, *of_weights), strict=True)
        return tuple(grad if is_needed else None for is_needed, grad in found)
