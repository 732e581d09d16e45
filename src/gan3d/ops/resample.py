"""Up- and downsampling with a FIR filter f (StyleGAN2, appendix B; Karras et al. 2021, upfirdn).

    upfirdn(x) = (f * pad(x with up-1 zeros after every sample))[::down]

per channel, where * is true convolution. `upfirdn2d_reference` does this step by step. `upfirdn2d`
gives the same numbers without storing the zeros, by strided depthwise convolutions: plain ones for
downsampling, transposed ones for upsampling.

Convention: `up`, `down` are one number or (x, y); `padding` is one number, (x, y) or (left, right,
top, bottom), counted on the zero-inserted signal, and negative values crop. `flip_filter=False` is
true convolution, True is correlation. A filter of one dimension is separable: it is applied along
x, then along y, each time with the square root of `gain`. All functions are differentiable any
number of times.

On a GPU each pass is one kernel (`ops.triton.fir`); a filter that is learned takes torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.backend import Backend, choose
from gan3d.ops.pointwise import is_product, pointwise

Pair = int | Sequence[int]
Padding = int | Sequence[int]
Size = tuple[int, int]  # height and width


def setup_filter(
    taps: Tensor | Sequence | float | None,
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """Prepares a float32 filter for the functions of this file.

    Args:
        taps: None (an impulse), one number, a list of taps, or a matrix of them.
        normalize: divide by the sum, so that a constant signal stays constant.
        flip: reverse the taps.
        gain: gain of the whole filter; the d-dimensional taps are scaled by gain^(d/2).
        separable: keep a list as one dimension, else replace it by its outer product; None keeps
            lists of 8 or more taps.

    Returns:
        [k] if separable, else [k k].

    Raises:
        ValueError: the taps are empty or have more than two dimensions.
    """
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(
            f"a filter has shape {tuple(f.shape)}; expected a number, a list or a matrix of taps"
        )
    f = f[None] if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    backend: Backend | None = None,
) -> Tensor:
    """Inserts zeros, pads, filters and drops samples, without storing the zeros.

    Args:
        x: [b c h w].
        f: filter made by `setup_filter`, [k], [k k] or None (identity).
        up: upsampling factor; zeros are inserted after every sample.
        down: downsampling factor; keeps every `down`-th sample, starting with the first.
        padding: zeros around the zero-inserted signal; negative values crop.
        flip_filter: correlate instead of convolving.
        gain: factor of the result.
        backend: see `ops.backend`; None chooses.

    Returns:
        [b c H W], W = (w up + left + right - k) // down + 1.

    Raises:
        ValueError: x is not [b c h w], a factor is below 1, the padded signal is too short, or the
            backend does not run here.
    """
    plan = _plan(x, f, up, down, padding)
    backend = choose(backend, x)
    if backend == "reference":
        options: dict[str, Any] = {"up": up, "down": down, "padding": padding}
        return upfirdn2d_reference(x, f, **options, flip_filter=flip_filter, gain=gain)
    if backend == "triton" and (f is None or not f.requires_grad):
        return _by_kernel(x, f, plan, flip_filter, gain)
    for kernel, step in _passes(plan, f, x, flip_filter, gain):
        apply = _insert_and_filter if max(step.up) > 1 else _filter_and_drop
        x = apply(x, kernel, step)
    return x


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """The four steps one by one, on the zero-inserted signal. Arguments as for `upfirdn2d`."""
    (up_x, up_y), (down_x, down_y), (left, right, top, bottom) = _plan(x, f, up, down, padding)
    b, c, h, w = x.shape

    # Insert zeros, then pad.
    stuffed = x.new_zeros(b, c, h, up_y, w, up_x)
    stuffed[:, :, :, 0, :, 0] = x
    signal = F.pad(stuffed.reshape(b, c, h * up_y, w * up_x), [left, right, top, bottom])

    # Filter, then drop samples.
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = f if flip_filter else f.flip(list(range(f.ndim)))
    f = f * gain ** (f.ndim / 2)
    kernels = [f] if f.ndim == 2 else [f[None, :], f[:, None]]
    for kernel in kernels:
        signal = F.conv2d(signal, kernel.expand(c, 1, *kernel.shape), groups=c)
    return signal[:, :, ::down_y, ::down_x]


def filter2d(
    x: Tensor,
    f: Tensor | None,
    *,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Filters x [b c h w] at constant size, zeros beyond the border; `padding` is added to that."""
    left, right, top, bottom = padding_sides(padding)
    kx, ky = taps_along(f)
    around = (left + kx // 2, right + (kx - 1) // 2, top + ky // 2, bottom + (ky - 1) // 2)
    return upfirdn2d(x, f, padding=around, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: Pair = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples x [b c h w] to `up` times its size; keeps constants away from the border."""
    up_x, up_y = _pair(up)
    kx, ky = taps_along(f)
    left, right = upsampling_padding(kx, up_x)
    top, bottom = upsampling_padding(ky, up_y)
    p = padding_sides(padding)
    around = (p[0] + left, p[1] + right, p[2] + top, p[3] + bottom)
    return upfirdn2d(
        x, f, up=(up_x, up_y), padding=around, flip_filter=flip_filter, gain=gain * up_x * up_y
    )


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    *,
    down: Pair = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Downsamples x [b c h w] to 1/down of its size."""
    down_x, down_y = _pair(down)
    kx, ky = taps_along(f)
    left, right = downsampling_padding(kx, down_x)
    top, bottom = downsampling_padding(ky, down_y)
    p = padding_sides(padding)
    around = (p[0] + left, p[1] + right, p[2] + top, p[3] + bottom)
    return upfirdn2d(
        x, f, down=(down_x, down_y), padding=around, flip_filter=flip_filter, gain=gain
    )


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    flip_weight: bool = True,
    groups: int = 1,
) -> Tensor:
    """Convolution on the finer of two grids, with a FIR filter between them (StyleGAN2, app. B).

    up > 1:   conv(upsample(x)), as a transposed convolution followed by the filter.
    down > 1: downsample(conv(x)), as the filter followed by a strided convolution.

    1x1 kernels run on the coarser grid, which gives the same numbers.

    Args:
        x: [b i h w].
        w: [o i/groups k k].
        f: filter made by `setup_filter`.
        up: upsampling factor.
        down: downsampling factor; at most one of the two may exceed 1.
        padding: zeros around x on the grid of the convolution; k // 2 keeps the size.
        flip_weight: True is the usual correlation, False is true convolution (kernel reversed).
        groups: groups of the convolution.

    Returns:
        [b o H W].

    Raises:
        ValueError: both factors exceed 1, or x and w do not match.
    """
    if up > 1 and down > 1:
        raise ValueError(f"conv2d_resample got up {up} and down {down}; give one of them")
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1] * groups:
        raise ValueError(
            f"conv2d_resample got x {tuple(x.shape)} and w {tuple(w.shape)} in {groups} groups; "
            "expected [b i h w] and [o i/groups k k]"
        )
    k = w.shape[-1]
    if up > 1 and k > 1:
        reversed_w = w.flip(2, 3) if flip_weight else w
        return _conv_then_upsample(x, reversed_w, f, up, padding, groups)

    w = w if flip_weight else w.flip(2, 3)
    if down > 1:
        (left, right), (top, bottom) = (downsampling_padding(n, down) for n in taps_along(f))
        around = (padding + left, padding + right, padding + top, padding + bottom)
        if k == 1:
            return _convolve(upfirdn2d(x, f, down=down, padding=around), w, 0, groups)
        return F.conv2d(upfirdn2d(x, f, padding=around), w, stride=down, groups=groups)

    y = _convolve(x, w, padding, groups)
    return upsample2d(y, f, up=up) if up > 1 else y


def upsampling_padding(taps: int, up: int) -> tuple[int, int]:
    """Zeros (before, after) for an output of `up` times the size; centered, up to half a sample."""
    return (taps + up - 1) // 2, (taps - up) // 2


def downsampling_padding(taps: int, down: int) -> tuple[int, int]:
    """Zeros (before, after) for an output of 1/down of the size."""
    return (taps - down + 1) // 2, (taps - down) // 2


def _convolve(x: Tensor, w: Tensor, padding: int, groups: int) -> Tensor:
    """A plain convolution; as a product of matrices where that is faster."""
    if w.shape[-1] == groups == 1 and padding == 0 and is_product(x):
        return pointwise(x, w.flatten(1))
    return F.conv2d(x, w, padding=padding, groups=groups)


def _conv_then_upsample(
    x: Tensor, w: Tensor, f: Tensor | None, up: int, padding: int, groups: int
) -> Tensor:
    """A transposed convolution of stride `up` with the reversed w [o i k k], then the filter."""
    k = w.shape[-1]
    kx, ky = taps_along(f)
    left, right = upsampling_padding(kx, up)
    top, bottom = upsampling_padding(ky, up)
    before = padding - (k - 1)
    after = padding - (k - up)
    sides = (before + left, after + right, before + top, after + bottom)
    crop = max(-max(sides), 0)  # cropped from every side, so left to the convolution
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (g o) i k k -> (g i) o k k
    y = F.conv_transpose2d(x, w, stride=up, padding=crop, groups=groups)
    return upfirdn2d(y, f, padding=[side + crop for side in sides], gain=up**2)


class _Step(NamedTuple):
    """Factors (x, y) and padding (left, right, top, bottom) of one pass."""

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]


def _plan(x: Tensor, f: Tensor | None, up: Pair, down: Pair, padding: Padding) -> _Step:
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d got x of shape {tuple(x.shape)}; expected [b c h w]")
    step = _Step(_pair(up), _pair(down), padding_sides(padding))
    if min(*step.up, *step.down) < 1:
        raise ValueError(f"upfirdn2d got up {up} and down {down}; factors must be 1 or more")
    left, right, top, bottom = step.padding
    kx, ky = taps_along(f)
    _check_axis("w", x.shape[3], step.up[0], left, right, kx)
    _check_axis("h", x.shape[2], step.up[1], top, bottom, ky)
    return step


def _check_axis(axis: str, n: int, up: int, before: int, after: int, taps: int) -> None:
    """Raises if n samples are all cropped, or are fewer than the taps once padded."""
    inserted = n * up
    if (
        -before > (n - 1) * up
        or -after > inserted - 1
        or inserted + min(before, 0) + min(after, 0) < 1
    ):
        raise ValueError(f"upfirdn2d got {n} samples along {axis} and crops all of them; crop less")
    if inserted + before + after < taps:
        raise ValueError(
            f"upfirdn2d got {n} samples along {axis}, {inserted + before + after} after insertion "
            f"and padding; a filter of {taps} taps needs at least {taps}: pad more"
        )


def _passes(
    step: _Step, f: Tensor | None, x: Tensor, flip: bool, gain: float
) -> list[tuple[Tensor, _Step]]:
    """Kernels [ky kx] to apply one after the other, each with its factors and padding."""
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = f.flip(list(range(f.ndim))) if flip else f
    f = f * gain ** (f.ndim / 2) if gain != 1 else f
    if f.ndim == 2:
        return [(f, step)]
    along_x, along_y = _split(step)
    return [(f[None, :], along_x), (f[:, None], along_y)]


def _split(step: _Step) -> tuple[_Step, _Step]:
    """One step as one along x and one along y."""
    (up_x, up_y), (down_x, down_y), (left, right, top, bottom) = step
    along_x = _Step((up_x, 1), (down_x, 1), (left, right, 0, 0))
    along_y = _Step((1, up_y), (1, down_y), (0, 0, top, bottom))
    return along_x, along_y


def _by_kernel(x: Tensor, f: Tensor | None, plan: _Step, flip: bool, gain: float) -> Tensor:
    """`upfirdn2d` by `ops.triton.fir`; a separable filter takes two passes."""
    from gan3d.ops.triton.fir import fir

    f = x.new_ones(1, 1) if f is None else f
    kernels = [f] if f.ndim == 2 else [f[None, :], f[:, None]]
    steps = [plan] if f.ndim == 2 else _split(plan)
    for kernel, (up, down, (left, right, top, bottom)) in zip(kernels, steps):
        ky, kx = kernel.shape
        height = (x.shape[2] * up[1] + top + bottom - ky) // down[1] + 1
        width = (x.shape[3] * up[0] + left + right - kx) // down[0] + 1
        share = gain if f.ndim == 2 else gain**0.5
        factors = ([*up[::-1]], [*down[::-1]], [top, left], [height, width])
        x = fir(x, kernel, *factors, not flip, share)
    return x


def _filter_and_drop(x: Tensor, kernel: Tensor, step: _Step) -> Tensor:
    """Strided depthwise convolution, with the convolution's own padding if the sides allow it."""
    down_x, down_y = step.down
    left, right, top, bottom = step.padding
    w = kernel.flip(0, 1)  # correlation with the reversed kernel
    if left >= right >= 0 and top >= bottom >= 0:
        width = (x.shape[3] + left + right - kernel.shape[1]) // down_x + 1
        height = (x.shape[2] + top + bottom - kernel.shape[0]) // down_y + 1
        return _correlate(x, w, (down_y, down_x), (top, left))[:, :, :height, :width]
    return _correlate(F.pad(x, [left, right, top, bottom]), w, (down_y, down_x), (0, 0))


def _insert_and_filter(x: Tensor, kernel: Tensor, step: _Step) -> Tensor:
    """Strided transposed depthwise convolution.

    Without padding it returns the full convolution, (n - 1) up + k samples; the result starts
    k - 1 - before samples into it and ends k - up - after samples before its end.
    """
    ky, kx = kernel.shape
    up_x, up_y = step.up
    down_x, down_y = step.down
    left, right, top, bottom = step.padding
    crop_x = (kx - 1 - left, kx - up_x - right)
    crop_y = (ky - 1 - top, ky - up_y - bottom)

    # The convolution crops both sides alike; the rest is cropped or padded afterwards.
    own_y = max(min(crop_y), 0)
    own_x = max(min(crop_x), 0)
    height = (x.shape[2] - 1) * up_y + ky - 2 * own_y
    width = (x.shape[3] - 1) * up_x + kx - 2 * own_x
    y = _spread(x, kernel, (up_y, up_x), (own_y, own_x), (height, width))
    rest = [own_x - crop_x[0], own_x - crop_x[1], own_y - crop_y[0], own_y - crop_y[1]]
    y = F.pad(y, rest) if any(rest) else y
    return y[:, :, ::down_y, ::down_x]


def _correlate(x: Tensor, kernel: Tensor, stride: Size, padding: Size) -> Tensor:
    """Every channel of x [b c h w] with a kernel [ky kx], by `F.conv2d`."""
    if kernel.requires_grad:  # a filter that is learned
        return F.conv2d(x, _depthwise(x, kernel), None, stride, padding, 1, x.shape[1])
    return _Correlate.apply(x, kernel, stride, padding)


def _spread(x: Tensor, kernel: Tensor, stride: Size, padding: Size, size: Size) -> Tensor:
    """The transposed map of `_correlate`, from x [b c h w] to a `size` (height, width)."""
    rest = [
        n - (m - 1) * step + 2 * cut - k
        for n, m, step, cut, k in zip(size, x.shape[2:], stride, padding, kernel.shape)
    ]
    if kernel.requires_grad:
        w = _depthwise(x, kernel)
        return F.conv_transpose2d(x, w, None, stride, padding, rest, x.shape[1])
    return _Spread.apply(x, kernel, stride, padding, rest)


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """A kernel for each channel of x."""
    return kernel.to(x.dtype).expand(x.shape[1], 1, *kernel.shape)


class _Correlate(torch.autograd.Function):
    """A convolution with a constant depthwise kernel, and `_Spread`, its transpose: each is the
    other's gradient. torch's own double backward pass computes the gradient of the kernel, too,
    channel after channel, for nobody.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: Size, padding: Size) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.form = stride, padding, tuple(x.shape[2:])
        return F.conv2d(x, _depthwise(x, kernel), None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _spread(grads[0], *ctx.saved_tensors, *ctx.form), None, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, stride: Size, padding: Size, rest: list[int]
    ) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.form = stride, padding
        w = _depthwise(x, kernel)
        return F.conv_transpose2d(x, w, None, stride, padding, rest, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _correlate(grads[0], *ctx.saved_tensors, *ctx.form), None, None, None, None


def _pair(value: Pair) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    x, y = value
    return int(x), int(y)


def padding_sides(padding: Padding) -> tuple[int, int, int, int]:
    """Padding as (left, right, top, bottom)."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    sides = [int(side) for side in padding]
    if len(sides) == 2:
        return sides[0], sides[0], sides[1], sides[1]
    left, right, top, bottom = sides
    return left, right, top, bottom


def taps_along(f: Tensor | None) -> tuple[int, int]:
    """Number of taps of a filter along (x, y)."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(
            f"a filter has shape {tuple(f.shape)}; expected [k] or [k k], made by setup_filter"
        )
    return f.shape[-1], f.shape[0]
