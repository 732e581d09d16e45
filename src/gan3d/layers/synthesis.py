"""Synthesis network of StyleGAN2 (section 2 and figure 7): constant, styled convolutions, RGB
skips.

    layer:  x <- clamp(sqrt(2) lrelu(modconv(x, A w) + strength noise + b))
    block:  x <- conv1(conv0(x));   img <- up(img) + torgb(x)              ("skip", the default)

Latents: the layers of all blocks take one w after the other; the torgb of a block shares its w with
the next layer. Names of parameters and buffers are those of the published weights.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from gan3d.layers.convolution import BINOMIAL, EqualizedConv2d
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.modulated import modulated_conv2d
from gan3d.layers.precision import coarsest_in_float16, full_precision, without_float16
from gan3d.ops.bias_act import GAINS, Activation, bias_act
from gan3d.ops.resample import setup_filter, upsample2d
from gan3d.randomness import Randomness

Architecture = Literal["skip", "resnet", "orig"]
Noise = Literal["random", "const", "none"]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """min(channel_base / resolution, channel_max), StyleGAN2's number of channels."""
    return min(channel_base // resolution, channel_max)


def block_resolutions(img_resolution: int) -> list[int]:
    """4, 8, .. img_resolution."""
    power = img_resolution.bit_length() - 1
    if img_resolution < 4 or img_resolution != 2**power:
        raise ValueError(
            f"img_resolution {img_resolution} is not a power of two from 4 on; use 64, 128, 256, .."
        )
    return [2**i for i in range(2, power + 1)]


class SynthesisLayer(nn.Module):
    """Styled convolution with noise: clamp(act(modconv(x, A w) + strength noise + b)).

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        w_dim: size of w.
        resolution: side of the result.
        kernel_size: side of the kernel.
        up: factor of upsampling.
        use_noise: whether the layer adds noise.
        activation: name of act; each has its own gain.
        conv_clamp: bound of the result; None is off.
        noise_name: name of the noise draws; layers of the same name draw the same noise.
        fused: form of the modulated convolution, see `modulated_conv2d`.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: Activation = "lrelu",
        conv_clamp: float | None = None,
        noise_name: str | None = None,
        fused: bool | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp, self.fused = activation, conv_clamp, fused
        self.noise_name = f"noise{resolution}" if noise_name is None else noise_name
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            # unlike stylegan2: [1] in place of [], because FSDP2 shards no parameter without a
            # dimension; importers convert.
            self.noise_strength = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        *,
        noise: Noise | None = None,
        randomness: Randomness | None = None,
        gain: float = 1.0,
    ) -> Tensor:
        """The next feature map.

        Args:
            x: [b i h w], with h = w = resolution / up.
            w: [b w_dim].
            noise: "random" draws noise, "const" uses the buffer, "none" adds none; None is "random"
                if there is a randomness, else "const".
            randomness: source of the draws.
            gain: factor of the result and of the clamp.

        Returns:
            [b o H W], H = W = resolution.
        """
        expected = self.resolution // self.up
        if x.shape[2:] != (expected, expected):
            raise ValueError(
                f"a layer of resolution {self.resolution} got {tuple(x.shape)}; expected "
                f"{expected} px"
            )
        y = modulated_conv2d(
            x,
            self.weight,
            _styles(self.affine, w),
            noise=self._noise(noise, randomness),
            up=self.up,
            padding=self.weight.shape[-1] // 2,
            resample_filter=self.resample_filter,
            # As published: the finer grid is convolved, the same grid is correlated.
            flip_weight=self.up == 1,
            fused=self.fused,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = GAINS[self.activation] * gain
        return bias_act(y, self.bias, act=self.activation, gain=gain, clamp=clamp, overwrite=True)

    def _noise(self, mode: Noise | None, randomness: Randomness | None) -> Tensor | None:
        """strength noise, [b 1 h w] or [h w]."""
        if mode is None:
            mode = "const" if randomness is None else "random"
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if randomness is None:
            raise ValueError(
                "noise 'random' needs draws; give randomness, or noise 'const' or 'none'"
            )
        draws = randomness.normal(self.noise_name, 1, self.resolution, self.resolution)
        return draws.to(self.noise_const) * self.noise_strength

    def extra_repr(self) -> str:
        out, inside, k, _ = self.weight.shape
        sizes = f"{inside}, {out}, {k}x{k}, resolution={self.resolution}"
        return f"{sizes}, up={self.up}, {self.activation}"


class ToRGB(nn.Module):
    """Features to image channels: modulated 1x1 convolution without demodulation, bias, clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        fused: bool | None = None,
    ):
        super().__init__()
        self.conv_clamp, self.fused = conv_clamp, fused
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[b i h w], [b w_dim] -> [b o h w]."""
        y = modulated_conv2d(
            x,
            self.weight,
            _styles(self.affine, w) * self.weight_gain,
            padding=self.weight.shape[-1] // 2,
            demodulate=False,
            fused=self.fused,
        )
        return bias_act(y, self.bias, clamp=self.conv_clamp, overwrite=True)


class SynthesisBlock(nn.Module):
    """Two styled convolutions at one resolution, and the image so far.

    Args:
        in_channels: channels of x; 0 makes the first block, which starts from a learned constant.
        out_channels: channels of the result.
        w_dim: size of a latent.
        resolution: side of the result.
        img_channels: channels of the image.
        is_last: whether this is the last block, which has a torgb in every architecture.
        architecture: "skip" adds a torgb per block, "resnet" has a residual path, "orig" neither.
        up: factor of upsampling. 1 is EG3D's block without upsampling: the image is added at its
            own size.
        use_noise: whether the layers add noise.
        conv_clamp: bound of features and of torgb; None is off.
        fused: form of the modulated convolutions, see `modulated_conv2d`.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool = False,
        architecture: Architecture = "skip",
        up: int = 2,
        use_noise: bool = True,
        conv_clamp: float | None = None,
        fused: bool | None = None,
    ):
        super().__init__()
        if architecture not in ("skip", "resnet", "orig"):
            raise ValueError(
                f"architecture {architecture!r} is unknown; choose skip, resnet or orig"
            )
        self.in_channels, self.resolution, self.up, self.architecture = (
            in_channels,
            resolution,
            up,
            architecture,
        )
        self.register_buffer("resample_filter", setup_filter(BINOMIAL))

        def layer(i: int, inside: int, factor: int) -> SynthesisLayer:
            return SynthesisLayer(
                inside,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                up=factor,
                use_noise=use_noise,
                conv_clamp=conv_clamp,
                noise_name=f"noise{resolution}.{i}",
                fused=fused,
            )

        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = layer(0, in_channels, up)
        self.conv1 = layer(1, out_channels, 1)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGB(
                out_channels, img_channels, w_dim=w_dim, conv_clamp=conv_clamp, fused=fused
            )
        if in_channels > 0 and architecture == "resnet":
            self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, up=up)

    @property
    def num_ws(self) -> int:
        """Number of latents that the block takes, one for each of conv0, conv1 and torgb."""
        return self.num_conv + self.num_torgb

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        *,
        noise: Noise | None = None,
        randomness: Randomness | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Features and image at this block's resolution.

        Args:
            x: [b i h w]; None for the first block.
            img: image so far, [b img_channels h w], or None.
            ws: [b num_ws w_dim].
            noise: see `SynthesisLayer.forward`.
            randomness: see `SynthesisLayer.forward`.

        Returns:
            x [b o H W] and img [b img_channels H W] (None before the first torgb). The image is
            never in low precision.
        """
        if ws.ndim != 3 or ws.shape[1] != self.num_ws:
            raise ValueError(
                f"a block of resolution {self.resolution} got ws {tuple(ws.shape)}; expected [b "
                f"{self.num_ws} w]"
            )
        latents = iter(ws.unbind(1))
        # Channels last from here on, and every layer keeps it: convolutions and filters are faster.
        x = self.const.expand(len(ws), -1, -1, -1) if x is None else x
        x = x.contiguous(memory_format=torch.channels_last)
        if self.in_channels == 0:
            x = self.conv1(x, next(latents), noise=noise, randomness=randomness)
        elif self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(latents), noise=noise, randomness=randomness)
            gain = math.sqrt(0.5)
            x = self.conv1(x, next(latents), noise=noise, randomness=randomness, gain=gain) + y
        else:
            x = self.conv0(x, next(latents), noise=noise, randomness=randomness)
            x = self.conv1(x, next(latents), noise=noise, randomness=randomness)
        if img is not None and self.up > 1:
            with full_precision(img):
                img = upsample2d(img, self.resample_filter, up=self.up)
        if self.num_torgb:
            rgb = self.torgb(x, next(latents)).to(self.resample_filter.dtype)
            # unlike eg3d: never in place, which changed its raw image.
            img = rgb if img is None else img + rgb
        return x, img


class SynthesisNetwork(nn.Module):
    """ws to an image: blocks b4, b8, .. of doubling resolution.

    Args:
        w_dim: size of a latent.
        img_resolution: side of the image, a power of two.
        img_channels: channels of the image.
        channel_base: width rule: min(channel_base / resolution, channel_max) channels.
        channel_max: see channel_base.
        architecture: see `SynthesisBlock`.
        use_noise: whether the layers add noise.
        conv_clamp: bound of the features; None is off.
        fused: form of the modulated convolutions, see `modulated_conv2d`.
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
        use_noise: bool = True,
        conv_clamp: float | None = None,
        fused: bool | None = None,
    ):
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.resolutions = block_resolutions(img_resolution)
        in_channels = 0
        for resolution in self.resolutions:
            out_channels = channels_at(resolution, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                architecture=architecture,
                use_noise=use_noise,
                conv_clamp=conv_clamp,
                fused=fused,
            )
            self.add_module(f"b{resolution}", block)
            in_channels = out_channels
        self.num_ws = 2 * len(self.resolutions)

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks from coarse to fine."""
        return [getattr(self, f"b{resolution}") for resolution in self.resolutions]

    def forward(
        self, ws: Tensor, *, noise: Noise | None = None, randomness: Randomness | None = None
    ) -> Tensor:
        """[b num_ws w_dim] -> [b img_channels H W]; noise as in `SynthesisLayer.forward`.

        Under autocast to float16 the coarse blocks stay in float32, as published.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"ws have shape {tuple(ws.shape)}; expected [b {self.num_ws} {self.w_dim}]"
            )
        x = img = None
        first = 0
        fine = coarsest_in_float16(self.img_resolution)
        for block in self.blocks:
            latents = ws[:, first : first + block.num_ws]
            with without_float16(ws) if block.resolution < fine else nullcontext():
                x, img = block(x, img, latents, noise=noise, randomness=randomness)
            first += block.num_conv
        assert img is not None
        return img


def _styles(affine: EqualizedLinear, w: Tensor) -> Tensor:
    """A w, never in low precision."""
    with full_precision(w):
        return affine(w.to(affine.weight.dtype))
