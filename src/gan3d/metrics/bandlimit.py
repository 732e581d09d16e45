"""Moved pictures: shifts and rotations that a band-limited picture survives, each with the mask of
what is known.

Karras et al. 2021 ("Alias-Free Generative Adversarial Networks"), appendix E. All return (z, mask),
both [b c h w]; the mask is 1 where z comes from pixels of x alone, and 0 where it depends on what
lies outside of the picture.

Convention: the picture spans [-1/2, 1/2] along x (right) and y (down), pixel (i, j) has its center
at ((j + 1/2)/w - 1/2, (i + 1/2)/h - 1/2). Translations are in picture widths (x) and heights (y). A
[3 3] matrix is a
forward map of the picture: what stood at (x, y) is afterwards at mat (x, y, 1). Angles are radians;
a positive one turns counter-clockwise as the picture is looked at.
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
    """Moves by (tx, ty), float64 [3 3]."""
    return torch.tensor([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]], dtype=torch.float64)


def rotation(angle: float) -> Tensor:
    """Turns about the middle of the picture, [[cos, sin], [-sin, cos]] as float64 [3 3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def shift_integer(x: Tensor, tx: float, ty: float) -> Moved:
    """Shift by whole pixels, (tx w, ty h) rounded to the nearest (half to even); zeros come in from
    outside.
    """
    _check(x)
    height, width = x.shape[-2:]
    right, down = round(tx * width), round(ty * height)
    rows, columns = _overlap(height, down), _overlap(width, right)
    sources = (
        ...,
        slice(rows.start - down, rows.stop - down),
        slice(columns.start - right, columns.stop - right),
    )
    z, mask = torch.zeros_like(x), torch.zeros_like(x)
    z[..., rows, columns] = x[sources]
    mask[..., rows, columns] = 1
    return z, mask


def shift_fractional(x: Tensor, tx: float, ty: float, a: int = 3) -> Moved:
    """Shift by any distance, interpolated by the separable Lanczos kernel of `a` lobes.

        z[n] = sum_k h_k x[n - i - k],   h_k ~ sinc(k - f) sinc((k - f) / a),  sum_k h_k = 1,  k = 1-a .. a

    where i + f is the distance in pixels, 0 <= f < 1. The mask holds the pixels of which all taps
    lie in x.
    """
    _check(x)
    height, width = x.shape[-2:]
    mask = torch.zeros_like(x)
    z, columns = _lanczos_rows(x, tx * width, a)
    z, rows = _lanczos_rows(z.mT, ty * height, a)
    mask[..., rows, columns] = 1
    return z.mT.contiguous(), mask


def _lanczos_rows(x: Tensor, distance: float, a: int) -> tuple[Tensor, slice]:
    """Shifts along the last axis, and the samples of which all taps lie in x."""
    size = x.shape[-1]
    whole = min(
        max(math.floor(distance), -size - a), size + a - 1
    )  # further is outside all the same
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
    """The filter that passes what both the pixel grid and the transformed pixel grid can hold.

        f = (F1 * F2) . (V1 * V2)       F1 = sinc(ci x) sinc(ci y), F2 = sinc(co xo) sinc(co yo),
                                        V1 = l(x) l(y), V2 = l(xo) l(yo), l(x) = sinc(x / a) within
                                        |x| < a

    with (xo, yo) = mat (x, y), * the convolution and . the product: two ideal low-pass filters
    under the convolution of their Lanczos windows. Every phase of the result passes a constant
    unchanged.

    Args:
        mat: [2 2] or [3 3]; its translation has no part in it.
        a: lobes of a window, pixels.
        amax: half the width of the filter, pixels.
        up: samples per pixel.
        aflt: half the width of the grid on which the convolutions are made, pixels.
        cutoff_in: of the pixel grid, 1 is its Nyquist frequency.
        cutoff_out: of the transformed pixel grid.

    Returns:
        float64 [n n], n = 2 amax up - 1, sum 1.
    """
    middle = aflt * up - 1
    x = ((torch.arange(2 * aflt * up - 1) - middle).double() / up)[None, :]
    y = x.mT
    turn = mat[:2, :2].double().cpu()
    xo, yo = turn[0, 0] * x + turn[0, 1] * y, turn[1, 0] * x + turn[1, 1] * y
    sincs = torch.stack(
        [_low_pass(cutoff_in * x, cutoff_in * y), _low_pass(cutoff_out * xo, cutoff_out * yo)]
    )
    windows = torch.stack([_window(x, a) * _window(y, a), _window(xo, a) * _window(yo, a)])
    f = _convolve(sincs) * _convolve(windows)

    kept = slice(middle - (amax * up - 1), middle + amax * up)
    f = F.pad(
        f[kept, kept], (0, 1, 0, 1)
    )  # to whole pixels, so that every phase has as many samples
    phases = f.reshape(2 * amax, up, 2 * amax, up)
    phases = phases / (phases.sum(dim=(0, 2), keepdim=True) * up**2)
    return phases.reshape(f.shape)[:-1, :-1].contiguous()


def _low_pass(x: Tensor, y: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(y)


def _window(x: Tensor, a: int) -> Tensor:
    return torch.where(x.abs() < a, torch.sinc(x / a), 0.0)


def _convolve(pair: Tensor) -> Tensor:
    """Circular convolution of two [n n] grids whose origin is in their middle."""
    spectra = torch.fft.rfft2(torch.fft.ifftshift(pair, dim=(-2, -1)))
    return torch.fft.fftshift(
        torch.fft.irfft2(spectra[0] * spectra[1], s=pair.shape[-2:]), dim=(-2, -1)
    )


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
    """A linear map of the picture: filtered to what it can hold afterwards, oversampled `up` times,
    sampled bilinearly.

    Args:
        x: [b c h w].
        mat: forward map [3 3].
        a, amax, up, aflt, cutoff_in, cutoff_out: of `band_limit_filter`; `up` is even.
    """
    _check(x)
    f = band_limit_filter(
        mat, a=a, amax=amax, up=up, aflt=aflt, cutoff_in=cutoff_in, cutoff_out=cutoff_out
    )
    margin = len(f) // 2
    canvas = upsample2d(x, f.to(x), up=up, padding=margin)
    known = torch.zeros_like(canvas[:1, :1])
    border = 2 * margin + 1
    known[..., border : canvas.shape[-2] - border, border : canvas.shape[-1] - border] = 1
    grid = _sources(x.shape[-2:], mat, up, margin).to(x)
    grids = grid.expand(len(x), *grid.shape[1:])
    z = F.grid_sample(canvas, grids, mode="bilinear", padding_mode="zeros", align_corners=False)
    mask = F.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return z, mask.expand_as(z)


def _sources(size: Sequence[int], mat: Tensor, up: int, margin: int) -> Tensor:
    """Where on the oversampled canvas every pixel comes from, float64 [1 h w 2] for grid_sample.

    An even factor and an odd filter leave every pixel half a fine sample right of and below its
    center: so 1 / (up w).
    """
    centers = [(torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5 for n in size]
    y, x = torch.meshgrid(*centers, indexing="ij")
    sources = (
        torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(mat.double().cpu()).mT
    )
    extent = torch.tensor([size[1], size[0]], dtype=torch.float64)  # w, h
    return ((2 * sources[..., :2] + 1 / (up * extent)) * extent / (extent + 2 * margin / up))[None]


def rotate(x: Tensor, angle: float, a: int = 3) -> Moved:
    """The picture turned by an angle, without what the turned pixel grid cannot hold."""
    return transform(x, rotation(angle), a=a, amax=2 * a)


def pseudo_rotate(x: Tensor, angle: float, a: int = 3) -> Moved:
    """The picture as it stands, filtered as if it had come by `rotate(.., angle)`.

    The filter has one sample per pixel, as published: what the turned grid holds beyond this grid's
    own limits folds back, so that near the Nyquist frequency it is no low-pass filter. Where a
    picture is smooth it changes nothing.
    """
    _check(x)
    f = band_limit_filter(rotation(-angle), a=a, amax=2 * a, up=1)
    margin = len(f) // 2
    mask = torch.zeros_like(x)
    mask[..., margin : max(x.shape[-2] - margin, 0), margin : max(x.shape[-1] - margin, 0)] = 1
    return filter2d(x, f.to(x)), mask


def _overlap(size: int, distance: int) -> slice:
    """Pixels that come from inside after a shift."""
    first = min(max(distance, 0), size)
    return slice(first, max(min(size + distance, size), first))


def _check(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"pictures have shape {list(x.shape)}, expected [b c h w]; planes: put them among the "
            "channels"
        )
