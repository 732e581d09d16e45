"""One FiLM-SIREN layer (pi-GAN eq. 4): y = sin(gamma (W x + b) + beta), gamma = 15 gain + 30.

The gain multiplies the linear layer's bias, too. Differentiable any number of times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GAIN_SCALE, GAIN_OFFSET = 15.0, 30.0


def film_siren(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
    """sin((15 gain + 30) (x W^T + b) + phase) for points of several images.

    Args:
        x: [b p i].
        weight: W, [o i].
        bias: b, [o].
        gain: of each image, [b o].
        phase: of each image, [b o].

    Returns:
        [b p o].
    """
    gamma = (GAIN_SCALE * gain + GAIN_OFFSET)[:, None]
    return torch.addcmul(phase[:, None], gamma, F.linear(x, weight, bias)).sin()
