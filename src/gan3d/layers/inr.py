"""CIPS-3D's implicit neural representation: a pixel's feature and the appearance latents to its
color, and no more.

No layer sees more than one pixel, so that any set of pixels may be painted by itself, at any
resolution (CIPS-3D section 3.2; specs/cips3d.md 7). Blocks are named after StyleGAN's resolutions;
the names mean nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan3d.layers.mod_fc import ModFC

BLOCKS = ("4", "8", "16", "32", "64", "128", "256", "512", "1024")
FIRST_WITH_COLOR, FIRST_WITH_RESIDUAL = BLOCKS.index("32"), BLOCKS.index("64")
SLOPE = 0.2


class INRBlock(nn.Module):
    """h = lrelu(mod2(lrelu(mod1(x)))), and h + x where `residual` and the widths agree; slope 0.2,
    no gain.

    Args:
        in_features: of x.
        out_features: of h.
        w_dim: length of the latents.
        residual: whether x is added.
    """

    def __init__(self, in_features: int, out_features: int, w_dim: int, *, residual: bool):
        super().__init__()
        self.mod1 = ModFC(in_features, out_features, w_dim, slope=SLOPE)
        self.mod2 = ModFC(out_features, out_features, w_dim, slope=SLOPE)
        self.residual = residual and in_features == out_features

    def forward(self, x: Tensor, styles: tuple[Tensor, Tensor]) -> Tensor:
        """x [b n i], styles [b i] and [b o] of the two layers -> [b n o]."""
        h = self.mod2(self.mod1(x, styles[0]), styles[1])
        return h + x if self.residual else h


class INRNetwork(nn.Module):
    """Nine blocks; from block 32 on each adds a linear layer of its result to the color; tanh at
    the end.

    From block 64 on blocks are residual. With pre_rgb_dim > 3 a linear layer makes three colors of
    the sum.

    Args:
        in_features: of a pixel.
        hidden_dim: width of the blocks.
        w_dim: length of the latents.
        pre_rgb_dim: channels in which colors are summed, 3 or more.
    """

    def __init__(self, in_features: int, hidden_dim: int, w_dim: int, pre_rgb_dim: int = 3):
        super().__init__()
        if pre_rgb_dim < 3:
            raise ValueError(
                f"pre_rgb_dim {pre_rgb_dim} is less than the 3 colors to be made of it"
            )
        self.network, self.to_rgbs = nn.ModuleDict(), nn.ModuleDict()
        for i, name in enumerate(BLOCKS):
            residual = i >= FIRST_WITH_RESIDUAL
            self.network[name] = INRBlock(
                in_features if i == 0 else hidden_dim, hidden_dim, w_dim, residual=residual
            )
            if i >= FIRST_WITH_COLOR:
                self.to_rgbs[name] = _small_linear(hidden_dim, pre_rgb_dim)
        self.to_image = _small_linear(pre_rgb_dim, 3) if pre_rgb_dim > 3 else None

    @property
    def latent_names(self) -> tuple[str, ...]:
        """The layers that take a latent, in order: inr_w4_0, inr_w4_1, inr_w8_0, .."""
        return tuple(f"inr_w{name}_{k}" for name in BLOCKS for k in (0, 1))

    def styles(self, latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Styles [b i] of the layers, of one latent [b w_dim] each, in the order of
        `latent_names`.
        """
        layers: list[Any] = [
            layer for block in self.network.values() for layer in (block.mod1, block.mod2)
        ]
        return tuple(layer.style(w) for layer, w in zip(layers, latents, strict=True))

    def forward(self, x: Tensor, styles: Sequence[Tensor]) -> Tensor:
        """Pixels [b n i], styles of the layers -> colors in (-1, 1), [b n 3]."""
        rgb: Tensor | None = None
        for i, name in enumerate(BLOCKS):
            x = self.network[name](x, (styles[2 * i], styles[2 * i + 1]))
            if name in self.to_rgbs:
                color = self.to_rgbs[name](x)
                rgb = color if rgb is None else rgb + color
        assert rgb is not None
        return torch.tanh(rgb if self.to_image is None else self.to_image(rgb))


def _small_linear(in_features: int, out_features: int) -> nn.Linear:
    """Weights uniform in +-sqrt(6 / in) / 100, bias as torch's Linear."""
    layer = nn.Linear(in_features, out_features)
    limit = math.sqrt(6 / in_features) / 100
    nn.init.uniform_(layer.weight, -limit, limit)
    return layer
