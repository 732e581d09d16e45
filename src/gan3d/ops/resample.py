"""FIR resampling of images: zero insertion, padding, filtering, decimation (StyleGAN2/3's `upfirdn2d`).

    y[n] = gain * sum_k f[k] x_up[n * down + pad' - k],   x_up = x with up - 1 zeros after every sample

Convention: images [b c H W]; filters are 1-D (separable, applied along both axes) or 2-D; `flip_filter=False` is true
convolution. Padding is (left, right, top, bottom), negative crops. Everything is differentiable any number of times.
Source: specs/eg3d.md, section 2; Karras et al. 2021, appendix C.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Padding = tuple[int, int, int, int]


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | float | None,
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A filter as `upfirdn2d` takes it, float32: 1-D lists of fewer than 8 taps become their outer product."""
    f = torch.as_tensor([1.0] if taps is None else taps, dtype=torch.float32)
    if f.ndim == 0:
        f = f[None]
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"a filter has 1 or 2 dimensions and at least one tap, got shape {list(f.shape)}")
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        f = f / f.sum()
    if flip:
        f = f.flip(tuple(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples, pads, filters and downsamples; polyphase: no zero is inserted, no dropped sample is computed.

    Args:
        x: [b c H W].
        f: filter of `setup_filter`, 1-D or 2-D; None is the identity.
        up: zeros inserted are up - 1 per sample.
        down: every so many samples are kept.
        padding: (left, right, top, bottom) after zero insertion.
        flip_filter: correlation instead of convolution.
        gain: factor of the result.

    Returns:
        [b c H' W'] with H' = floor((H up + top + bottom - taps) / down) + 1.
    """
    if f is None:
        f = x.new_ones(1, 1)
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    if f.ndim == 2:
        return _resample(x, f, (up, up), (down, down), padding)
    left, right, top, bottom = padding
    x = _resample(x, f[None, :], (up, 1), (down, 1), (left, right, 0, 0))
    return _resample(x, f[:, None], (1, up), (1, down), (0, 0, top, bottom))


def _resample(x: Tensor, f: Tensor, up: tuple[int, int], down: tuple[int, int], padding: Padding) -> Tensor:
    """Correlation with a 2-D kernel; up and down are (x, y)."""
    channels, (height, width) = x.shape[1], f.shape
    if up == (1, 1):
        left, right, top, bottom = padding
        if min(padding) >= 0 and left == right and top == bottom:
            conv_padding = (top, left)
        else:
            x, conv_padding = F.pad(x, padding), (0, 0)
        kernel = f.expand(channels, 1, height, width)
        return F.conv2d(x, kernel, stride=down[::-1], padding=conv_padding, groups=channels)
    # Zero insertion followed by a correlation is a transposed convolution with the reversed kernel: its output starts
    # taps - 1 samples before the first sample, and lacks the up - 1 zeros after the last one.
    left, right, top, bottom = padding
    kernel = f.flip((0, 1)).expand(channels, 1, height, width)
    y = F.conv_transpose2d(x, kernel, stride=up[::-1], groups=channels)
    crop = (left - (width - 1), right + up[0] - 1 - (width - 1), top - (height - 1), bottom + up[1] - 1 - (height - 1))
    y = F.pad(y, crop)
    return y if down == (1, 1) else y[:, :, :: down[1], :: down[0]]


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """`upfirdn2d` word by word: zeros inserted, padded, the full filter, samples dropped."""
    b, c, height, width = x.shape
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = f * gain ** (f.ndim / 2)
    if not flip_filter:
        f = f.flip(tuple(range(f.ndim)))
    zeros = x.new_zeros(b, c, height, up, width, up)
    zeros[:, :, :, 0, :, 0] = x
    y = F.pad(rearrange(zeros, "b c h u w v -> b c (h u) (w v)"), padding)
    for kernel in [f] if f.ndim == 2 else [f[None, :], f[:, None]]:
        y = F.conv2d(y, kernel.expand(c, 1, *kernel.shape), groups=c)
    return y[:, :, ::down, ::down]


def filter2d(x: Tensor, f: Tensor, *, flip_filter: bool = False, gain: float = 1.0) -> Tensor:
    """Filters at the same size, [b c H W]."""
    width, height = f.shape[-1], f.shape[0]
    padding = (width // 2, (width - 1) // 2, height // 2, (height - 1) // 2)
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(x: Tensor, f: Tensor, *, up: int = 2, flip_filter: bool = False, gain: float = 1.0) -> Tensor:
    """Upsamples to [b c up*H up*W], keeping the mean."""
    width, height = f.shape[-1], f.shape[0]
    padding = ((width + up - 1) // 2, (width - up) // 2, (height + up - 1) // 2, (height - up) // 2)
    return upfirdn2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain * up * up)


def downsample2d(
    x: Tensor, f: Tensor, *, down: int = 2, padding: int = 0, flip_filter: bool = False, gain: float = 1.0
) -> Tensor:
    """Downsamples to [b c H/down W/down] (`padding` more on every side)."""
    width, height = f.shape[-1], f.shape[0]
    left, right = (width - down + 1) // 2, (width - down) // 2
    top, bottom = (height - down + 1) // 2, (height - down) // 2
    sides = (left + padding, right + padding, top + padding, bottom + padding)
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> Tensor:
    """Convolution with resampling: filter and convolution are merged where that is exact (specs/eg3d.md, 2.5).

    Args:
        x: [b c H W].
        w: [o c/groups k k]; `flip_weight=True` is correlation.
        f: resampling filter, None where up = down = 1.
        up: upsampling before the convolution.
        down: downsampling after it.
        padding: with respect to the upsampled image.
        groups: of the convolution.
        flip_weight: False reverses the kernel.
    """
    k = w.shape[-1]
    taps = 1 if f is None else f.shape[-1]
    before = after = padding
    if up > 1:
        before, after = before + (taps + up - 1) // 2, after + (taps - up) // 2
    if down > 1:
        before, after = before + (taps - down + 1) // 2, after + (taps - down) // 2
    sides = (before, after, before, after)
    kernel = w if flip_weight or k == 1 else w.flip((2, 3))

    if k == 1 and up == 1 and down > 1:
        return F.conv2d(upfirdn2d(x, f, down=down, padding=sides), kernel, groups=groups)
    if k == 1 and up > 1 and down == 1:
        return upfirdn2d(F.conv2d(x, kernel, groups=groups), f, up=up, padding=sides, gain=up**2)
    if up == 1 and down > 1:
        return F.conv2d(upfirdn2d(x, f, padding=sides), kernel, stride=down, groups=groups)
    if up > 1:
        # The transposed convolution reverses its kernel: hand it the one that correlation would not reverse.
        transposed = kernel.flip((2, 3))
        transposed = rearrange(transposed, "(g o) i h w -> (g i) o h w", g=groups)
        before, after = before - (k - 1), after - (k - up)
        crop = max(min(-before, -after), 0)
        x = F.conv_transpose2d(x, transposed, stride=up, padding=crop, groups=groups)
        rest = (before + crop, after + crop, before + crop, after + crop)
        x = upfirdn2d(x, f, padding=rest, gain=up**2)
        return x if down == 1 else upfirdn2d(x, f, down=down)
    if before == after and before >= 0:
        return F.conv2d(x, kernel, padding=before, groups=groups)
    return F.conv2d(F.pad(x, sides), kernel, groups=groups)
