"""Mapping network of FiLM-conditioned fields: pi-GAN (section 3.1), GRAM and GRAM-HD.

    x_0 = z,   x_{i+1} = leaky_relu_0.2(A_i x_i + a_i),   out = A_L x_L + a_L

z is not normalized. The model decides what `out` means (gains, phases, styles).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan3d.layers.precision import full_precision

SLOPE = 0.2


class FiLMMapping(nn.Module):
    """Computes `out` from z, in the precision of the parameters also under autocast.

    Initial weights are N(0, 2 / (1.04 in)) (Kaiming, leaky ReLU), those of the last layer scaled by
    `last_scale`; biases are initialized as in torch's Linear. In `network`, the Linear layers have
    the even numbers, the leaky ReLUs the odd ones.

    Args:
        z_dim: size of z.
        out_dim: size of out.
        hidden_dim: width of the hidden layers.
        hidden_layers: L, number of layers before the last one.
        last_scale: factor of the last layer's initial weight; 0.25 for gains and phases, 1 for the
            styles of GRAM-HD.

    Raises:
        ValueError: `hidden_layers` is not positive.
    """

    def __init__(
        self,
        z_dim: int,
        out_dim: int,
        hidden_dim: int = 256,
        hidden_layers: int = 3,
        *,
        last_scale: float = 0.25,
    ):
        super().__init__()
        if hidden_layers < 1:
            raise ValueError(
                f"hidden_layers {hidden_layers} is not positive; pi-GAN, GRAM and GRAM-HD use 3"
            )
        self.z_dim = z_dim
        self.out_dim = out_dim
        layers: list[nn.Module] = []
        for inside, out in pairwise([z_dim, *[hidden_dim] * hidden_layers, out_dim]):
            linear = nn.Linear(inside, out)
            nn.init.kaiming_normal_(
                linear.weight, a=SLOPE, mode="fan_in", nonlinearity="leaky_relu"
            )
            layers += [linear, nn.LeakyReLU(SLOPE)]
        with torch.no_grad():
            linear.weight.mul_(last_scale)
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        """z [b z_dim] -> [b out_dim]."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(
                f"z has shape {tuple(z.shape)}; expected [b {self.z_dim}], for a single z z[None]"
            )
        with full_precision(z):
            return self.network(z.to(self.get_parameter("network.0.weight").dtype))
