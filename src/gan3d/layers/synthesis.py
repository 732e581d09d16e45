"""StyleGAN2 synthesis: layers, blocks and the stack of blocks (Karras et al. 2020, figure 7)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gan3d.layers.convolution import BINOMIAL, Conv2dLayer
from gan3d.layers.linear import FullyConnected
from gan3d.layers.modulated import modulated_conv2d
from gan3d.ops.bias_act import DEFAULT_GAIN, Activation, bias_act
from gan3d.ops.resample import setup_filter, upsample2d
from gan3d.randomness import Randomness

Architecture = Literal["orig", "skip", "resnet"]
NoiseMode = Literal["random", "const", "none"]


class Noise:
    """Per-pixel noise of one pass: where it comes from.

    Args:
        mode: `random` needs a randomness, `const` uses each layer's own constant, `none` adds nothing.
        randomness: draws named "noise.<resolution>.<layer>".
        scope: put before the names, for a model with several stacks.
    """

    def __init__(self, mode: NoiseMode, randomness: Randomness | None = None, scope: str = "noise"):
        if mode == "random" and randomness is None:
            raise ValueError("random noise needs a randomness; use const or none without one")
        self.mode, self.randomness, self.scope = mode, randomness, scope

    @classmethod
    def of(cls, randomness: Randomness | None, scope: str = "noise") -> Noise:
        """Random with a randomness, else constant."""
        return cls("const" if randomness is None else "random", randomness, scope)

    def sample(self, layer: SynthesisLayer, name: str) -> Tensor | None:
        """Noise of one layer, [b 1 h w] or [h w], or None."""
        if self.mode == "none":
            return None
        if self.mode == "const":
            return layer.noise_const * layer.noise_strength
        side = layer.resolution
        assert self.randomness is not None
        return self.randomness.normal(f"{self.scope}.{side}.{name}", 1, side, side) * layer.noise_strength


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        w_dim: of the latent.
        resolution: of the output.
        kernel_size: odd.
        up: upsampling factor.
        activation: with its default gain.
        conv_clamp: bound of the output; None is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        kernel_size: int = 3,
        up: int = 1,
        activation: Activation = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.activation, self.conv_clamp = resolution, up, activation, conv_clamp
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None, gain: float = 1.0) -> Tensor:
        """[b i h w], w [b w_dim] -> [b o up*h up*w]."""
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=noise,
            up=self.up,
            padding=self.weight.shape[-1] // 2,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias, act=self.activation, gain=DEFAULT_GAIN[self.activation] * gain, clamp=clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation.

    Args:
        in_channels: of the input.
        out_channels: of the image.
        w_dim: of the latent.
        kernel_size: odd.
        conv_clamp: bound of the output; None is none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, kernel_size: int = 1, conv_clamp: float | None = None
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[b i h w], w [b w_dim] -> [b c h w]."""
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, padding=self.weight.shape[-1] // 2, demodulate=False)
        return bias_act(x, self.bias, clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution.

    Args:
        in_channels: of the input; 0 starts from a learned constant.
        out_channels: of the output.
        w_dim: of the latent.
        resolution: of the output.
        img_channels: of the image branch.
        is_last: makes an image also in the architectures that make one only.
        architecture: `skip` sums images, `resnet` has a residual branch, `orig` neither.
        up: 2, or 1 for EG3D's block that keeps the resolution.
        conv_clamp: bound of all outputs; None is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        is_last: bool = False,
        architecture: Architecture = "skip",
        up: int = 2,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.in_channels, self.resolution, self.architecture, self.up = in_channels, resolution, architecture, up
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=up, conv_clamp=conv_clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp)
        self.has_torgb = is_last or architecture == "skip"
        if self.has_torgb:
            self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=up)
        self.num_conv = 1 if in_channels == 0 else 2

    def forward(self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """One block.

        Args:
            x: [b i h w]; None for the block that starts from the constant.
            img: [b c h w] or None.
            ws: latents in the order conv0, conv1, torgb, [b n w_dim].
            noise: per-pixel noise.

        Returns:
            x [b o H W] and img [b c H W] or None.
        """
        latents = iter(ws.unbind(dim=1))
        if self.in_channels == 0:
            x = self.const.expand(len(ws), -1, -1, -1)
            x = self.conv1(x, next(latents), noise.sample(self.conv1, "conv1"))
        elif self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(latents), noise.sample(self.conv0, "conv0"))
            x = y + self.conv1(x, next(latents), noise.sample(self.conv1, "conv1"), gain=math.sqrt(0.5))
        else:
            x = self.conv0(x, next(latents), noise.sample(self.conv0, "conv0"))
            x = self.conv1(x, next(latents), noise.sample(self.conv1, "conv1"))
        if img is not None and self.up == 2:
            img = upsample2d(img, self.resample_filter)
        if self.has_torgb:
            rgb = self.torgb(x, next(latents)).to(self.torgb.weight.dtype)
            img = rgb if img is None else img + rgb
        return x, img


class SynthesisNetwork(nn.Module):
    """Blocks from 4x4 to the image, doubling.

    Args:
        w_dim: of the latents.
        img_resolution: power of two, at least 4.
        img_channels: of the image.
        channel_base: channels at a resolution are channel_base / resolution ..
        channel_max: .. but at most these.
        architecture: of the blocks.
        conv_clamp: bound of all outputs; None is none.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "skip",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolutions = resolutions(img_resolution)
        self.num_ws = 2 * len(self.resolutions)
        previous = 0
        for side in self.resolutions:
            width = channels(side, channel_base, channel_max)
            block = SynthesisBlock(
                previous,
                width,
                w_dim,
                side,
                img_channels,
                is_last=side == img_resolution,
                architecture=architecture,
                conv_clamp=conv_clamp,
            )
            setattr(self, f"b{side}", block)
            previous = width

    def forward(self, ws: Tensor, noise: Noise) -> Tensor:
        """[b num_ws w_dim] -> [b c H W]. A block's image layer shares its latent with the next block's first layer."""
        x = img = None
        start = 0
        for side in self.resolutions:
            block: SynthesisBlock = getattr(self, f"b{side}")
            x, img = block(x, img, ws[:, start : start + block.num_conv + block.has_torgb], noise)
            start += block.num_conv
        return img


def resolutions(img_resolution: int) -> list[int]:
    """4, 8, .., img_resolution."""
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(f"resolution {img_resolution} is not a power of two of at least 4; use 32, 64, 128, ...")
    return [2**i for i in range(2, img_resolution.bit_length())]


def channels(resolution: int, channel_base: int, channel_max: int) -> int:
    """min(channel_base / resolution, channel_max)."""
    return min(channel_base // resolution, channel_max)
