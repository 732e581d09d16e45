"""StyleGAN2's discriminator (Karras et al. 2020), single, and with EG3D's dual discrimination (section 4.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, Judgement
from gan3d.layers.convolution import BINOMIAL, Conv2dLayer, minibatch_std
from gan3d.layers.linear import FullyConnected
from gan3d.layers.mapping import MappingNetwork
from gan3d.layers.resize import filtered_resizing
from gan3d.layers.synthesis import Architecture, channels, resolutions
from gan3d.ops.resample import downsample2d, setup_filter
from gan3d.randomness import Randomness


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution, ending at half of it.

    Args:
        in_channels: of the input; 0 in the first block.
        width: of the first convolution.
        out_channels: of the output.
        img_channels: of the image.
        architecture: `skip` feeds the image to every block, `resnet` has a residual branch, `orig` neither.
        conv_clamp: bound of the outputs; None is none.
        first_layer: number of this block's first layer, counted from the image.
        freeze_layers: layers of lower number are buffers (Freeze-D).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        img_channels: int,
        *,
        architecture: Architecture,
        conv_clamp: float | None,
        first_layer: int,
        freeze_layers: int,
    ):
        super().__init__()
        self.architecture = architecture
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))
        self.num_layers = 0

        def layer(inputs: int, outputs: int, kernel_size: int, **options) -> Conv2dLayer:
            trainable = first_layer + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(inputs, outputs, kernel_size, trainable=trainable, **options)

        active = {"activation": "lrelu", "conv_clamp": conv_clamp}
        self.has_fromrgb = in_channels == 0 or architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = layer(img_channels, width, 1, **active)
        self.conv0 = layer(width, width, 3, **active)
        self.conv1 = layer(width, out_channels, 3, down=2, **active)
        if architecture == "resnet":
            self.skip = layer(width, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor | None, img: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x [b i h w] or None, img [b c h w] or None -> x [b o h/2 w/2], img at half size or None."""
        if self.has_fromrgb:
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, a convolution, two linear layers; projection on the embedded label.

    Args:
        in_channels: of the input.
        cmap_dim: of the embedded label; 0 is unconditional.
        img_channels: of the image.
        architecture: as the blocks'.
        group_size: of minibatch standard deviation.
        mbstd_channels: its statistics; 0 leaves it out.
        conv_clamp: bound of the convolution's output.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        img_channels: int,
        *,
        architecture: Architecture,
        group_size: int | None,
        mbstd_channels: int,
        conv_clamp: float | None,
    ):
        super().__init__()
        self.cmap_dim, self.architecture = cmap_dim, architecture
        self.group_size, self.mbstd_channels = group_size, mbstd_channels
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation="lrelu")
        self.conv = Conv2dLayer(in_channels + mbstd_channels, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnected(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnected(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        """x [b c 4 4], img [b c 4 4] or None, cmap [b cmap_dim] or None -> logits [b]."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.out.weight.dtype)
            if self.architecture == "skip":
                x = x + self.fromrgb(img.to(x.dtype))
            if self.mbstd_channels:
                x = minibatch_std(x, self.group_size, self.mbstd_channels)
            x = self.out(self.fc(self.conv(x).flatten(1)))
            if cmap is not None:
                x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
            return x[:, 0]


class StyleGAN2Discriminator(Discriminator):
    """Judges one image; with c_dim 25, by the camera, too (projection).

    The defaults are the published size at 512 px with camera conditioning (EG3D's single discriminator).

    Args:
        img_resolution: power of two.
        img_channels: of the image.
        c_dim: 25 conditions on the camera label, 0 on nothing.
        channel_base: channels at a resolution are channel_base / resolution ..
        channel_max: .. but at most these.
        architecture: of the blocks.
        conv_clamp: bound of the convolutions' outputs; None is none. EG3D: 256.
        cmap_dim: of the embedded label; None is the channels at 4x4.
        mapping_layers: of the label's mapping network.
        group_size: of minibatch standard deviation.
        mbstd_channels: its statistics; 0 leaves it out.
        freeze_layers: the first so many layers are not trained (Freeze-D).
        disc_c_noise: label noise in training, in standard deviations of the batch's labels (EG3D, supplement).
    """

    tiny = {"img_resolution": 32, "channel_base": 256, "channel_max": 16, "mapping_layers": 2}

    def __init__(
        self,
        img_resolution: int = 512,
        img_channels: int = 3,
        c_dim: int = 25,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "resnet",
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        group_size: int = 4,
        mbstd_channels: int = 1,
        freeze_layers: int = 0,
        disc_c_noise: float = 0.0,
    ):
        super().__init__()
        if c_dim not in (0, 25):
            raise ValueError(f"c_dim {c_dim}; use 25 to condition on the camera label, or 0")
        self.img_resolution, self.c_dim, self.camera_conditioned = img_resolution, c_dim, c_dim > 0
        self.group_size = group_size if mbstd_channels else 1
        self.disc_c_noise = disc_c_noise
        self.sides = [side for side in reversed(resolutions(img_resolution)) if side > 4]
        last = channels(4, channel_base, channel_max)
        cmap_dim = 0 if not c_dim else last if cmap_dim is None else cmap_dim
        inputs = layer = 0
        for side in self.sides:
            width, outputs = channels(side, channel_base, channel_max), channels(side // 2, channel_base, channel_max)
            block = DiscriminatorBlock(
                inputs,
                width,
                outputs,
                self.judged_channels(img_channels),
                architecture=architecture,
                conv_clamp=conv_clamp,
                first_layer=layer,
                freeze_layers=freeze_layers,
            )
            setattr(self, f"b{side}", block)
            inputs, layer = outputs, layer + block.num_layers
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, num_layers=mapping_layers, w_avg_beta=None)
        self.b4 = DiscriminatorEpilogue(
            last,
            cmap_dim,
            self.judged_channels(img_channels),
            architecture=architecture,
            group_size=group_size,
            mbstd_channels=mbstd_channels,
            conv_clamp=conv_clamp,
        )

    @staticmethod
    def judged_channels(img_channels: int) -> int:
        """Channels of what the first layer sees."""
        return img_channels

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> Judgement:
        if image.shape[-1] != self.img_resolution or image.shape[-2] != self.img_resolution:
            got, side = tuple(image.shape[-2:]), self.img_resolution
            raise ValueError(f"{type(self).__name__} judges {side}x{side} images, got {got}; resize them or it")
        if self.camera_conditioned and camera is None:
            raise ValueError(
                f"{type(self).__name__} is conditioned on the camera; give camera=, or build it with c_dim 0"
            )
        x, img = None, image
        for side in self.sides:
            x, img = getattr(self, f"b{side}")(x, img)
        cmap = self.mapping(None, self._label(camera, randomness)) if self.c_dim else None
        return Judgement(self.b4(x, img, cmap))

    def _label(self, camera: Camera, randomness: Randomness | None) -> Tensor:
        label = camera.label()
        if self.training and self.disc_c_noise > 0 and randomness is not None:
            # unlike eg3d: out of place, in training only, and no noise (instead of NaN) for a single image.
            spread = label.std(dim=0) if len(label) > 1 else torch.zeros_like(label[0])
            label = label + randomness.normal("disc_c_noise", self.c_dim) * spread * self.disc_c_noise
        return label


class DualDiscriminator(StyleGAN2Discriminator):
    """Judges the final image and the raw one, resized to it, together (EG3D, section 4.3)."""

    needs_raw = True

    def __init__(
        self,
        img_resolution: int = 512,
        img_channels: int = 3,
        c_dim: int = 25,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "resnet",
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        group_size: int = 4,
        mbstd_channels: int = 1,
        freeze_layers: int = 0,
        disc_c_noise: float = 0.0,
    ):
        super().__init__(
            img_resolution=img_resolution,
            img_channels=img_channels,
            c_dim=c_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            architecture=architecture,
            conv_clamp=conv_clamp,
            cmap_dim=cmap_dim,
            mapping_layers=mapping_layers,
            group_size=group_size,
            mbstd_channels=mbstd_channels,
            freeze_layers=freeze_layers,
            disc_c_noise=disc_c_noise,
        )
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))

    @staticmethod
    def judged_channels(img_channels: int) -> int:
        return 2 * img_channels

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> Judgement:
        if raw is None:
            raise ValueError("DualDiscriminator judges the raw image beside the final one; give raw=[b 3 h w]")
        both = torch.cat([image, filtered_resizing(raw, image.shape[-1]).to(image.dtype)], dim=1)
        return super().forward(both, camera=camera, randomness=randomness)
