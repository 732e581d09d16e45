"""The modulated fully connected layer of CIPS-3D's INR (CIPS-3D, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan3d.ops.modfc import modfc


class ModFC(nn.Module):
    """y = ((x s) W) d,   s = A w + a + 1,   d_o = (sum_i s_i^2 W_io^2 + 1e-8)^-1/2.

    No bias, no noise, no gain. Initial W: N(0, 2 / (1.04 out)), initial A: N(0, 2 / (1.04 w_dim)),
    a as in torch's Linear.

    Args:
        in_features: size of x.
        out_features: size of y.
        w_dim: size of the latent w.
        demodulate: whether to multiply by d.
        slope: negative slope of a leaky ReLU on y; None for no activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        slope: float | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        # As published, the fan is the one of the transposed matrix; demodulation removes the scale.
        leaky_kaiming_(self.weight)
        self.modulation = nn.Linear(w_dim, in_features)
        leaky_kaiming_(self.modulation.weight)
        self.demodulate = demodulate
        self.slope = slope

    def style(self, w: Tensor) -> Tensor:
        """w [b w] -> s [b i]."""
        return self.modulation(w) + 1

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b n i], s [b i] -> [b n o]."""
        return modfc(x, self.weight, style, demodulate=self.demodulate, slope=self.slope)


def leaky_kaiming_(weight: Tensor) -> None:
    """Kaiming's N(0, 2 / (1.04 weight.shape[1])) for leaky ReLUs of slope 0.2, in place."""
    nn.init.kaiming_normal_(weight, a=0.2, nonlinearity="leaky_relu")
