"""Leaky ReLU on a finer grid (Karras et al. 2021, section 3.2 and appendix F): the activation makes
no aliases.

    y = down(f_d * clamp(gain lrelu(up(x + b; f_u))))

`filtered_lrelu_reference` is these words. `filtered_lrelu` gives the same numbers without storing a
zero or, but for a few maps at a time, the signal on the fine grid, which is four to sixteen times
x: separable filters are products with banded matrices (`ops.banded`), maps go through the whole
chain one handful after the other, and what the derivatives need of the fine grid (signs, and what
was clamped) is made again from x.

    dx = up^T(m down^T(dy)),   m = gain (1 | slope | 0 where clamped)

The chain is piecewise linear, so m does not change with x and derivatives of all orders are of this
one kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.banded import Band
from gan3d.ops.bias_act import LRELU_SLOPE, bias_act
from gan3d.ops.resample import Padding, padding_sides, taps_along, upfirdn2d, upfirdn2d_reference

FINE_SAMPLES = 2**19  # of the maps that a core has in hand: 2 MB, which stay in its cache
FINE_SAMPLES_GPU = 2**27
DEPTHWISE = (
    8  # maps that a depthwise convolution takes at once: 8 stay in the cache at the sizes of 256 px
)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = LRELU_SLOPE,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Bias, upsampling, leaky ReLU, gain, clamp, downsampling; x and b may be differentiated any
    number of times.

    Low precision is left inside: the fine grid is float32 at least.

    Args:
        x: [b c h w].
        fu: filter of the upsampling, [k] (separable), [ky kx] or None (identity); its gain becomes
            up^2.
        fd: filter of the downsampling, likewise; its gain stays 1.
        b: bias [c], or None; zeros are inserted and padded after it is added.
        up: fine samples per sample of x.
        down: one of so many fine samples is kept.
        padding: zeros around the zero-inserted signal: a number, (x, y) or (left, right, top,
            bottom); negative crops.
        gain: factor after the activation.
        slope: of the activation below 0.
        clamp: largest magnitude after the gain, on the fine grid; None is no limit.
        flip_filter: correlate with both filters in place of convolving.

    Returns:
        [b c H W], W = (w up + left + right - (ku - 1) - (kd - 1) + down - 1) // down.
    """
    _check(x, fu, fd, b, up, down, padding)
    if fu is None and fd is None and up == 1 and down == 1 and not any(padding_sides(padding)):
        return bias_act(x, b, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    job = _Settings(up, down, padding_sides(padding), gain, slope, clamp, flip_filter)
    return _FilteredLReLU.apply(x, x.new_zeros(x.shape[1]) if b is None else b, fu, fd, job)


def filtered_lrelu_reference(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = LRELU_SLOPE,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """The five steps as they stand. Arguments as for `filtered_lrelu`."""
    _check(x, fu, fd, b, up, down, padding)
    x = bias_act(x, b)
    x = upfirdn2d_reference(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d_reference(x, fd, down=down, flip_filter=flip_filter)


def _check(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: Padding,
) -> None:
    if x.ndim != 4 or (b is not None and b.shape != x.shape[1:2]):
        raise ValueError(
            f"filtered_lrelu got x {tuple(x.shape)} and b {None if b is None else tuple(b.shape)}; "
            "expected [b c h w] and [c]"
        )
    if up < 1 or down < 1:
        raise ValueError(f"filtered_lrelu got up {up} and down {down}; factors are 1 or more")
    left, right, top, bottom = padding_sides(padding)
    for axis, size, around in (("w", x.shape[3], (left, right)), ("h", x.shape[2], (top, bottom))):
        place = "wh".index(axis)
        fine, needed = size * up + sum(around), taps_along(fu)[place] + taps_along(fd)[place] - 1
        if fine < needed or min(around) <= -size * up:
            raise ValueError(
                f"filtered_lrelu got {size} samples along {axis}, {fine} after insertion and "
                f"padding {around}; the filters need {needed}"
            )


class _Settings(NamedTuple):
    up: int
    down: int
    padding: tuple[int, int, int, int]
    gain: float
    slope: float
    clamp: float | None
    flip: bool


class _FilteredLReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, b: Tensor, fu: Tensor | None, fd: Tensor | None, job: _Settings
    ) -> Tensor:
        ctx.save_for_backward(x, b, fu, fd)
        ctx.job = job
        return _by_handfuls(_Chain(job, fu, fd, x), _Chain.value, x, b)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, b, fu, fd = ctx.saved_tensors
        dx = _Linearised.apply(dy, x, b, fu, fd, ctx.job, True)
        return (
            dx,
            dx.sum([0, 2, 3]).to(b.dtype) if ctx.needs_input_grad[1] else None,
            None,
            None,
            None,
        )


class _Linearised(torch.autograd.Function):
    """v -> down(m up(v)), or its transpose, m as x and b have it."""

    @staticmethod
    def forward(
        ctx,
        v: Tensor,
        x: Tensor,
        b: Tensor,
        fu: Tensor | None,
        fd: Tensor | None,
        job: _Settings,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, b, fu, fd)
        ctx.job, ctx.transposed = job, transposed
        step = _Chain.transposed if transposed else _Chain.linear
        return _by_handfuls(_Chain(job, fu, fd, x), step, x, b, v)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, b, fu, fd = ctx.saved_tensors
        return _Linearised.apply(dy, x, b, fu, fd, ctx.job, not ctx.transposed), *[None] * 6


class _Chain:
    """Up, activation, down, for maps of one size; everything here is on plain tensors [n h w]
    without gradients.
    """

    def __init__(self, job: _Settings, fu: Tensor | None, fd: Tensor | None, x: Tensor):
        self.gain, self.slope, self.clamp = job.gain, job.slope, job.clamp
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        one = x.new_ones(1, dtype=self.dtype)  # no filter; where the grid stays, not even a product
        fu = (one if job.up > 1 else None) if fu is None else fu.to(self.dtype)
        fd = (one if job.down > 1 else None) if fd is None else fd.to(self.dtype)
        self.rise = _Resampling.of(fu, job, (x.shape[2], x.shape[3]), rising=True)
        self.fall = _Resampling.of(fd, job, self.rise.size_out, rising=False)

    def value(self, x: Tensor) -> Tensor:
        fine, alpha = self.rise(x), self.slope
        return self.fall(
            bias_act(
                fine, act="lrelu", alpha=alpha, gain=self.gain, clamp=self.clamp, overwrite=True
            )
        )

    def linear(self, x: Tensor, v: Tensor) -> Tensor:
        return self.fall(self.sloped(x, self.rise(v)))

    def transposed(self, x: Tensor, dy: Tensor) -> Tensor:
        return self.rise.transposed(self.sloped(x, self.fall.transposed(dy)))

    def sloped(self, x: Tensor, v: Tensor) -> Tensor:
        """m v on the fine grid."""
        fine = self.rise(x)
        v = torch.ops.aten.leaky_relu_backward(v, fine, self.slope, False).mul_(self.gain)
        if self.clamp is None:
            return v
        active = F.leaky_relu(fine, self.slope, inplace=True).mul_(self.gain)
        return torch.ops.aten.hardtanh_backward(v, active, -self.clamp, self.clamp)

    def handful(self, device: torch.device) -> int:
        """How many maps go through at once."""
        height, width = self.rise.size_out
        samples = (
            FINE_SAMPLES * torch.get_num_threads() if device.type == "cpu" else FINE_SAMPLES_GPU
        )
        return max(
            samples // (height * width), DEPTHWISE if self.rise.plane or self.fall.plane else 1
        )


def _by_handfuls(
    chain: _Chain, step: Callable[..., Tensor], x: Tensor, b: Tensor, *v: Tensor
) -> Tensor:
    """step(x + b, v) over all maps of x [b c h w], a handful at a time, in the precision of the
    chain.
    """
    maps = [t.flatten(0, 1) for t in (x, *v)]
    bias = b.to(chain.dtype).repeat(len(x))[:, None, None]
    many, y = chain.handful(x.device), None
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(maps[0]), many):
            first, *others = (t[start : start + many].to(chain.dtype) for t in maps)
            part = step(chain, first + bias[start : start + many], *others)
            y = part.new_empty(len(maps[0]), *part.shape[1:], dtype=x.dtype) if y is None else y
            y[start : start + many] = part
    if y is None:
        raise ValueError(f"filtered_lrelu got x of shape {tuple(x.shape)}, which holds nothing")
    return y.unflatten(0, x.shape[:2])


@dataclass(frozen=True, eq=False)
class _Resampling:
    """upfirdn2d of maps [n h w] of one size with the filter g (in the order of correlation), a
    linear map.
    """

    g: Tensor | None
    up: int
    down: int
    padding: tuple[int, int, int, int]
    size_in: tuple[int, int]

    @staticmethod
    def of(f: Tensor | None, job: _Settings, size: tuple[int, int], *, rising: bool) -> _Resampling:
        """The first or the last step of a job."""
        if f is not None:
            f = f if job.flip else f.flip(list(range(f.ndim)))
            f = f * job.up**f.ndim if rising else f
        up, down, padding = (job.up, 1, job.padding) if rising else (1, job.down, (0, 0, 0, 0))
        return _Resampling(f, up, down, padding, size)

    @property
    def size_out(self) -> tuple[int, int]:
        (h, w), (kx, ky), (left, right, top, bottom) = (
            self.size_in,
            taps_along(self.g),
            self.padding,
        )
        return (h * self.up + top + bottom - ky) // self.down + 1, (
            w * self.up + left + right - kx
        ) // self.down + 1

    @property
    def plane(self) -> bool:
        """Whether the filter has two dimensions."""
        return self.g is not None and self.g.ndim == 2

    def __call__(self, x: Tensor) -> Tensor:
        """[n h w] -> [n H W], always new memory."""
        if self.g is None:
            return F.pad(x, self.padding)
        if self.plane:
            maps = x[None].contiguous(
                memory_format=torch.channels_last
            )  # depthwise convolutions are fast so
            y = upfirdn2d(
                maps, self.g, up=self.up, down=self.down, padding=self.padding, flip_filter=True
            )
            return y[0].contiguous()
        along_x, along_y = self._bands
        if self.up > 1:
            return along_y.along_y(along_x.along_x(x.contiguous()))
        return along_x.along_x(along_y.along_y(x))

    @cached_property
    def transposed(self) -> _Resampling:
        """[n H W] -> [n h w]."""
        (h, w), (height, width), (kx, ky) = self.size_in, self.size_out, taps_along(self.g)
        left, _, top, _ = self.padding
        left, top = kx - 1 - left, ky - 1 - top
        right = (w - 1) * self.up + kx - width * self.down - left
        bottom = (h - 1) * self.up + ky - height * self.down - top
        g = None if self.g is None else self.g.flip(list(range(self.g.ndim)))
        return _Resampling(g, self.down, self.up, (left, right, top, bottom), self.size_out)

    @cached_property
    def _bands(self) -> tuple[Band, Band]:
        assert self.g is not None
        (h, w), (height, width), (left, _, top, _) = self.size_in, self.size_out, self.padding
        return (
            Band(self.g, self.up, self.down, left, w, width),
            Band(self.g, self.up, self.down, top, h, height),
        )
