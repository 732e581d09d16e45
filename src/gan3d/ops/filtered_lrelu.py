"""Alias-free leaky ReLU on a finer grid (Karras et al. 2021, section 3.2 and appendix F).

    y = down(f_d * clamp(gain lrelu(up(x + b; f_u))))

`filtered_lrelu_reference` does this step by step. `filtered_lrelu` gives the same numbers with less
memory: no inserted zero is stored, and the fine grid, which is four to sixteen times the size of x,
exists for a few feature maps at a time only. Separable filters are products with banded matrices
(`ops.banded`); the maps go through the whole chain in chunks; and the fine-grid values that the
derivatives need (signs, and where the clamp is active) are recomputed from x.

    dx = up^T(m down^T(dy)),   m = gain (1 | slope | 0 where clamped)

The chain is piecewise linear: m is locally constant in x, so derivatives of all orders have this
form. On a GPU one kernel makes the fine grid a tile at a time (`ops.triton.filtered_lrelu`), from
separable filters; others take the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.host import kind_of
from gan3d.ops.backend import Backend, choose
from gan3d.ops.banded import Band
from gan3d.ops.bias_act import LRELU_SLOPE, bias_act
from gan3d.ops.resample import Padding, padding_sides, taps_along, upfirdn2d, upfirdn2d_reference

# Fine-grid samples per chunk: per CPU thread (2 MB, which fits its cache), and on a GPU.
FINE_SAMPLES = 2**19
FINE_SAMPLES_GPU = 2**27
MOST_TAPS = 48  # of a filter of the kernel
# Least maps per chunk for depthwise convolutions: 8 fit the cache at the sizes of 256 px.
DEPTHWISE = 8


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
    backend: Backend | None = None,
) -> Tensor:
    """Bias, upsampling, leaky ReLU, gain, clamp, downsampling.

    Differentiable any number of times with respect to x and b, not to the filters. The fine grid is
    computed in float32 at least, also if x has lower precision.

    Args:
        x: [b c h w].
        fu: upsampling filter, [k] (separable), [ky kx] or None (identity); applied with gain up^2.
        fd: downsampling filter, [k] (separable), [ky kx] or None (identity).
        b: bias [c], or None; added before zeros are inserted and padded.
        up: upsampling factor.
        down: downsampling factor.
        padding: zeros around the zero-inserted signal: a number, (x, y) or (left, right, top,
            bottom); negative values crop.
        gain: factor after the activation.
        slope: slope of the activation below 0.
        clamp: largest magnitude after the gain, on the fine grid; None does not clamp.
        flip_filter: correlate with both filters instead of convolving.
        backend: see `ops.backend`; None chooses. The kernel takes separable filters of at most 48
            taps.

    Returns:
        [b c H W], W = (w up + left + right - (ku - 1) - (kd - 1) + down - 1) // down.

    Raises:
        ValueError: the shapes do not match, a factor is below 1, the padded signal is too short, or
            the backend does not run here.
    """
    _check(x, fu, fd, b, up, down, padding)
    backend = choose(backend, x)
    if backend == "reference":
        options: dict[str, Any] = {"up": up, "down": down, "padding": padding}
        options |= {"gain": gain, "slope": slope, "clamp": clamp, "flip_filter": flip_filter}
        return filtered_lrelu_reference(x, fu, fd, b, **options)
    if fu is None and fd is None and up == 1 and down == 1 and not any(padding_sides(padding)):
        return bias_act(x, b, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    b = x.new_zeros(x.shape[1]) if b is None else b
    settings = _Settings(up, down, padding_sides(padding), gain, slope, clamp, flip_filter)
    if backend == "triton" and x.numel() and _kernel_takes(fu, fd, settings):
        return _by_kernel(x, b, fu, fd, settings)
    return _FilteredLReLU.apply(x, b, fu, fd, settings)


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
    """The steps one by one. Arguments as for `filtered_lrelu`."""
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
        raise ValueError(f"filtered_lrelu got up {up} and down {down}; factors must be 1 or more")

    left, right, top, bottom = padding_sides(padding)
    taps_x, taps_y = (ku + kd - 1 for ku, kd in zip(taps_along(fu), taps_along(fd)))
    for axis, size, around, needed in (
        ("w", x.shape[3], (left, right), taps_x),
        ("h", x.shape[2], (top, bottom), taps_y),
    ):
        fine = size * up + sum(around)
        if fine < needed or min(around) <= -size * up:
            raise ValueError(
                f"filtered_lrelu got {size} samples along {axis}, {fine} after insertion and "
                f"padding {around}; the filters need {needed}: pad more or crop less"
            )


class _Settings(NamedTuple):
    """Arguments of `filtered_lrelu` that are not tensors."""

    up: int
    down: int
    padding: tuple[int, int, int, int]
    gain: float
    slope: float
    clamp: float | None
    flip: bool


def _kernel_takes(fu: Tensor | None, fd: Tensor | None, settings: _Settings) -> bool:
    """Whether filters are separable, and short enough for a tile of the fine grid."""
    filters = [f for f in (fu, fd) if f is not None]
    short = all(f.ndim == 1 and len(f) <= MOST_TAPS for f in filters)
    return short and max(settings.up, settings.down) <= MOST_TAPS


def _by_kernel(
    x: Tensor, b: Tensor, fu: Tensor | None, fd: Tensor | None, settings: _Settings
) -> Tensor:
    """`filtered_lrelu` by `ops.triton.filtered_lrelu`."""
    from gan3d.ops.triton.filtered_lrelu import filtered_lrelu_maps

    up, down, padding, gain, slope, clamp, flip = settings
    one = None if fu is not None and fd is not None else x.new_ones(1)
    filters = [one if f is None else f for f in (fu, fd)]
    options = (up, down, list(padding), gain, slope, math.inf if clamp is None else clamp, flip)
    return filtered_lrelu_maps(None, x, b, *filters, *options, False)


class _FilteredLReLU(torch.autograd.Function):
    """y of x and b."""

    @staticmethod
    def forward(
        ctx, x: Tensor, b: Tensor, fu: Tensor | None, fd: Tensor | None, settings: _Settings
    ) -> Tensor:
        ctx.save_for_backward(x, b, fu, fd)
        ctx.settings = settings
        return _in_chunks(_Chain(settings, fu, fd, x), _Chain.value, x, b)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, b, fu, fd = ctx.saved_tensors
        dx = _Linearized.apply(dy, x, b, fu, fd, ctx.settings, True)
        db = dx.sum([0, 2, 3]).to(b.dtype) if ctx.needs_input_grad[1] else None
        return dx, db, None, None, None


class _Linearized(torch.autograd.Function):
    """v -> down(m up(v)) or its transpose, where m is evaluated at x + b."""

    @staticmethod
    def forward(
        ctx,
        v: Tensor,
        x: Tensor,
        b: Tensor,
        fu: Tensor | None,
        fd: Tensor | None,
        settings: _Settings,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, b, fu, fd)
        ctx.settings = settings
        ctx.transposed = transposed
        step = _Chain.transposed if transposed else _Chain.linear
        return _in_chunks(_Chain(settings, fu, fd, x), step, x, b, v)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, b, fu, fd = ctx.saved_tensors
        dv = _Linearized.apply(dy, x, b, fu, fd, ctx.settings, not ctx.transposed)
        return dv, *[None] * 6


class _Chain:
    """Upsampling, activation and downsampling of maps [n h w] of one size, without gradients."""

    def __init__(self, settings: _Settings, fu: Tensor | None, fd: Tensor | None, x: Tensor):
        self.gain = settings.gain
        self.slope = settings.slope
        self.clamp = settings.clamp
        self.dtype = torch.promote_types(x.dtype, torch.float32)

        # Resampling without a filter is a filter of one tap; without resampling it is a copy.
        one = x.new_ones(1, dtype=self.dtype)
        fu = (one if settings.up > 1 else None) if fu is None else fu.to(self.dtype)
        fd = (one if settings.down > 1 else None) if fd is None else fd.to(self.dtype)
        self.upsample = _Resampling.up_of(fu, settings, (x.shape[2], x.shape[3]))
        self.downsample = _Resampling.down_of(fd, settings, self.upsample.size_out)

    def value(self, x: Tensor) -> Tensor:
        """down(act(up(x)))."""
        y = bias_act(
            self.upsample(x),
            act="lrelu",
            alpha=self.slope,
            gain=self.gain,
            clamp=self.clamp,
            overwrite=True,
        )
        return self.downsample(y)

    def linear(self, x: Tensor, v: Tensor) -> Tensor:
        """down(m up(v))."""
        return self.downsample(self.times_slope(x, self.upsample(v)))

    def transposed(self, x: Tensor, dy: Tensor) -> Tensor:
        """up^T(m down^T(dy))."""
        return self.upsample.transposed(self.times_slope(x, self.downsample.transposed(dy)))

    def times_slope(self, x: Tensor, v: Tensor) -> Tensor:
        """m v on the fine grid, where m is evaluated at x."""
        fine = self.upsample(x)
        v = torch.ops.aten.leaky_relu_backward(v, fine, self.slope, False).mul_(self.gain)
        if self.clamp is None:
            return v
        active = F.leaky_relu(fine, self.slope, inplace=True).mul_(self.gain)
        return torch.ops.aten.hardtanh_backward(v, active, -self.clamp, self.clamp)

    def chunk_size(self, device: torch.device) -> int:
        """Number of maps that go through the chain at once."""
        height, width = self.upsample.size_out
        samples = FINE_SAMPLES_GPU
        if kind_of(device) == "cpu":
            # A compiler cannot trace the number of threads.
            compiling = torch.compiler.is_compiling()
            samples = FINE_SAMPLES * (1 if compiling else torch.get_num_threads())
        depthwise = self.upsample.is_2d or self.downsample.is_2d
        return max(samples // (height * width), DEPTHWISE if depthwise else 1)


def _in_chunks(
    chain: _Chain, step: Callable[..., Tensor], x: Tensor, b: Tensor, *v: Tensor
) -> Tensor:
    """step(x + b, v) over all maps of x [b c h w], in chunks and in the precision of the chain."""
    maps = [t.flatten(0, 1) for t in (x, *v)]
    bias = b.to(chain.dtype).repeat(len(x))[:, None, None]
    size = chain.chunk_size(x.device)
    y = None
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(maps[0]), size):
            first, *others = (t[start : start + size].to(chain.dtype) for t in maps)
            chunk = step(chain, first + bias[start : start + size], *others)
            if y is None:
                y = chunk.new_empty(len(maps[0]), *chunk.shape[1:], dtype=x.dtype)
            y[start : start + size] = chunk
    if y is None:
        raise ValueError(
            f"filtered_lrelu got x of shape {tuple(x.shape)}, which is empty; "
            "expected at least one image and one channel"
        )
    return y.unflatten(0, x.shape[:2])


@dataclass(frozen=True, eq=False)
class _Resampling:
    """The linear map upfirdn2d on maps [n h w] of one size.

    Attributes:
        g: filter in the order of correlation, or None.
        up: upsampling factor.
        down: downsampling factor.
        padding: left, right, top, bottom.
        size_in: (h, w).
    """

    g: Tensor | None
    up: int
    down: int
    padding: tuple[int, int, int, int]
    size_in: tuple[int, int]

    @staticmethod
    def up_of(fu: Tensor | None, settings: _Settings, size: tuple[int, int]) -> _Resampling:
        """The upsampling, with gain up^2."""
        g = None if fu is None else _correlation(fu, settings.flip) * settings.up**fu.ndim
        return _Resampling(g, settings.up, 1, settings.padding, size)

    @staticmethod
    def down_of(fd: Tensor | None, settings: _Settings, size: tuple[int, int]) -> _Resampling:
        """The downsampling."""
        g = None if fd is None else _correlation(fd, settings.flip)
        return _Resampling(g, 1, settings.down, (0, 0, 0, 0), size)

    @property
    def size_out(self) -> tuple[int, int]:
        """(H, W)."""
        h, w = self.size_in
        kx, ky = taps_along(self.g)
        left, right, top, bottom = self.padding
        height = (h * self.up + top + bottom - ky) // self.down + 1
        width = (w * self.up + left + right - kx) // self.down + 1
        return height, width

    @property
    def is_2d(self) -> bool:
        """Whether the filter has two dimensions."""
        return self.g is not None and self.g.ndim == 2

    def __call__(self, x: Tensor) -> Tensor:
        """[n h w] -> [n H W], always new memory."""
        if self.g is None:
            return F.pad(x, self.padding)
        if self.is_2d:
            # Depthwise convolutions are fastest on channels-last memory.
            maps = x[None].contiguous(memory_format=torch.channels_last)
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
        """The transpose, [n H W] -> [n h w]."""
        h, w = self.size_in
        height, width = self.size_out
        kx, ky = taps_along(self.g)
        left = kx - 1 - self.padding[0]
        top = ky - 1 - self.padding[2]
        right = (w - 1) * self.up + kx - width * self.down - left
        bottom = (h - 1) * self.up + ky - height * self.down - top
        g = None if self.g is None else self.g.flip(list(range(self.g.ndim)))
        return _Resampling(g, self.down, self.up, (left, right, top, bottom), self.size_out)

    @cached_property
    def _bands(self) -> tuple[Band, Band]:
        assert self.g is not None
        h, w = self.size_in
        height, width = self.size_out
        left, _, top, _ = self.padding
        along_x = Band(self.g, self.up, self.down, left, w, width)
        along_y = Band(self.g, self.up, self.down, top, h, height)
        return along_x, along_y


def _correlation(f: Tensor, flip_filter: bool) -> Tensor:
    """The taps of f in the order of correlation."""
    return f if flip_filter else f.flip(list(range(f.ndim)))
