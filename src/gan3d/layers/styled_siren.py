"""The FiLM-SIREN layer of CIPS-3D's NeRF, which has its own style layers (specs/cips3d.md 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan3d.layers.film_siren import FiLMSiren


class StyledSiren(nn.Module):
    """y = sin((15 g + 30) (W x + b) + p),   g = gain_fc(w), p = bias_fc(w); see ops.film_siren.

    The style layers are initialized as torch's Linear with weights divided by 4.

    Args:
        in_features: size of x.
        out_features: size of y.
        w_dim: size of the latent w.
    """

    def __init__(self, in_features: int, out_features: int, w_dim: int):
        super().__init__()
        self.linear = FiLMSiren(in_features, out_features)
        self.gain_fc = nn.Linear(w_dim, out_features)
        self.bias_fc = nn.Linear(w_dim, out_features)
        with torch.no_grad():
            self.gain_fc.weight *= 0.25
            self.bias_fc.weight *= 0.25

    def style(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w [b w] -> gain [b o], phase [b o]."""
        return self.gain_fc(w), self.bias_fc(w)

    def forward(self, x: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
        """x [b p i], gain and phase [b o] -> [b p o]."""
        return self.linear(x, gain, phase)
