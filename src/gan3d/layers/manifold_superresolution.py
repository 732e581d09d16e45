"""GRAM-HD's super-resolution of radiance manifolds (section 3.3; specs/gramhd.md 8).

    foreground   RRDB trunk -> log2 S times (modulated conv, pixel shuffle x2, lrelu)
                            -> modulated conv, lrelu -> modulated conv
    background   RRDB trunk -> log2 S times (conv, lrelu, interpolation x2)
                            -> conv, lrelu -> 0.2 conv + bicubic(x)

All maps of one image share one style, so a modulated convolution is one dense convolution over the
image's maps (the published code uses a grouped one, with a kernel per map). The maps of an image
are independent of each other, so they pass through the whole network in chunks: as many as fit the
cache of a CPU, or all of them on a GPU.

Convention: maps are [b k c h w], images, then manifolds; both networks return unbounded values.
Pixels are areas (align_corners=False). Differentiable any number of times, with checkpointing once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gan3d.layers.film_mapping import FiLMMapping
from gan3d.layers.modulated import demodulation
from gan3d.layers.rrdb import RESIDUAL_SCALE, SLOPE, RRDBTrunk

Upsampling = Literal["shuffle", "bilinear", "bicubic", "nearest"]
StyleSource = Literal["mapping", "affine", "none"]
# Low-resolution pixels per chunk: on a CPU one map of 64 x 64, whose widest tensor is 3 MB;
# elsewhere all 23 maps of one image.
PIXELS_AT_ONCE = {"cpu": 2**12}
PIXELS_AT_ONCE_ELSEWHERE = 2**17


class ModulatedConv2d(nn.Module):
    """Modulated convolution of maps that share one style.

        w'_oik = d_o s_i w_oik,   d_o = 1 / sqrt(sum_ik (s_i w_oik)^2 + 1e-8),   y = w' * x + b

    Initialized as torch's Conv2d; zero padding.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: k, odd.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        assert plain.bias is not None
        self.weight = plain.weight
        self.bias = plain.bias

    def kernel(self, style: Tensor) -> Tensor:
        """style [i] -> w' [o i k k]."""
        d = demodulation(self.weight, style[None])[0]
        return self.weight * style[:, None, None] * d[:, None, None, None]

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [k i h w], style [i] -> [k o h w]."""
        return same_conv(x, self.kernel(style), self.bias)


class _MapSuperResolution(RRDBTrunk, ABC):
    """Trunk, upsampling convolutions, `HRconv` and `conv_last`, applied to maps in chunks."""

    upconvs: nn.ModuleList
    HRconv: nn.Module
    conv_last: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int,
        *,
        channels: int,
        num_blocks: int,
        growth: int,
        up_channels: Sequence[int] | None,
        upsampling: Upsampling,
        last_kernel: int,
        checkpointing: bool,
    ):
        super().__init__(in_channels, channels, num_blocks, growth)
        if upsampling not in get_args(Upsampling):
            raise ValueError(
                f"upsampling {upsampling!r} is unknown; choose shuffle, bilinear, bicubic or "
                "nearest"
            )
        widths = upsampling_channels(channels, scale) if up_channels is None else tuple(up_channels)
        if len(widths) != _log2(scale):
            raise ValueError(
                f"up_channels {widths} has {len(widths)} widths; scale {scale} needs "
                f"{_log2(scale)}, one per doubling"
            )
        self.scale = scale
        self.upsampling = upsampling
        self.checkpointing = checkpointing
        inside = (channels, *widths)
        # A pixel shuffle turns four channels into four pixels.
        fan = 4 if upsampling == "shuffle" else 1
        self.upconvs = nn.ModuleList(self._conv(a, fan * b) for a, b in zip(inside, widths))
        self.HRconv = self._conv(inside[-1], inside[-1])
        self.conv_last = self._conv(inside[-1], out_channels, last_kernel)

    @classmethod
    @abstractmethod
    def _conv(cls, inside: int, out: int, kernel: int = 3) -> nn.Module:
        """A layer of the network, without activation."""

    @abstractmethod
    def enlarge(self, x: Tensor, *kernels: Tensor) -> Tensor:
        """The whole network on one chunk, [n in h w] -> [n out S h S w]."""

    def _double(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """One doubling: conv, pixel shuffle, lrelu; or conv, lrelu, interpolation."""
        if self.upsampling == "shuffle":
            return F.leaky_relu_(conv_shuffle(x, kernel, bias), SLOPE)
        return interpolate(F.leaky_relu_(same_conv(x, kernel, bias), SLOPE), 2, self.upsampling)

    def _enlarge_in_chunks(self, maps: Tensor, *kernels: Tensor) -> Iterator[Tensor]:
        """Enlarges maps [n c h w] of one style chunk by chunk."""
        pixels = PIXELS_AT_ONCE.get(maps.device.type, PIXELS_AT_ONCE_ELSEWHERE)
        for chunk in maps.split(max(1, pixels // (maps.shape[-2] * maps.shape[-1]))):
            chunk = chunk.contiguous(memory_format=torch.channels_last)
            if self.checkpointing and torch.is_grad_enabled():
                yield checkpoint(
                    self.enlarge, chunk, *kernels, use_reentrant=False, preserve_rng_state=False
                )
            else:
                yield self.enlarge(chunk, *kernels)


class ForegroundSuperResolution(_MapSuperResolution):
    """Radiance and feature maps -> radiance maps at S times the resolution, with a style from z.

    Args:
        in_channels: channels of the maps: color, alpha, features.
        out_channels: channels of the result: color, alpha before the sigmoid.
        z_dim: size of z.
        scale: S, a power of two.
        channels: channels of the trunk.
        num_blocks: number of RRDBs in the trunk.
        growth: growth of the dense blocks.
        up_channels: width after each doubling; None for `upsampling_channels`.
        upsampling: "shuffle" (conv, pixel shuffle, lrelu), or an interpolation (conv, lrelu,
            interpolation).
        style: "mapping", a network of four layers, "affine", a single layer, or "none", plain
            convolutions.
        mapping_hidden_dim: width of the mapping network.
        last_kernel: side of the last kernel.
        checkpointing: store only the inputs of each chunk for the backward pass, and recompute the
            rest.

    Raises:
        ValueError: the scale, the style or the number of widths is invalid.
    """

    def __init__(
        self,
        in_channels: int = 36,
        out_channels: int = 4,
        z_dim: int = 256,
        scale: int = 4,
        *,
        channels: int = 64,
        num_blocks: int = 8,
        growth: int = 32,
        up_channels: Sequence[int] | None = None,
        upsampling: Upsampling = "shuffle",
        style: StyleSource = "mapping",
        mapping_hidden_dim: int = 256,
        last_kernel: int = 1,
        checkpointing: bool = False,
    ):
        super().__init__(
            in_channels,
            out_channels,
            scale,
            channels=channels,
            num_blocks=num_blocks,
            growth=growth,
            up_channels=up_channels,
            upsampling=upsampling,
            last_kernel=last_kernel,
            checkpointing=checkpointing,
        )
        plain = style == "none"
        self.style_dims = [0 if plain else conv.weight.shape[1] for conv in self._modulated()]
        self.style_dim = sum(self.style_dims)
        self.style = style
        if style == "mapping":
            self.mapping_network = FiLMMapping(
                z_dim, self.style_dim, mapping_hidden_dim, last_scale=1.0
            )
        elif style == "affine":
            self.affine = nn.Linear(z_dim, self.style_dim)
        elif not plain:
            raise ValueError(f"style {style!r} is unknown; choose mapping, affine or none")

    def map(self, z: Tensor) -> Tensor:
        """z [b z_dim] -> styles [b style_dim], empty without styles."""
        if self.style == "none":
            return z[:, :0]
        return self.mapping_network(z) if self.style == "mapping" else self.affine(z)

    def forward(self, maps: Tensor, styles: Tensor) -> Tensor:
        """maps [b k in h w], styles [b style_dim] -> [b k out S h S w]."""
        if maps.ndim != 5 or styles.shape != (len(maps), self.style_dim):
            raise ValueError(
                f"maps {tuple(maps.shape)} and styles {tuple(styles.shape)} are not [b k c h w] "
                f"and [b {self.style_dim}] with one b; split stacked maps by "
                "rearrange(maps, '(b k) ... -> b k ...')"
            )
        chunks: list[Tensor] = []
        for image_maps, style in zip(maps, styles):
            parts = zip(self._modulated(), style.split(self.style_dims))
            kernels = [conv.kernel(part) if len(part) else conv.weight for conv, part in parts]
            chunks += self._enlarge_in_chunks(image_maps, *kernels)
        return torch.cat(chunks).unflatten(0, maps.shape[:2])

    def enlarge(self, x: Tensor, *kernels: Tensor) -> Tensor:
        y = self.trunk(x)
        *biases, middle, last = [conv.bias for conv in self._modulated()]
        for kernel, bias in zip(kernels, biases):
            y = self._double(y, kernel, bias)
        y = F.leaky_relu_(same_conv(y, kernels[-2], middle), SLOPE)
        return same_conv(y, kernels[-1], last)

    def _modulated(self) -> list[ModulatedConv2d]:
        """The modulated convolutions, from first to last."""
        convs = (*self.upconvs, self.HRconv, self.conv_last)
        return [conv for conv in convs if isinstance(conv, ModulatedConv2d)]

    @classmethod
    def _conv(cls, inside: int, out: int, kernel: int = 3) -> ModulatedConv2d:
        return ModulatedConv2d(inside, out, kernel)


class BackgroundSuperResolution(_MapSuperResolution):
    """Color maps of the background -> color maps at S times the resolution, without style.

        y = bicubic(x) + 0.2 conv_last(..)        if residual; conv_last is initialized to zero
        y = conv_last(..)                         otherwise

    The bicubic kernel is torch's, with a = -0.75.

    Args:
        in_channels: channels of the maps.
        out_channels: channels of the result; equal to in_channels if residual.
        scale: S, a power of two.
        channels: channels of the trunk.
        num_blocks: number of RRDBs in the trunk.
        growth: growth of the dense blocks.
        up_channels: width after each doubling; None for `upsampling_channels`.
        upsampling: an interpolation (conv, lrelu, interpolation), or "shuffle" (conv, pixel
            shuffle, lrelu).
        residual: whether to add the result to an interpolation of the input.
        checkpointing: store only the inputs of each chunk for the backward pass, and recompute the
            rest.

    Raises:
        ValueError: the scale, the upsampling or the number of channels is invalid.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        scale: int = 4,
        *,
        channels: int = 64,
        num_blocks: int = 4,
        growth: int = 32,
        up_channels: Sequence[int] | None = None,
        upsampling: Upsampling = "bilinear",
        residual: bool = True,
        checkpointing: bool = False,
    ):
        if residual and in_channels != out_channels:
            raise ValueError(
                f"got in_channels {in_channels} and out_channels {out_channels}; a residual needs "
                "equal numbers: change one, or set residual to false"
            )
        super().__init__(
            in_channels,
            out_channels,
            scale,
            channels=channels,
            num_blocks=num_blocks,
            growth=growth,
            up_channels=up_channels,
            upsampling=upsampling,
            last_kernel=3,
            checkpointing=checkpointing,
        )
        self.residual = residual
        if residual:
            for parameter in self.conv_last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """maps [b k in h w] -> [b k out S h S w]."""
        if maps.ndim != 5:
            raise ValueError(
                f"maps have shape {tuple(maps.shape)}; expected [b k c h w], for one map per image "
                "maps[:, None]"
            )
        chunks = list(self._enlarge_in_chunks(maps.flatten(0, 1)))
        return torch.cat(chunks).unflatten(0, maps.shape[:2])

    def enlarge(self, x: Tensor, *kernels: Tensor) -> Tensor:
        y = self.trunk(x)
        for conv in self.upconvs:
            y = self._double(y, *conv.parameters())
        y = self.conv_last(F.leaky_relu_(self.HRconv(y), SLOPE))
        if not self.residual:
            return y
        return torch.add(interpolate(x, self.scale, "bicubic"), y, alpha=RESIDUAL_SCALE)

    @classmethod
    def _conv(cls, inside: int, out: int, kernel: int = 3) -> nn.Conv2d:
        return nn.Conv2d(inside, out, kernel, padding=kernel // 2)


def same_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution of x [n i h w] with weight [o i k k] at constant size, with zero padding."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def conv_shuffle(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """pixel_shuffle(conv(x), 2).

    The rows of the weight are "(c i j)", where (i, j) is the place in a 2 x 2 block of pixels. They
    are reordered first, so that the shuffle moves whole pixels of channels-last maps, which is
    three times as fast.

    Args:
        x: [n a h w].
        weight: [4 c a k k].
        bias: [4 c].

    Returns:
        [n c 2h 2w].
    """
    weight = rearrange(weight, "(c i j) a k l -> (i j c) a k l", i=2, j=2)
    bias = rearrange(bias, "(c i j) -> (i j c)", i=2, j=2)
    y = same_conv(x, weight, bias)
    fine = rearrange(y, "n (i j c) h w -> n (h i) (w j) c", i=2, j=2)
    return rearrange(fine, "n H W c -> n c H W")


def interpolate(x: Tensor, scale: int, mode: Literal["bilinear", "bicubic", "nearest"]) -> Tensor:
    """x [n c h w] -> [n c S h S w] with S = `scale`; pixels are areas."""
    align_corners = None if mode == "nearest" else False
    return F.interpolate(x, scale_factor=float(scale), mode=mode, align_corners=align_corners)


def upsampling_channels(channels: int, scale: int) -> tuple[int, ...]:
    """Default width after each doubling: twice `channels`, then half of that."""
    return tuple(channels if i < 2 else channels // 2 for i in range(_log2(scale)))


def _log2(scale: int) -> int:
    power = scale.bit_length() - 1
    if scale < 1 or scale != 2**power:
        raise ValueError(f"scale {scale} is not a power of two; use 2, 4, 8 or 16")
    return power
