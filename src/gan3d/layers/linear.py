"""Equalised linear layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.ops.bias_act import Activation, bias_act


class FullyConnected(nn.Module):
    """y = act(x (m w / sqrt(in))^T + m b): weights are N(0, 1) / m, scaled at run time (Karras et al. 2018, 2019).

    Args:
        in_features: of the input.
        out_features: of the output.
        bias: whether there is one.
        activation: with its default gain.
        lr_multiplier: m above.
        bias_init: initial value of the stored bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(in_features), lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[.. in] -> [.. out]."""
        bias = self.bias if self.bias is None or self.bias_gain == 1 else self.bias * self.bias_gain
        weight = self.weight * self.weight_gain
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return bias_act(F.linear(x, weight), bias, dim=-1, act=self.activation)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, {self.activation}"


def normalise_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over dimension 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()
