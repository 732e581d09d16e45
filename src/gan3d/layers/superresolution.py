"""EG3D's super-resolution: two StyleGAN2 blocks on the rendered feature image (EG3D section 3.3).

    resize raw image and features to `input_resolution` -> block0 -> block1 -> image

All six layers take the same style, the last latent. The layouts are the published modules, named by
their factor over a rendering of 64 px: block1 doubles the resolution; block0 doubles it, too (8X,
8XDC), or keeps it (2X, 4X).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.convolution import BINOMIAL
from gan3d.layers.synthesis import Noise, SynthesisBlock
from gan3d.ops.resample import setup_filter
from gan3d.randomness import Randomness

Layout = Literal["none", "2X", "4X", "8X", "8XDC"]


class _Facts(NamedTuple):
    """A published module: the factor of block0, the widths of both blocks, and whether its state
    dict has a filter, a buffer that nothing uses.
    """

    first_up: int
    channels: tuple[int, int]
    has_filter: bool


LAYOUTS: dict[str, _Facts] = {
    "2X": _Facts(1, (128, 64), True),
    "4X": _Facts(1, (128, 64), True),
    "8X": _Facts(2, (128, 64), True),
    "8XDC": _Facts(2, (256, 128), False),
}


@dataclass(frozen=True)
class SuperResolutionOptions:
    """How the rendered feature image becomes the image.

    Attributes:
        layout: "none" (the image is the raw image), or a published module: 8X and 8XDC make an
            image of 4 times `input_resolution`, 2X and 4X of twice `input_resolution`. 2X and 4X
            differ only in the sizes that they were published for.
        channels: widths of the two blocks; None is the layout's own.
        input_resolution: side to which features and raw image are resized first; None follows from
            img_resolution.
        noise: noise of the blocks: "none", "const", or "random" (constant without a `randomness`).
        antialias: whether resizing that shrinks is low-pass filtered.
        conv_clamp: bound of all layers' outputs; None is off.
        legacy_raw: with a 2X or 4X layout and no resizing, the published code adds block0's image
            to the raw image in place and returns that; set it for official 2X and 4X weights.
    """

    layout: Layout = "8XDC"
    channels: tuple[int, int] | None = None
    input_resolution: int | None = None
    noise: Noise = "none"
    antialias: bool = True
    conv_clamp: float | None = 256.0
    legacy_raw: bool = False

    def __post_init__(self) -> None:
        if self.layout != "none" and self.layout not in LAYOUTS:
            raise ValueError(
                f"superresolution.layout {self.layout!r} is unknown; choose none, "
                f"{', '.join(LAYOUTS)}"
            )


class SuperResolution(nn.Module):
    """Feature image and raw image, of any size -> image.

    Args:
        img_resolution: side of the image.
        options: the blocks; `layout` is not "none".
        in_channels: channels of the feature image.
        w_dim: size of the latent.
    """

    def __init__(
        self, img_resolution: int, options: SuperResolutionOptions, *, in_channels: int, w_dim: int
    ):
        super().__init__()
        facts = LAYOUTS[options.layout]
        factor = 2 * facts.first_up
        side = options.input_resolution
        side = img_resolution // factor if side is None else side
        if side < 1 or side * factor != img_resolution:
            raise ValueError(
                f"img_resolution {img_resolution} is not {factor} times "
                f"superresolution.input_resolution {side}, as superresolution.layout "
                f"{options.layout} needs; use img_resolution {max(side, 1) * factor}, or leave "
                "superresolution.input_resolution out"
            )
        self.input_resolution, self.first_up = side, facts.first_up
        self.noise, self.antialias = options.noise, options.antialias
        first, second = facts.channels if options.channels is None else options.channels
        self.block0 = SynthesisBlock(
            in_channels,
            first,
            w_dim=w_dim,
            resolution=side * facts.first_up,
            img_channels=3,
            up=facts.first_up,
            conv_clamp=options.conv_clamp,
        )
        self.block1 = SynthesisBlock(
            first,
            second,
            w_dim=w_dim,
            resolution=img_resolution,
            img_channels=3,
            is_last=True,
            conv_clamp=options.conv_clamp,
        )
        if facts.has_filter:
            self.register_buffer("resample_filter", setup_filter(BINOMIAL))

    def forward(
        self, raw: Tensor, features: Tensor, w: Tensor, *, randomness: Randomness | None = None
    ) -> tuple[Tensor, Tensor]:
        """The image, and the image branch after block0.

        Args:
            raw: [b 3 h w].
            features: [b c h w].
            w: style of all layers, [b w_dim].
            randomness: source of "random" noise.

        Returns:
            image [b 3 H W] and the image branch after block0 [b 3 h' w']. unlike eg3d: `raw` is not
            written to, because that changes the discriminator's input and stops the gradient in
            float32.
        """
        # unlike eg3d: 4X also shrinks renderings larger than its input; the published module fails.
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
