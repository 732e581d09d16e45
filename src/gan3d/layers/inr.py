"""CIPS-3D's implicit neural representation: from the feature of a pixel to its color.

All layers work on single pixels, so any set of pixels can be computed independently, at any
resolution (CIPS-3D, section 3.2; specs/cips3d.md 7). The blocks are named after StyleGAN's
resolutions, but there is no upsampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan3d.layers.mod_fc import ModFC
from gan3d.layers.precision import full_precision

BLOCKS = ("4", "8", "16", "32", "64", "128", "256", "512", "1024")
FIRST_WITH_COLOR = BLOCKS.index("32")
FIRST_WITH_RESIDUAL = BLOCKS.index("64")
SLOPE = 0.2


class INRBlock(nn.Module):
    """h = lrelu(mod2(lrelu(mod1(x)))) with slope 0.2 and no gain; h + x if residual.

    Args:
        in_features: size of x.
        out_features: size of h.
        w_dim: size of the latents.
        residual: whether to add x, provided that x and h have the same size.
    """

    def __init__(self, in_features: int, out_features: int, w_dim: int, *, residual: bool):
        super().__init__()
        self.mod1 = ModFC(in_features, out_features, w_dim, slope=SLOPE)
        self.mod2 = ModFC(out_features, out_features, w_dim, slope=SLOPE)
        self.residual = residual and in_features == out_features

    def forward(self, x: Tensor, styles: tuple[Tensor, Tensor]) -> Tensor:
        """x [b n i], styles ([b i], [b o]) of the two layers -> [b n o]."""
        h = self.mod2(self.mod1(x, styles[0]), styles[1])
        return h + x if self.residual else h


class INRNetwork(nn.Module):
    """Nine blocks; color is the tanh of a sum of linear layers, one per block from block 32 on.

    Blocks are residual from block 64 on. If pre_rgb_dim > 3, a linear layer reduces the sum to
    three colors.

    Args:
        in_features: size of a pixel's feature.
        hidden_dim: width of the blocks.
        w_dim: size of the latents.
        pre_rgb_dim: channels of the sum, 3 or more.

    Raises:
        ValueError: `pre_rgb_dim` is less than 3.
    """

    def __init__(self, in_features: int, hidden_dim: int, w_dim: int, pre_rgb_dim: int = 3):
        super().__init__()
        if pre_rgb_dim < 3:
            raise ValueError(
                f"pre_rgb_dim {pre_rgb_dim} is less than the 3 colors computed from it; use 3 or "
                "more"
            )
        self.network = nn.ModuleDict()
        self.to_rgbs = nn.ModuleDict()
        for i, name in enumerate(BLOCKS):
            width = in_features if i == 0 else hidden_dim
            residual = i >= FIRST_WITH_RESIDUAL
            self.network[name] = INRBlock(width, hidden_dim, w_dim, residual=residual)
            if i >= FIRST_WITH_COLOR:
                self.to_rgbs[name] = _small_linear(hidden_dim, pre_rgb_dim)
        self.to_image = _small_linear(pre_rgb_dim, 3) if pre_rgb_dim > 3 else None

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Names of the modulated layers, in order: inr_w4_0, inr_w4_1, inr_w8_0, .."""
        return tuple(f"inr_w{name}_{k}" for name in BLOCKS for k in (0, 1))

    def styles(self, latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Latents [b w_dim] of the layers, in order of `latent_names` -> their styles [b i]."""
        blocks: Iterable[Any] = self.network.values()
        layers = [layer for block in blocks for layer in (block.mod1, block.mod2)]
        return tuple(layer.style(w) for layer, w in zip(layers, latents, strict=True))

    def forward(self, x: Tensor, styles: Sequence[Tensor]) -> Tensor:
        """Pixel features [b n i], one style per layer -> colors in (-1, 1), [b n 3]."""
        rgb: Tensor | None = None
        for i, name in enumerate(BLOCKS):
            x = self.network[name](x, (styles[2 * i], styles[2 * i + 1]))
            if name in self.to_rgbs:
                color = self.to_rgbs[name](x).to(self.to_rgbs[name].weight.dtype)
                rgb = color if rgb is None else rgb + color
        assert rgb is not None
        with full_precision(rgb):
            return torch.tanh(rgb if self.to_image is None else self.to_image(rgb))


def _small_linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear with initial weights uniform in +-sqrt(6 / in) / 100."""
    layer = nn.Linear(in_features, out_features)
    limit = math.sqrt(6 / in_features) / 100
    nn.init.uniform_(layer.weight, -limit, limit)
    return layer
