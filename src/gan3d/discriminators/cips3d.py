"""CIPS-3D's two discriminators: of the image, and of the auxiliary image of the NeRF (section 3.3).

    residual block:  x <- (conv2(conv1(x)) + skip(x)) / sqrt(2), at half the resolution
    fade-in:         x <- fade block_R(in_R(image)) + (1 - fade) in_R/2(avg_pool(image, 2))

Both are StyleGAN2's residual discriminator with an input layer per resolution, so that the same
weights accept images of any power of two. The auxiliary one is narrower, and its blocks halve the
resolution in their first convolution instead of the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput, for_convolutions
from gan3d.discriminators.stylegan2 import DiscriminatorEpilogue, pose_head
from gan3d.layers.convolution import EqualizedConv2d
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.precision import full_precision
from gan3d.layers.synthesis import block_resolutions, channels_at
from gan3d.randomness import Randomness


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a 1x1 shortcut, to half the resolution.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        first_downsample: whether the first convolution halves the resolution instead of the second.
    """

    def __init__(self, in_channels: int, out_channels: int, *, first_downsample: bool):
        super().__init__()
        down1, down2 = (2, 1) if first_downsample else (1, 2)
        self.conv1 = EqualizedConv2d(in_channels, in_channels, 3, activation="lrelu", down=down1)
        self.conv2 = EqualizedConv2d(in_channels, out_channels, 3, activation="lrelu", down=down2)
        self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor) -> Tensor:
        """[b i h w] -> [b o h/2 w/2]."""
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv2(self.conv1(x), gain=math.sqrt(0.5))


class ResidualDiscriminator(nn.Module):
    """One of the two networks, for images of 8, 16, .. pixels up to the largest size.

    Args:
        channels: channels by resolution, from 4 to the largest size.
        first_downsample: see `ResidualBlock`.
        group_size: images per group of the minibatch standard deviation; 0 or 1 for none.
    """

    def __init__(self, channels: dict[int, int], *, first_downsample: bool, group_size: int):
        super().__init__()
        self.conv_in = nn.ModuleDict()
        for resolution, width in channels.items():
            self.conv_in[str(resolution)] = EqualizedConv2d(3, width, 1, activation="lrelu")
        self.convs = nn.ModuleDict()
        for resolution, width in channels.items():
            if resolution > 4:
                out_channels = channels[resolution // 2]
                block = ResidualBlock(width, out_channels, first_downsample=first_downsample)
                self.convs[str(resolution)] = block
        self.epilogue = DiscriminatorEpilogue(
            channels[4],
            1,
            img_channels=3,
            group_size=group_size,
            mbstd_channels=int(group_size > 1),
        )

    def forward(self, image: Tensor, fade: float = 1.0) -> Tensor:
        """Logits [b] of images [b 3 R R]; `fade` is the weight of the block at R."""
        return self.logits(self.features(image, fade))

    def logits(self, features: Tensor) -> Tensor:
        """[b c] -> [b]."""
        with full_precision(features):
            return self.epilogue.out(features).squeeze(1)

    def features(self, image: Tensor, fade: float = 1.0) -> Tensor:
        """What the logits are computed from, [b c]; arguments as for `forward`."""
        side, image = image.shape[-1], for_convolutions(image)
        x = self.convs[str(side)](self.conv_in[str(side)](image))
        side //= 2
        if fade < 1:
            x = fade * x + (1 - fade) * self.conv_in[str(side)](F.avg_pool2d(image, 2))
        while side > 4:
            x = self.convs[str(side)](x)
            side //= 2
        return self.epilogue.features(x, None)


class CIPS3DDiscriminator(Discriminator):
    """Separate discriminators of the image and (with `aux`) of the raw image.

    The defaults are the published model (37.5 million parameters). Parameters of unused resolutions
    get no gradient: an image of R pixels uses `conv_in` of R (and of R/2 while `fade` < 1), and
    `convs` from R down. unlike cips3d: DiffAugment is not part of it (see `gan3d.augment`), and
    without a raw image only the image is judged.

    Args:
        img_resolution: the largest size, a power of two of at least 8; all powers of two from 8 on
            are accepted.
        channel_base: a layer has channel_base / resolution channels, at most channel_max.
        channel_max: largest number of channels.
        channels: channels at img_resolution, half of it, .., 4; replaces the two above.
        first_downsample: whether the first convolution of a block halves the resolution instead of
            the second.
        aux: whether to add an auxiliary discriminator of raw images.
        aux_channel_max: channel_max of the auxiliary discriminator.
        aux_channels: channels of the auxiliary discriminator.
        aux_first_downsample: first_downsample of the auxiliary discriminator.
        group_size: images per group of the minibatch standard deviation; 0 or 1 for none.
        predicts_pose: whether a linear layer on the last features of the image predicts the
            camera's pitch and yaw (for `losses.PosePrediction`). unlike cips3d, whose game never
            sees a camera: nothing else makes its heads turn.

    Raises:
        ValueError: the sizes are invalid.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "channel_base": 256,
        "channel_max": 16,
        "aux_channel_max": 8,
    }

    def __init__(
        self,
        *,
        img_resolution: int = 1024,
        channel_base: int = 32768,
        channel_max: int = 512,
        channels: tuple[int, ...] | None = None,
        first_downsample: bool = False,
        aux: bool = True,
        aux_channel_max: int = 256,
        aux_channels: tuple[int, ...] | None = None,
        aux_first_downsample: bool = True,
        group_size: int = 0,
        predicts_pose: bool = False,
    ):
        super().__init__()
        resolutions = block_resolutions(img_resolution)[::-1]
        if img_resolution < 8:
            raise ValueError(
                f"img_resolution {img_resolution} is smaller than one block; use 8, 16, 32, .."
            )
        self.img_resolution = img_resolution
        self.img_resolutions = tuple(resolutions[-2::-1])
        self.needs_raw = aux
        self.group_size = max(1, group_size)

        def network(
            channel_max: int, widths: Sequence[int] | None, name: str, first_downsample: bool
        ) -> ResidualDiscriminator:
            if widths is None:
                widths = [channels_at(r, channel_base, channel_max) for r in resolutions]
            if len(widths) != len(resolutions):
                raise ValueError(
                    f"{name} has {len(widths)} numbers, img_resolution {img_resolution} needs "
                    f"{len(resolutions)}: those at {', '.join(map(str, resolutions))}"
                )
            return ResidualDiscriminator(
                dict(zip(resolutions, widths, strict=True)),
                first_downsample=first_downsample,
                group_size=group_size,
            )

        self.main_disc = network(channel_max, channels, "channels", first_downsample)
        self.aux_disc: ResidualDiscriminator | None = None
        if aux:
            self.aux_disc = network(
                aux_channel_max, aux_channels, "aux_channels", aux_first_downsample
            )
        self.predicts_pose = predicts_pose
        self.pose: EqualizedLinear | None = None
        if predicts_pose:
            self.pose = pose_head(self.main_disc.epilogue.out.in_features)

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        features = self.main_disc.features(self._checked(image), self.fade)
        logits, pose = self.main_disc.logits(features), None
        if self.pose is not None:
            with full_precision(features):
                pose = self.pose(features)
        if raw is None or self.aux_disc is None:
            return DiscriminatorOutput(logits, pose=pose)
        raw_logits = self.aux_disc(self._checked(raw), self.fade)
        return DiscriminatorOutput(logits, raw_logits=raw_logits, pose=pose)

    def _checked(self, image: Tensor) -> Tensor:
        """The image, after a check of its size."""
        h, w = image.shape[-2:]
        if image.ndim != 4 or h != w or h not in self.img_resolutions:
            raise ValueError(
                f"{type(self).__name__} judges square images of "
                f"{', '.join(map(str, self.img_resolutions))} px, got shape {tuple(image.shape)}; "
                "resize them or set img_resolution"
            )
        return image
