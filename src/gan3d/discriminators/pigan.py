"""pi-GAN's progressive residual discriminators (Chan et al. 2021, section 3.3).

    residual block:  x <- (lrelu(conv(lrelu(conv(x)))) + proj(x)) / sqrt(2), at half the resolution
    fade-in:         x <- fade block_R(in_R(image)) + (1 - fade) in_R/2(image[::2, ::2])

An encoder also predicts the pose of the camera and the latent code of an image. Parameters have
their published names, except for the wrappers around single convolutions.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput, for_convolutions
from gan3d.layers.coord_conv import CoordConv2d
from gan3d.layers.precision import full_precision
from gan3d.layers.synthesis import block_resolutions, channels_at
from gan3d.ops.bias_act import LRELU_SLOPE
from gan3d.randomness import Randomness

Kind = Literal["CCSEncoder", "CCS", "Strided", "ProgressiveEncoder", "Progressive"]
CHANNEL_BASE = 8192
CHANNEL_MAX = 400


class CoordResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, to half the resolution.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        coordinates: whether the 3x3 convolutions are CoordConvs.
        pool: True halves both paths by the mean of 2x2 pixels, and the shortcut has a projection
            only if the numbers of channels differ. False gives the second convolution and the
            shortcut's projection stride 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, coordinates: bool = True, pool: bool = True
    ):
        super().__init__()
        self.pool = pool
        stride = 1 if pool else 2
        conv = CoordConv2d if coordinates else nn.Conv2d
        self.network = nn.Sequential(
            conv(in_channels, out_channels, 3, padding=1),
            nn.LeakyReLU(LRELU_SLOPE),
            conv(out_channels, out_channels, 3, padding=1, stride=stride),
            nn.LeakyReLU(LRELU_SLOPE),
        )
        self.proj: nn.Module = nn.Identity()
        if not pool or in_channels != out_channels:
            self.proj = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[b i h w] -> [b o h/2 w/2]."""
        y = self.network(x)
        if self.pool:
            x = F.avg_pool2d(x, 2)
            y = F.avg_pool2d(y, 2)
        else:
            # Torch's own stride writes outside of its memory on some CPUs: fewer than 16 channels,
            # channels last, 64 px (torch 2.13).
            x = x[..., ::2, ::2]
        return (y + self.proj(x)) * math.sqrt(0.5)


def widths(img_resolution: int, channels: tuple[int, ...] | None) -> list[int]:
    """Channels at img_resolution, half of it, .., 2; by default min(400, 8192 / resolution).

    Raises:
        ValueError: `channels` has the wrong length.
    """
    resolutions = [*block_resolutions(img_resolution)[::-1], 2]
    if channels is None:
        return [channels_at(resolution, CHANNEL_BASE, CHANNEL_MAX) for resolution in resolutions]
    if len(channels) != len(resolutions):
        raise ValueError(
            f"channels has {len(channels)} numbers, img_resolution {img_resolution} needs "
            f"{len(resolutions)}: those at {', '.join(map(str, resolutions))}"
        )
    return list(channels)


class PiGANDiscriminator(Discriminator):
    """Realness of images of any power of two up to its size; encoders also predict z and pose.

    The defaults are pi-GAN's model for CelebA (13.3 million parameters); Cats uses "Strided",
    CARLA "ProgressiveEncoder". Parameters of unused resolutions get no gradient: an image of R
    pixels uses `from_rgb` of R (and of R/2 while `fade` < 1), and the blocks from R down. unlike
    pi-GAN: without the `pose_layer` of the published CCS and Strided (1,200 parameters), which is
    not used.

    Args:
        img_resolution: the largest size, a power of two; all powers of two from 2 on are accepted.
        kind: CCS and Progressive use CoordConv, Strided does not; Progressive halves by means of
            2x2 pixels, the others by strides; an Encoder predicts z and pose.
        z_dim: size of the predicted z.
        channels: channels at img_resolution, half of it, .., 2; None is min(400, 8192 /
            resolution).

    Raises:
        ValueError: the kind is unknown, or the sizes are invalid.
    """

    no_float16 = ""
    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "z_dim": 16,
        "channels": (4, 8, 12, 12, 12),
    }

    def __init__(
        self,
        *,
        img_resolution: int = 256,
        kind: Kind = "CCSEncoder",
        z_dim: int = 256,
        channels: tuple[int, ...] | None = None,
    ):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind {kind!r} is unknown; choose one of {', '.join(get_args(Kind))}")
        at = widths(img_resolution, channels)
        self.img_resolution = img_resolution
        self.img_resolutions = tuple(2 ** (i + 1) for i in range(len(at)))
        self.predicts_pose = kind.endswith("Encoder")
        self.latent_dim = z_dim if self.predicts_pose else 0

        coordinates = kind != "Strided"
        pool = kind.startswith("Progressive")
        self.from_rgb = nn.ModuleList([nn.Conv2d(3, width, 1) for width in at])
        self.layers = nn.ModuleList(
            [CoordResidualBlock(i, o, coordinates=coordinates, pool=pool) for i, o in pairwise(at)]
        )
        self.final_layer = nn.Conv2d(at[-1], 1 + (z_dim + 2) * self.predicts_pose, 2)
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                nn.init.kaiming_normal_(module.weight, a=LRELU_SLOPE)

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        h, w = image.shape[-2:]
        if image.ndim != 4 or h != w or h not in self.img_resolutions:
            raise ValueError(
                f"{type(self).__name__} judges square images of "
                f"{', '.join(map(str, self.img_resolutions))} px, got shape {tuple(image.shape)}; "
                "resize them or set img_resolution"
            )
        # Blocks are ordered from the largest resolution down.
        first = len(self.img_resolutions) - 1 - self.img_resolutions.index(h)
        image = for_convolutions(image)
        x = self._from_rgb(image, first)
        for i in range(first, len(self.layers)):
            if i == first + 1 and self.fade < 1:
                x = self.fade * x + (1 - self.fade) * self._from_rgb(image[..., ::2, ::2], i)
            x = self.layers[i](x)

        with full_precision(x):
            out = self.final_layer(x.to(self.final_layer.weight.dtype)).flatten(1)
        # out: b 1, or b 1+z+2
        if not self.predicts_pose:
            return DiscriminatorOutput(out.squeeze(1))
        logits, latent, pose = out.split([1, self.latent_dim, 2], dim=1)
        return DiscriminatorOutput(logits.squeeze(1), pose=pose, latent=latent)

    def _from_rgb(self, image: Tensor, i: int) -> Tensor:
        """Features of an image for block i."""
        return F.leaky_relu(self.from_rgb[i](image), LRELU_SLOPE)
