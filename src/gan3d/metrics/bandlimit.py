"""Shifts and rotations of band-limited pictures.

Karras et al. 2021 ("Alias-Free Generative Adversarial Networks"), appendix E. All functions return
(z, mask), both [b c h w]. The mask is 1 where z depends on pixels of x only, and 0 where it depends
on the outside of the picture.

Convention: the picture spans [-1/2, 1/2] along x (right) and y (down); pixel (i, j) has its center
at ((j + 1/2)/w - 1/2, (i + 1/2)/h - 1/2). Translations are in picture widths (x) and heights (y). A
[3 3] matrix is a forward map of the picture: a point (x, y) moves to mat (x, y, 1). Angles are in
radians, positive angles rotate counter-clockwise on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.resample import filter2d, upsample2d

OVERSAMPLING = 4  # of the canvas that `rotate` samples
Moved = tuple[Tensor, Tensor]


def translation(tx: float, ty: float) -> Tensor:
    """Translation by (tx, ty), float64 [3 3]."""
    return torch.tensor([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]], dtype=torch.float64)


def rotation(angle: float) -> Tensor:
    """Rotation about the picture center, [[cos, sin], [-sin, cos]] as float64 [3 3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def shift_integer(x: Tensor, tx: float, ty: float) -> Moved:
    """Shift by whole pixels: (tx w, ty h) rounded half to even. The outside counts as zero."""
    _check(x)
    height, width = x.shape[-2:]
    right, down = round(tx * width), round(ty * height)
    rows, columns = _overlap(height, down), _overlap(width, right)
    source_rows = slice(rows.start - down, rows.stop - down)
    source_columns = slice(columns.start - right, columns.stop - right)
    z = torch.zeros_like(x)
    z[..., rows, columns] = x[..., source_rows, source_columns]
    mask = torch.zeros_like(x)
    mask[..., rows, columns] = 1
    return z, mask


def shift_fractional(x: Tensor, tx: float, ty: float, a: int = 3) -> Moved:
    """Shift by any distance, interpolated with a separable Lanczos kernel of `a` lobes.

        z[n] = sum_k h_k x[n - i - k],   k = 1-a .. a
        h_k ~ sinc(k - f) sinc((k - f) / a),   sum_k h_k = 1

    where i + f is the distance in pixels, 0 <= f < 1. The mask is 1 where all taps lie in x.
    """
    _check(x)
    height, width = x.shape[-2:]
    mask = torch.zeros_like(x)
    z, columns = _lanczos_rows(x, tx * width, a)
    z, rows = _lanczos_rows(z.mT, ty * height, a)
    mask[..., rows, columns] = 1
    return z.mT.contiguous(), mask


def _lanczos_rows(x: Tensor, distance: float, a: int) -> tuple[Tensor, slice]:
    """Shifts along the last axis; also returns the samples whose taps all lie in x."""
    size = x.shape[-1]
    # clamped: beyond these distances all of x is outside anyway
    whole = min(max(math.floor(distance), -size - a), size + a - 1)
    k = torch.arange(1 - a, a + 1, dtype=torch.float64)
    offset = k - distance % 1
    taps = torch.sinc(offset) * torch.sinc(offset / a)
    kernel = (taps / taps.sum()).flip(0).to(x)  # conv1d correlates
    # z[n] reads x[n - whole - a .. n - whole + a - 1]
    padded = F.pad(x.flatten(0, -2)[:, None], (whole + a, a - 1 - whole))
    z = F.conv1d(padded, kernel[None, None]).reshape(x.shape)
    first = min(max(whole + a, 0), size)
    return z, slice(first, max(min(size + whole - (a - 1), size), first))


def band_limit_filter(
    mat: Tensor,
    *,
    a: int,
    amax: int,
    up: int,
    aflt: int = 64,
    cutoff_in: float = 1.0,
    cutoff_out: float = 1.0,
) -> Tensor:
    """The filter that passes the frequencies of both the pixel grid and the transformed grid.

        f = (F1 * F2) . (V1 * V2)
        F1 = sinc(ci x) sinc(ci y),   F2 = sinc(co xo) sinc(co yo)
        V1 = l(x) l(y),   V2 = l(xo) l(yo),   l(x) = sinc(x / a) within |x| < a

    with (xo, yo) = mat (x, y), * the convolution and . the product: the convolution of two ideal
    low-pass filters, windowed by the convolution of their Lanczos windows. Every phase of the
    filter passes a constant unchanged.

    Args:
        mat: [2 2] or [3 3]; its translation is ignored.
        a: lobes of a window, pixels.
        amax: half the width of the filter, pixels.
        up: samples per pixel.
        aflt: half the width of the grid for the convolutions, pixels.
        cutoff_in: cutoff of the pixel grid, 1 is its Nyquist frequency.
        cutoff_out: cutoff of the transformed pixel grid.

    Returns:
        float64 [n n], n = 2 amax up - 1, sum 1.
    """
    # both grids
    middle = aflt * up - 1
    x = ((torch.arange(2 * aflt * up - 1) - middle).double() / up)[None, :]
    y = x.mT
    linear = mat[:2, :2].double().cpu()
    xo = linear[0, 0] * x + linear[0, 1] * y
    yo = linear[1, 0] * x + linear[1, 1] * y

    # the filter on a large grid
    low_pass_in = _low_pass(cutoff_in * x, cutoff_in * y)
    low_pass_out = _low_pass(cutoff_out * xo, cutoff_out * yo)
    window_in = _window(x, a) * _window(y, a)
    window_out = _window(xo, a) * _window(yo, a)
    f = _convolve(low_pass_in, low_pass_out) * _convolve(window_in, window_out)

    # cut off; padded to whole pixels, so that every phase has the same number of samples
    kept = slice(middle - (amax * up - 1), middle + amax * up)
    f = F.pad(f[kept, kept], (0, 1, 0, 1))
    phases = f.reshape(2 * amax, up, 2 * amax, up)
    phases = phases / (phases.sum(dim=(0, 2), keepdim=True) * up**2)
    return phases.reshape(f.shape)[:-1, :-1].contiguous()


def _low_pass(x: Tensor, y: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(y)


def _window(x: Tensor, a: int) -> Tensor:
    return torch.where(x.abs() < a, torch.sinc(x / a), 0.0)


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    """Circular convolution of two [n n] grids with their origin in the middle."""
    pair = torch.fft.ifftshift(torch.stack([a, b]), dim=(-2, -1))
    spectra = torch.fft.rfft2(pair)
    product = torch.fft.irfft2(spectra[0] * spectra[1], s=pair.shape[-2:])
    return torch.fft.fftshift(product, dim=(-2, -1))


def transform(
    x: Tensor,
    mat: Tensor,
    *,
    a: int = 3,
    amax: int = 6,
    up: int = OVERSAMPLING,
    aflt: int = 64,
    cutoff_in: float = 1.0,
    cutoff_out: float = 1.0,
) -> Moved:
    """A linear map of the picture: band-limited, oversampled `up` times, sampled bilinearly.

    Args:
        x: [b c h w].
        mat: forward map [3 3].
        a, amax, up, aflt, cutoff_in, cutoff_out: see `band_limit_filter`; `up` must be even.
    """
    _check(x)

    # the oversampled picture, and where on it the filter saw pixels of x only
    f = band_limit_filter(
        mat, a=a, amax=amax, up=up, aflt=aflt, cutoff_in=cutoff_in, cutoff_out=cutoff_out
    )
    margin = len(f) // 2
    canvas = upsample2d(x, f.to(x), up=up, padding=margin)
    known = torch.zeros_like(canvas[:1, :1])
    border = 2 * margin + 1
    known[..., border : canvas.shape[-2] - border, border : canvas.shape[-1] - border] = 1

    # samples
    grid = _sources(x.shape[-2:], mat, up, margin).to(x)
    grids = grid.expand(len(x), *grid.shape[1:])
    z = F.grid_sample(canvas, grids, mode="bilinear", padding_mode="zeros", align_corners=False)
    mask = F.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return z, mask.expand_as(z)


def _sources(size: Sequence[int], mat: Tensor, up: int, margin: int) -> Tensor:
    """Position on the oversampled canvas of every pixel, float64 [1 h w 2] for grid_sample.

    An even factor and an odd filter leave every pixel half a fine sample to the right of and below
    its center; hence the term 1 / (up w).
    """
    centers = [(torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5 for n in size]
    y, x = torch.meshgrid(*centers, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    sources = pixels @ torch.linalg.inv(mat.double().cpu()).mT
    extent = torch.tensor([size[1], size[0]], dtype=torch.float64)  # w, h
    return ((2 * sources[..., :2] + 1 / (up * extent)) * extent / (extent + 2 * margin / up))[None]


def rotate(x: Tensor, angle: float, a: int = 3) -> Moved:
    """Rotates the picture, low-pass filtered to the frequencies that the rotated grid can hold."""
    return transform(x, rotation(angle), a=a, amax=2 * a)


def pseudo_rotate(x: Tensor, angle: float, a: int = 3) -> Moved:
    """Filters a picture as if it were the result of `rotate(.., angle)`, without moving it.

    The filter has one sample per pixel, as published. Frequencies of the rotated grid beyond the
    limits of this grid alias, so near the Nyquist frequency it is not a low-pass filter. It leaves
    smooth pictures unchanged.
    """
    _check(x)
    f = band_limit_filter(rotation(-angle), a=a, amax=2 * a, up=1)
    margin = len(f) // 2
    mask = torch.zeros_like(x)
    mask[..., margin : max(x.shape[-2] - margin, 0), margin : max(x.shape[-1] - margin, 0)] = 1
    return filter2d(x, f.to(x)), mask


def _overlap(size: int, distance: int) -> slice:
    """Pixels whose source lies inside the picture after a shift."""
    first = min(max(distance, 0), size)
    return slice(first, max(min(size + distance, size), first))


def _check(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"pictures have shape {list(x.shape)}, expected [b c h w]; fold planes into the "
            "channels"
        )
