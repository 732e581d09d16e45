"""EG3D's super-resolution: two StyleGAN2 blocks on the rendered feature image (EG3D section 3.3).

    resize raw image and features to `input_resolution` -> block0 -> block1 -> image

All six layers take one style, the last latent. The layouts are the published modules, named after
their factor from a 64 px rendering: block1 doubles the resolution, block0 doubles it too (8X, 8XDC)
or keeps it (2X, 4X).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.convolution import BINOMIAL
from gan3d.layers.synthesis import Noise, SynthesisBlock
from gan3d.ops.resample import setup_filter
from gan3d.randomness import Randomness

Layout = Literal["2X", "4X", "8X", "8XDC"]


class _Facts(NamedTuple):
    first_up: int  # of block0
    channels: tuple[int, int]
    has_filter: bool  # an unused buffer of the published modules, kept for their state dicts


LAYOUTS: dict[str, _Facts] = {
    "2X": _Facts(1, (128, 64), True),
    "4X": _Facts(1, (128, 64), True),
    "8X": _Facts(2, (128, 64), True),
    "8XDC": _Facts(2, (256, 128), False),
}


class SuperResolution(nn.Module):
    """Feature image and raw image of any size -> image.

    Args:
        layout: one of `LAYOUTS`; 2X and 4X differ in the sizes they were published for only.
        img_resolution: side of the image, 4 (8X, 8XDC) or 2 (2X, 4X) times input_resolution.
        input_resolution: what both inputs are resized to; None follows from img_resolution.
        in_channels: of the feature image.
        channels: widths of the two blocks; None is the layout's own.
        w_dim: of the latent.
        noise: of all layers; "random" is constant without a randomness.
        antialias: whether resizing that shrinks is low-pass filtered.
        conv_clamp: bound of all layers' outputs; None is none.
    """

    def __init__(
        self,
        layout: Layout,
        img_resolution: int,
        *,
        input_resolution: int | None = None,
        in_channels: int = 32,
        channels: tuple[int, int] | None = None,
        w_dim: int = 512,
        noise: Noise = "none",
        antialias: bool = True,
        conv_clamp: float | None = 256.0,
    ):
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"superresolution {layout!r} is unknown; choose {', '.join(LAYOUTS)}")
        facts = LAYOUTS[layout]
        factor = 2 * facts.first_up
        side = img_resolution // factor if input_resolution is None else input_resolution
        if side < 1 or side * factor != img_resolution:
            near = max(side, 1) * factor
            raise ValueError(
                f"img_resolution {img_resolution} is not {factor} times sr_input_resolution "
                f"{side}, as superresolution {layout} needs; use img_resolution {near}, or leave "
                "sr_input_resolution out"
            )
        self.input_resolution, self.first_up = side, facts.first_up
        self.noise, self.antialias = noise, antialias
        first, second = facts.channels if channels is None else channels
        self.block0 = SynthesisBlock(
            in_channels,
            first,
            w_dim=w_dim,
            resolution=side * facts.first_up,
            img_channels=3,
            up=facts.first_up,
            conv_clamp=conv_clamp,
        )
        self.block1 = SynthesisBlock(
            first,
            second,
            w_dim=w_dim,
            resolution=img_resolution,
            img_channels=3,
            is_last=True,
            conv_clamp=conv_clamp,
        )
        if facts.has_filter:
            self.register_buffer("resample_filter", setup_filter(BINOMIAL))

    def forward(
        self, raw: Tensor, features: Tensor, w: Tensor, *, randomness: Randomness | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both images of the two blocks.

        Args:
            raw: [b 3 h w].
            features: [b c h w].
            w: style of all layers, [b w_dim].
            randomness: of "random" noise.

        Returns:
            image [b 3 H W] and the image branch after block0. unlike eg3d: `raw` is not written to,
            because that changes what the discriminator sees and stops the gradient in float32.
        """
        # unlike eg3d: 4X shrinks renderings larger than its input, where the published module
        # fails.
        if raw.shape[-1] != self.input_resolution:
            raw, features = self._resize(raw), self._resize(features)
        noise = None if self.noise == "random" else self.noise
        draws = None if randomness is None else randomness.in_phase("superresolution")
        styles = w[:, None].expand(-1, 3, -1)
        x, first = self.block0(features, raw, styles, noise=noise, randomness=draws)
        _, image = self.block1(x, first, styles, noise=noise, randomness=draws)
        return image, first

    def _resize(self, image: Tensor) -> Tensor:
        size = (self.input_resolution, self.input_resolution)
        return F.interpolate(
            image, size=size, mode="bilinear", align_corners=False, antialias=self.antialias
        )
