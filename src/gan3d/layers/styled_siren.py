"""FiLM-SIREN layers with style layers of their own, as CIPS-3D's NeRF is made of (specs/cips3d.md
5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan3d.layers.film_siren import FiLMSiren


class StyledSiren(nn.Module):
    """y = sin((15 g + 30) (W x + b) + p),   g = gain_fc(w), p = bias_fc(w); see ops.film_siren.

    The style layers start as torch's Linear with a quarter of its weights.

    Args:
        in_features: of x.
        out_features: of y.
        w_dim: length of the latent w.
    """

    def __init__(self, in_features: int, out_features: int, w_dim: int):
        super().__init__()
        self.linear = FiLMSiren(in_features, out_features)
        self.gain_fc, self.bias_fc = nn.Linear(w_dim, out_features), nn.Linear(w_dim, out_features)
        with torch.no_grad():
            self.gain_fc.weight *= 0.25
            self.bias_fc.weight *= 0.25

    def style(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(gain, phase) [b o] of w [b w]."""
        return self.gain_fc(w), self.bias_fc(w)

    def forward(self, x: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
        """x [b p i], gain and phase [b o] -> [b p o]."""
        return self.linear(x, gain, phase)
