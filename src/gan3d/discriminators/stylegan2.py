"""Discriminators of StyleGAN2 (section 2, figure 7) and EG3D (section 4.3: dual discrimination,
label conditioning).

    resnet block:  x <- (conv1(conv0(x)) + skip(x)) / sqrt(2), both at half the resolution
    logit = out . mapping(c) / sqrt(cmap_dim)           (projection, Miyato & Koyama 2018), or out without labels

Dual discrimination judges the final image and the raw one, resized to it, as one image of six
channels, so that both have to agree. Names of parameters and buffers are those of the published
weights.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput
from gan3d.layers.convolution import BINOMIAL, EqualizedConv2d
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.layers.minibatch_std import MinibatchStd
from gan3d.layers.precision import full_precision
from gan3d.layers.resize import filtered_resizing
from gan3d.layers.synthesis import Architecture, block_resolutions, channels_at
from gan3d.ops.resample import downsample2d, setup_filter
from gan3d.randomness import Randomness


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second to half the resolution, and what brings the image in.

    Args:
        in_channels: of x; 0 makes the first block, which starts from the image.
        channels: at this resolution.
        out_channels: at half of it.
        img_channels: of the image.
        architecture: "skip" brings the image into every block, "resnet" has a residual path, "orig"
            neither.
        conv_clamp: largest magnitude of features, but for the residual path.
        frozen_layers: how many of the block's first layers are not trained.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        *,
        img_channels: int,
        architecture: Architecture = "resnet",
        conv_clamp: float | None = None,
        frozen_layers: int = 0,
    ):
        super().__init__()
        if architecture not in ("skip", "resnet", "orig"):
            raise ValueError(
                f"architecture {architecture!r} is unknown; choose skip, resnet or orig"
            )
        self.architecture, self.num_layers = architecture, 0
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))

        def layer(inside: int, out: int, kernel_size: int, down: int = 1) -> EqualizedConv2d:
            self.num_layers += 1
            return EqualizedConv2d(
                inside,
                out,
                kernel_size,
                activation="lrelu",
                down=down,
                conv_clamp=conv_clamp,
                trainable=self.num_layers > frozen_layers,
            )

        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, channels, 1)
        self.conv0 = layer(channels, channels, 3)
        self.conv1 = layer(channels, out_channels, 3, down=2)
        if architecture == "resnet":
            self.num_layers += 1
            trainable = self.num_layers > frozen_layers
            self.skip = EqualizedConv2d(
                channels, out_channels, 1, bias=False, down=2, trainable=trainable
            )

    def forward(self, x: Tensor | None, img: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x [b i h w] (None in the first block), img [b img_channels h w] -> both at half the
        resolution.
        """
        if x is None or self.architecture == "skip":
            assert img is not None
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """4 x 4 features to `out`: minibatch standard deviation, a convolution, two linear layers;
    never in low precision.

    Args:
        in_channels: of x.
        out_features: of the result.
        img_channels: of the image ("skip" brings it in here, too).
        architecture: of the blocks before.
        conv_clamp: largest magnitude after the convolution.
        group_size: images whose standard deviation is taken together; None is the batch.
        mbstd_channels: how many maps of it; 0 is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        *,
        img_channels: int,
        architecture: Architecture = "resnet",
        conv_clamp: float | None = None,
        group_size: int | None = 4,
        mbstd_channels: int = 1,
    ):
        super().__init__()
        if architecture == "skip":
            self.fromrgb = EqualizedConv2d(img_channels, in_channels, 1, activation="lrelu")
        self.architecture = architecture
        self.mbstd = MinibatchStd(group_size, mbstd_channels) if mbstd_channels > 0 else None
        self.conv = EqualizedConv2d(
            in_channels + mbstd_channels, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp
        )
        self.fc = EqualizedLinear(in_channels * 16, in_channels, activation="lrelu")
        self.out = EqualizedLinear(in_channels, out_features)

    def forward(self, x: Tensor, img: Tensor | None) -> Tensor:
        """[b i 4 4] -> [b out_features]."""
        with full_precision(x):
            x = x.to(self.out.weight.dtype)
            if self.architecture == "skip":
                assert img is not None
                x = x + self.fromrgb(img.to(x.dtype))
            x = x if self.mbstd is None else self.mbstd(x)
            return self.out(self.fc(self.conv(x).flatten(1)))


class StyleGAN2Discriminator(Discriminator):
    """Judges single images; with c_dim 25 together with the label of the camera they were taken by.

    The defaults go with those of the generator `StyleGAN2` (FFHQ 256, 24.0 million parameters).

    Args:
        img_resolution: a power of two.
        img_channels: of one image.
        c_dim: 0, or 25 to condition on the camera's label.
        channel_base: channels times resolution, up to
        channel_max: channels of one layer.
        conv_clamp: largest magnitude of features; None is no limit.
        architecture: "resnet", "skip" or "orig".
        cmap_dim: size of the mapped label; None is the number of channels at 4 x 4.
        mapping_layers: of the label's mapping network.
        mapping_lr_multiplier: of the label's mapping network.
        group_size: images per group of the minibatch standard deviation.
        mbstd_channels: maps of it; 0 is none.
        freeze_layers: so many layers, from the image on, are not trained (Freeze-D, Mo et al.
            2020).
        disc_c_noise: label noise in training, in standard deviations of the batch's labels (EG3D,
            supplement).
    """

    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "channel_base": 256,
        "channel_max": 16,
        "mapping_layers": 2,
        "group_size": 2,
    }

    def __init__(
        self,
        *,
        img_resolution: int = 256,
        img_channels: int = 3,
        c_dim: int = 0,
        channel_base: int = 16384,
        channel_max: int = 512,
        conv_clamp: float | None = 256,
        architecture: Architecture = "resnet",
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        group_size: int = 4,
        mbstd_channels: int = 1,
        freeze_layers: int = 0,
        disc_c_noise: float = 0.0,
    ):
        super().__init__()
        self.img_resolution, self.c_dim, self.camera_conditioned = img_resolution, c_dim, c_dim > 0
        self.group_size, self.disc_c_noise = group_size if mbstd_channels > 0 else 1, disc_c_noise
        in_channels = layers = 0
        self.resolutions = block_resolutions(img_resolution)[:0:-1]
        for resolution in self.resolutions:
            block = DiscriminatorBlock(
                in_channels,
                channels_at(resolution, channel_base, channel_max),
                out_channels := channels_at(resolution // 2, channel_base, channel_max),
                img_channels=img_channels,
                architecture=architecture,
                conv_clamp=conv_clamp,
                frozen_layers=freeze_layers - layers,
            )
            self.add_module(f"b{resolution}", block)
            in_channels, layers = out_channels, layers + block.num_layers
        channels = channels_at(4, channel_base, channel_max)
        if c_dim > 0:
            cmap_dim = channels if cmap_dim is None else cmap_dim
            self.mapping = MappingNetwork(
                0,
                c_dim,
                cmap_dim,
                None,
                MappingOptions(num_layers=mapping_layers, lr_multiplier=mapping_lr_multiplier),
            )
        self.b4 = DiscriminatorEpilogue(
            channels,
            cmap_dim if c_dim > 0 and cmap_dim is not None else 1,
            img_channels=img_channels,
            architecture=architecture,
            conv_clamp=conv_clamp,
            group_size=group_size,
            mbstd_channels=mbstd_channels,
        )

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        return DiscriminatorOutput(self.logits(image, self._label(camera, randomness)))

    def logits(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        """Realness [b] of images [b img_channels H W] with labels [b c_dim] (None where c_dim is
        0).
        """
        side = self.img_resolution
        if image.ndim != 4 or image.shape[2:] != (side, side):
            raise ValueError(
                f"{type(self).__name__} judges images of {side} px, got shape "
                f"{tuple(image.shape)}; resize them or set img_resolution"
            )
        x, img = None, image
        for resolution in self.resolutions:
            x, img = self.get_submodule(f"b{resolution}")(x, img)
        out = self.b4(x, img)
        if self.c_dim == 0:
            return out.squeeze(1)
        cmap = self.mapping(None, c)
        return (out * cmap).sum(1) / math.sqrt(cmap.shape[1])

    def _label(self, camera: Camera | None, randomness: Randomness | None) -> Tensor | None:
        """Labels [b c_dim], noisy in training."""
        if self.c_dim == 0:
            return None
        if camera is None:
            raise ValueError(
                f"{type(self).__name__} has c_dim {self.c_dim} but got no camera; give one, or "
                "c_dim=0"
            )
        c = camera.label()
        # unlike eg3d: out of place, in training only, and a single label (whose deviation is
        # undefined) stays as it is.
        if self.disc_c_noise > 0 and self.training and randomness is not None and len(c) > 1:
            noise = randomness.normal("label_noise", c.shape[1]).to(c)
            c = c + noise * c.std(0) * self.disc_c_noise
        return c


class DualDiscriminator(StyleGAN2Discriminator):
    """EG3D's dual discriminator: judges [image, raw image resized to it] with the camera's label.

    The defaults are the published FFHQ 512 model (31.4 million parameters).

    Args:
        img_resolution: of the final image, a power of two.
        img_channels: of one of the two images.
        c_dim: 25 conditions on the camera's label, 0 does not.
        raw_gain: factor of the raw image; below 1 fades it out of the judgement.

    All other arguments are those of `StyleGAN2Discriminator`.
    """

    needs_raw = True
    resample_filter: Tensor

    def __init__(
        self,
        *,
        img_resolution: int = 512,
        img_channels: int = 3,
        c_dim: int = 25,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = 256,
        architecture: Architecture = "resnet",
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        group_size: int = 4,
        mbstd_channels: int = 1,
        freeze_layers: int = 0,
        disc_c_noise: float = 0.0,
        raw_gain: float = 1.0,
    ):
        super().__init__(
            img_resolution=img_resolution,
            img_channels=2 * img_channels,
            c_dim=c_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            conv_clamp=conv_clamp,
            architecture=architecture,
            cmap_dim=cmap_dim,
            mapping_layers=mapping_layers,
            mapping_lr_multiplier=mapping_lr_multiplier,
            group_size=group_size,
            mbstd_channels=mbstd_channels,
            freeze_layers=freeze_layers,
            disc_c_noise=disc_c_noise,
        )
        self.raw_gain = raw_gain
        self.register_buffer(
            "resample_filter", setup_filter(BINOMIAL)
        )  # unused, kept for published state dicts

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        if raw is None:
            raise ValueError(
                "DualDiscriminator needs the raw image beside the final one; give raw [b 3 h w]"
            )
        return DiscriminatorOutput(
            self.logits(self.pair(image, raw), self._label(camera, randomness))
        )

    def pair(self, image: Tensor, raw: Tensor) -> Tensor:
        """What is judged: final image and raw image at its size, [b 2*img_channels H W]."""
        resized = filtered_resizing(raw, image.shape[-1]).to(image.dtype)
        return torch.cat([image, resized if self.raw_gain == 1 else resized * self.raw_gain], 1)
