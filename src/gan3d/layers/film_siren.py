"""The FiLM-SIREN layer of pi-GAN, GRAM and CIPS-3D."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gan3d.ops.film_siren import film_siren


class FiLMSiren(nn.Module):
    """y = sin((15 gain + 30) (W x + b) + phase), see ops.film_siren.

    Initial weights are uniform in +-sqrt(6 / in) / 25, in a first layer in +-1 / in; biases are
    initialized as in torch's Linear.

    Args:
        in_features: size of x.
        out_features: size of y.
        first: whether x are coordinates (pi-GAN and GRAM; CIPS-3D makes no distinction).
    """

    def __init__(self, in_features: int, out_features: int, *, first: bool = False):
        super().__init__()
        limit = 1 / in_features if first else math.sqrt(6 / in_features) / 25
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-1, 1) / math.sqrt(in_features))

    def forward(self, x: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
        """x [b p i], gain and phase [b o] -> [b p o]."""
        return film_siren(x, self.weight, self.bias, gain, phase)


def siren_head(in_features: int, out_features: int) -> nn.Linear:
    """A Linear on SIREN features, with initial weights uniform in +-sqrt(6 / in) / 25."""
    head = nn.Linear(in_features, out_features)
    limit = math.sqrt(6 / in_features) / 25
    nn.init.uniform_(head.weight, -limit, limit)
    return head
