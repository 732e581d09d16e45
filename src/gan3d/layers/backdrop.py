"""What stands behind a scene: a smooth picture made of its latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan3d.layers.linear import EqualizedLinear

BASIS = 3  # 1, u, v


class Backdrop(nn.Module):
    """A backdrop per scene, a sigmoid of three numbers per channel that are affine in w:

        B_c(u, v) = sigmoid(a_c + b_c u + d_c v),   (a, b, d) = A w

    Without one, a background can only be colored by density that stands in front of it. A backdrop
    hangs in the picture, not in the world: it does not move when the camera turns about the scene.

    Args:
        w_dim: size of w.
        channels: of the backdrop.
    """

    def __init__(self, w_dim: int, channels: int):
        super().__init__()
        self.affine = EqualizedLinear(w_dim, BASIS * channels)

    def forward(self, w: Tensor, places: Tensor) -> Tensor:
        """The backdrop at places of the picture.

        Args:
            w: [b w], or [1 w] for one scene from many cameras.
            places: (u, v) of pixels, in [-1, 1], u to the right and v down, [b r 2].

        Returns:
            [b r c] in (0, 1).
        """
        factors = self.affine(w).unflatten(-1, (BASIS, -1))  # b 3 c
        basis = torch.cat([torch.ones_like(places[..., :1]), places], -1)  # b r 3
        return torch.sigmoid(basis @ factors)
