"""Modulated convolution (StyleGAN2, section 2.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from gan3d.ops.resample import conv2d_resample


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    form: Literal["auto", "grouped", "scaled"] = "auto",
) -> Tensor:
    """w[n, o, i] = s[n, i] weight[o, i], divided by sqrt(sum_{i, k} w^2 + 1e-8) if demodulated; y = w * x + noise.

    Two exact forms: `grouped` convolves each image with its own weights; `scaled` scales the input by s and the output
    by the demodulation around one shared weight.

    Args:
        x: [b i H W].
        weight: [o i k k].
        styles: [b i].
        noise: added after demodulation, broadcastable to the output.
        up: upsampling factor.
        padding: of the convolution.
        resample_filter: used where up > 1.
        demodulate: see above.
        flip_weight: True is correlation.
        form: `auto` takes `grouped` for one image without gradient, else `scaled`.

    Returns:
        [b o up*H up*W].
    """
    b, (_, inputs, k, _) = x.shape[0], weight.shape
    if x.dtype == torch.float16 and demodulate:  # keeps the products within half precision's range
        weight = weight / (math.sqrt(inputs * k * k) * weight.abs().amax(dim=(1, 2, 3), keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    if form == "auto":
        form = "grouped" if b == 1 and not torch.is_grad_enabled() else "scaled"
    resampling = {"up": up, "padding": padding, "flip_weight": flip_weight}
    f = resample_filter if up > 1 else None
    if form == "grouped":
        w = weight[None] * styles[:, None, :, None, None]  # b o i k k
        if demodulate:
            w = w * (w.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = rearrange(x, "b i h w -> 1 (b i) h w")
        y = conv2d_resample(x, rearrange(w, "b o i k l -> (b o) i k l").to(x.dtype), f, groups=b, **resampling)
        y = rearrange(y, "1 (b o) h w -> b o h w", b=b)
        return y if noise is None else y + noise.to(y.dtype)
    y = x * styles.to(x.dtype)[:, :, None, None]
    y = conv2d_resample(y, weight.to(x.dtype), f, **resampling)
    if demodulate:
        # sum_{i, k} (weight s)^2 = (sum_k weight^2) s^2: the weights of each image are never made.
        d = (styles.square() @ weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()  # b o
        y = y * d.to(y.dtype)[:, :, None, None]
    return y if noise is None else y + noise.to(y.dtype)
