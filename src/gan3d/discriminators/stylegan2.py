"""Discriminators of StyleGAN2 (section 2, figure 7) and EG3D (section 4.3).

    resnet block:  x <- (conv1(conv0(x)) + skip(x)) / sqrt(2), both at half the resolution
    logit:         out . mapping(c) / sqrt(cmap_dim), or out without labels

The logit is a projection (Miyato & Koyama 2018). EG3D's dual discriminator concatenates the final
image and the raw image, resized to it, to six channels, so that the two must agree. Parameters and
buffers have their published names.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput
from gan3d.generators.contract import UNBOUNDED
from gan3d.layers.convolution import BINOMIAL, EqualizedConv2d
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.layers.minibatch_std import MinibatchStd
from gan3d.layers.precision import coarsest_in_float16, full_precision, without_float16
from gan3d.layers.resize import filtered_resizing
from gan3d.layers.synthesis import Architecture, block_resolutions, channels_at
from gan3d.ops.resample import downsample2d, setup_filter
from gan3d.randomness import Randomness


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second to half the resolution, with residual or image input.

    Args:
        in_channels: channels of x; 0 for the first block, which starts from the image.
        channels: channels at this resolution.
        out_channels: channels at half the resolution.
        img_channels: channels of the image.
        architecture: "skip" adds the image in every block, "resnet" has a residual path, "orig" has
            neither.
        conv_clamp: largest magnitude of features, except in the residual path.
        frozen_layers: number of layers, from the first one on, that are not trained.
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
        self.architecture = architecture
        self.num_layers = 0
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
        """Features and image at half the resolution.

        Args:
            x: [b i h w], None in the first block.
            img: [b img_channels h w], None if the architecture does not need it.
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
    """From 4 x 4 features to `out`: minibatch standard deviation, a convolution, two linear layers.

    Runs without autocast.

    Args:
        in_channels: channels of x.
        out_features: size of the result.
        img_channels: channels of the image, which "skip" also adds here.
        architecture: architecture of the blocks before.
        conv_clamp: largest magnitude after the convolution.
        group_size: images per group of the minibatch standard deviation; None is the batch.
        mbstd_channels: number of its maps; 0 for none.
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
        features = self.features(x, img)
        with full_precision(x):
            return self.out(features)

    def features(self, x: Tensor, img: Tensor | None) -> Tensor:
        """What `out` is computed from, [b i 4 4] -> [b i]."""
        with full_precision(x):
            x = x.to(self.out.weight.dtype)
            if self.architecture == "skip":
                assert img is not None
                x = x + self.fromrgb(img.to(x.dtype))
            x = x if self.mbstd is None else self.mbstd(x)
            return self.fc(self.conv(x).flatten(1))


def pose_head(channels: int) -> EqualizedLinear:
    """From the features that `out` is computed from to (pitch, yaw), as `Camera.sphere_pose`; it
    starts at the frontal camera.
    """
    return EqualizedLinear(channels, 2, bias_init=math.pi / 2)


class StyleGAN2Discriminator(Discriminator):
    """Realness of single images, optionally conditioned on the label of the camera.

    The defaults match those of the generator `StyleGAN2` (FFHQ 256, 24.0 million parameters).

    Args:
        img_resolution: a power of two.
        img_channels: channels of one image.
        c_dim: 0, or 25 to condition on the camera's label.
        channel_base: a layer has channel_base / resolution channels, at most channel_max.
        channel_max: largest number of channels.
        conv_clamp: largest magnitude of features; None does not clamp.
        architecture: "resnet", "skip" or "orig".
        cmap_dim: size of the mapped label; None is the number of channels at 4 x 4.
        mapping_layers: number of layers in the label's mapping network.
        mapping_lr_multiplier: learning rate multiplier of the label's mapping network.
        group_size: images per group of the minibatch standard deviation.
        mbstd_channels: number of its maps; 0 for none.
        freeze_layers: number of layers, from the image on, that are not trained (Freeze-D, Mo et
            al. 2020).
        disc_c_noise: standard deviation of label noise in training, relative to that of all
            labels, or of the labels at hand outside of a run (EG3D, supplement).
        predicts_pose: whether a linear layer on the last features predicts the camera's pitch and
            yaw, without seeing the label (for `losses.PosePrediction`; GRAM, section 3.4). Real
            images then teach it what a turned head looks like, which a label alone does slowly.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    label_std: Tensor | None
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
        predicts_pose: bool = False,
    ):
        super().__init__()
        self.img_resolution = img_resolution
        self.c_dim = c_dim
        self.camera_conditioned = c_dim > 0
        self.group_size = group_size if mbstd_channels > 0 else 1
        self.no_float16 = "" if conv_clamp is not None else UNBOUNDED
        self.disc_c_noise = disc_c_noise
        self.register_buffer("label_std", None, persistent=False)

        # Blocks from the full resolution down to 8.
        in_channels = layers = 0
        self.resolutions = block_resolutions(img_resolution)[:0:-1]
        for resolution in self.resolutions:
            out_channels = channels_at(resolution // 2, channel_base, channel_max)
            block = DiscriminatorBlock(
                in_channels,
                channels_at(resolution, channel_base, channel_max),
                out_channels,
                img_channels=img_channels,
                architecture=architecture,
                conv_clamp=conv_clamp,
                frozen_layers=freeze_layers - layers,
            )
            self.add_module(f"b{resolution}", block)
            in_channels = out_channels
            layers += block.num_layers

        # The label, and the logit.
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
        self.predicts_pose = predicts_pose
        self.pose = pose_head(channels) if predicts_pose else None

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        return self.judge(image, self._label(camera, randomness))

    def features(self, image: Tensor) -> Tensor:
        """The last features of images, which logits and pose are computed from.

        Args:
            image: [b img_channels H W].

        Returns:
            [b c].

        Raises:
            ValueError: the images have another size.
        """
        side = self.img_resolution
        if image.ndim != 4 or image.shape[2:] != (side, side):
            raise ValueError(
                f"{type(self).__name__} judges images of {side} px, got shape "
                f"{tuple(image.shape)}; resize them or set img_resolution"
            )
        # Channels last: on a CPU small maps are faster, R1 most of all, and large ones not slower;
        # on a GPU tensor cores read it so.
        x, img = None, image.contiguous(memory_format=torch.channels_last)
        # Under autocast to float16 the coarse blocks stay in float32, as published.
        fine = coarsest_in_float16(side)
        for resolution in self.resolutions:
            if x is not None and resolution < fine and x.dtype == torch.float16:
                x = x.to(image.dtype)
            with without_float16(image) if resolution < fine else nullcontext():
                x, img = self.get_submodule(f"b{resolution}")(x, img)
        assert x is not None
        return self.b4.features(x, img)

    def logits(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        """Realness of images, [b]; arguments as for `judge`."""
        return self.judge(image, c).logits

    def judge(self, image: Tensor, c: Tensor | None = None) -> DiscriminatorOutput:
        """Realness and, if `predicts_pose`, pose of images.

        Args:
            image: [b img_channels H W].
            c: labels [b c_dim], None if c_dim is 0.

        Raises:
            ValueError: the images have another size.
        """
        features = self.features(image)
        with full_precision(features):
            logits = self.b4.out(features)
            pose = None if self.pose is None else self.pose(features)
        if self.c_dim == 0:
            return DiscriminatorOutput(logits.squeeze(1), pose=pose)
        cmap = self.mapping(None, c)
        logits = (logits * cmap).sum(1) / math.sqrt(cmap.shape[1])
        return DiscriminatorOutput(logits, pose=pose)

    def _label(self, camera: Camera | None, randomness: Randomness | None) -> Tensor | None:
        """Labels [b c_dim], with noise in training."""
        if self.c_dim == 0:
            return None
        if camera is None:
            raise ValueError(
                f"{type(self).__name__} has c_dim {self.c_dim} but got no camera; give one, or set "
                "c_dim=0"
            )
        c = camera.label()
        # unlike eg3d: not in place, in training only, and relative to the deviation of all labels
        # where it is known, so that the split of a batch has no effect; without it, not on a single
        # label, whose deviation is undefined.
        if self.disc_c_noise == 0 or not self.training or randomness is None:
            return c
        if self.label_std is None and len(c) == 1:
            return c
        std = c.std(0) if self.label_std is None else self.label_std.to(c.dtype)
        noise = randomness.normal("label_noise", c.shape[1]).to(c)
        return c + noise * std * self.disc_c_noise

    def know_labels(self, std: Tensor) -> None:
        self.label_std = std.to(self.b4.out.weight)


class DualDiscriminator(StyleGAN2Discriminator):
    """EG3D's dual discriminator of [image, raw image resized to it], conditioned on the camera.

    The defaults are the published FFHQ 512 model (31.4 million parameters).

    Args:
        img_resolution: side of the final image, a power of two.
        img_channels: channels of one of the two images.
        c_dim: 25 to condition on the camera's label, or 0.
        raw_gain: factor of the raw image; values below 1 reduce its influence.

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
        predicts_pose: bool = False,
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
            predicts_pose=predicts_pose,
        )
        self.raw_gain = raw_gain
        # Unused, but part of the published state dicts.
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))

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
                "DualDiscriminator needs the raw image besides the final one; give raw [b 3 h w]"
            )
        return self.judge(self.pair(image, raw), self._label(camera, randomness))

    def pair(self, image: Tensor, raw: Tensor) -> Tensor:
        """Concatenates the image and the raw image resized to it, [b 2*img_channels H W]."""
        resized = filtered_resizing(raw, image.shape[-1]).to(image.dtype)
        if self.raw_gain != 1:
            resized = resized * self.raw_gain
        return torch.cat([image, resized], 1)
