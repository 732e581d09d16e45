"""One FiLM-SIREN layer (pi-GAN eq. 4): y = sin(gamma (W x + b) + beta), gamma = 15 gain + 30.

The gain also multiplies the bias of the linear layer. Differentiable any number of times.

`reference` is the equation. `film_siren` folds gamma into the weights of each image,

    y = sin(x (gamma W)^T + (gamma b + beta)),

one product and one sine: less is written and kept for the backward pass; equal up to rounding. On a
GPU one kernel does it all, and keeps x alone (`ops.triton.scaled_linear`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.backend import Backend, choose, lowered

GAIN_SCALE, GAIN_OFFSET = 15.0, 30.0


def film_siren(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor,
    phase: Tensor,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """sin((15 gain + 30) (x W^T + b) + phase) for points of several images.

    Args:
        x: [b p i], or [1 p i].
        weight: W, [o i].
        bias: b, [o].
        gain: per image, [b o], or shared, [1 o].
        phase: beta, per image, [b o], or shared, [1 o].
        backend: see `ops.backend`; None chooses.

    Returns:
        [b p o].

    Raises:
        ValueError: the backend does not run here.
    """
    backend = choose(backend, x)
    if backend == "reference":
        return reference(x, weight, bias, gain, phase)
    batch = max(len(x), len(gain))
    gain = gain.expand(batch, -1)
    phase = phase.expand(batch, -1)
    gamma = GAIN_SCALE * gain + GAIN_OFFSET
    offset = torch.addcmul(phase, gamma, bias)
    if backend == "triton":
        from gan3d.ops.triton.scaled_linear import scaled_linear

        return scaled_linear(lowered(x), weight.mT, None, gamma, offset, batch, "sine", 0.0)
    x = x.expand(batch, -1, -1)
    return torch.baddbmm(offset[:, None], x, (gamma[..., None] * weight).mT).sin()


def reference(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
    """The same function, evaluated in the order of the equation."""
    gamma = (GAIN_SCALE * gain + GAIN_OFFSET)[:, None]
    return torch.addcmul(phase[:, None], gamma, F.linear(x, weight, bias)).sin()
