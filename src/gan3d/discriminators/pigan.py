"""pi-GAN's discriminators (Chan et al. 2021, section 3.3): residual, growing with the resolution,
of four kinds.

    residual block:  x <- (lrelu(conv(lrelu(conv(x)))) + proj(x)) / sqrt(2), at half the resolution
    fade-in:         x <- fade block_R(in_R(image)) + (1 - fade) in_R/2(every second pixel of the image)

An encoder also predicts the pose of the camera and the latent code behind an image. Names of
parameters are those of the published weights, but for the wrappers around single convolutions.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput
from gan3d.layers.coord_conv import CoordConv2d
from gan3d.layers.synthesis import block_resolutions, channels_at
from gan3d.ops.bias_act import LRELU_SLOPE
from gan3d.randomness import Randomness

Kind = Literal["CCSEncoder", "CCS", "Strided", "ProgressiveEncoder", "Progressive"]
CHANNEL_BASE, CHANNEL_MAX = 8192, 400


class CoordResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, to half the resolution.

    Args:
        in_channels: of x.
        out_channels: of the result.
        coordinates: the convolutions know where they are (CoordConv).
        pool: both paths are halved by the mean of 2x2 pixels, and the shortcut projects where
            widths differ; if not, the second convolution and the shortcut's projection, which
            always is, have stride 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, coordinates: bool = True, pool: bool = True
    ):
        super().__init__()
        conv, stride = CoordConv2d if coordinates else nn.Conv2d, 1 if pool else 2
        self.pool = pool
        self.network = nn.Sequential(
            conv(in_channels, out_channels, 3, padding=1),
            nn.LeakyReLU(LRELU_SLOPE),
            conv(out_channels, out_channels, 3, padding=1, stride=stride),
            nn.LeakyReLU(LRELU_SLOPE),
        )
        projects = not pool or in_channels != out_channels
        self.proj = (
            nn.Conv2d(in_channels, out_channels, 1, stride=stride) if projects else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b i h w] -> [b o h/2 w/2]."""
        y = self.network(x)
        if self.pool:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return (y + self.proj(x)) * math.sqrt(0.5)


def widths(img_resolution: int, channels: tuple[int, ...] | None) -> list[int]:
    """Channels at img_resolution, half of it, .., 2: min(400, 8192 / resolution), or those
    given.
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
    """Judges images of any power of two up to its size; as an encoder it predicts latent code and
    pose, too.

    The defaults are pi-GAN's model for CelebA (13.3 million parameters); Cats takes "Strided",
    CARLA "ProgressiveEncoder". Weights of resolutions that are not in use have no gradient; those
    in use at R are `from_rgb` of R (and of R/2 while `fade` < 1), and the blocks from R down.
    unlike pi-GAN: the published CCS and Strided carry a `pose_layer` (1,200 parameters) that
    nothing uses. It is left out.

    Args:
        img_resolution: the largest size, a power of two; all from 2 to it are judged.
        kind: CCS and Progressive have coordinates in their convolutions, Strided has not;
            Progressive takes means of 2x2 pixels where the others have strides; an Encoder
            predicts.
        z_dim: size of the predicted code.
        channels: at img_resolution, half of it, .., 2; None is min(400, 8192 / resolution).
    """

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
        coordinates, pool = kind != "Strided", kind.startswith("Progressive")
        self.predicts_pose, self.latent_dim = (
            kind.endswith("Encoder"),
            z_dim if kind.endswith("Encoder") else 0,
        )
        self.img_resolution, self.img_resolutions = (
            img_resolution,
            tuple(2 ** (i + 1) for i in range(len(at))),
        )
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
        first = len(self.img_resolutions) - 1 - self.img_resolutions.index(h)
        x = self._enter(image, first)
        for i in range(first, len(self.layers)):
            if i == first + 1 and self.fade < 1:
                x = self.fade * x + (1 - self.fade) * self._enter(image[..., ::2, ::2], i)
            x = self.layers[i](x)
        out = self.final_layer(x).flatten(1)  # b 1, or b 1+z+2
        if not self.predicts_pose:
            return DiscriminatorOutput(out.squeeze(1))
        logits, latent, pose = out.split([1, self.latent_dim, 2], dim=1)
        return DiscriminatorOutput(logits.squeeze(1), pose=pose, latent=latent)

    def _enter(self, image: Tensor, i: int) -> Tensor:
        return F.leaky_relu(self.from_rgb[i](image), LRELU_SLOPE)
