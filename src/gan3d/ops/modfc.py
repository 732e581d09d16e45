"""Modulated fully connected layer (ModFC, CIPS-3D section 3.2, as released: specs/cips3d.md 7).

    y_bno = d_bo sum_i x_bni s_bi W_io,   d_bo = (sum_i s_bi^2 W_io^2 + eps)^(-1/2)

`style` s already includes the +1 of the released code (s = A w + 1); without demodulation d = 1.
The demodulation is a product of two matrices, d^-2 = s^2 W^2 + eps: the squared weights of every
image, [b i o], are never materialized.

Three forms of the same function, all differentiable any number of times:

    form      computation                                       numbers written besides the product
    grouped   a 1x1 convolution of b groups (StyleGAN2's way)   the baseline
    bmm       W'_bio = W_io s_bi d_bo, then a batched product   2 b i o
    scale     ((x s) W) d with the shared weight                b n (i + o)

Hence the default: "scale" if n (i + o) <= 2 i o (few points per image, large batches), else "bmm";
"grouped" never. The rule counts memory traffic. It was measured on a CPU (benchmarks/modfc.py).
On a GPU one kernel applies styles, norms and the activation to the tiles of the product
(`ops.triton.scaled_linear`), for any number of points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.ops.backend import Backend, choose, lowered

Form = Literal["grouped", "bmm", "scale"]


def modfc(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    eps: float = 1e-8,
    slope: float | None = None,
    form: Form | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """leaky_relu(((x s) W) d, slope) for n points of each of b images.

    The products run in the dtype of x (or autocast's), the demodulation always in the weight's.

    Args:
        x: [b n i].
        weight: W, shared by the images, [i o].
        style: s of each image, [b i].
        demodulate: whether to divide by the norm of each output's modulated weights.
        eps: added to the squared norm.
        slope: negative slope of a leaky ReLU on the result, applied in place (also if a gradient
            is recorded); None for no activation.
        form: "grouped", "bmm" or "scale" of the fast backend; None chooses by shape.
        backend: see `ops.backend`; None chooses. The reference is the form "bmm".

    Returns:
        [b n o].

    Raises:
        ValueError: the shapes do not match, or the backend does not run here.
    """
    _check(x, weight, style)
    norm = demodulation(weight, style, eps) if demodulate else None
    backend = choose(backend if form is None else "fast", x)
    if backend == "triton":
        from gan3d.ops.triton.scaled_linear import scaled_linear

        activation = "none" if slope is None else "leaky_relu"
        x = lowered(x)
        return scaled_linear(x, weight, style, norm, None, len(x), activation, slope or 0.0)
    form = form or ("bmm" if backend == "reference" else choose_form(x.shape[1], *weight.shape))
    y = FORMS[form](x, weight, style, norm)
    return y if slope is None else F.leaky_relu_(y, slope)


def choose_form(n: int, i: int, o: int) -> Form:
    """The form with less memory traffic, for n points per image through a weight [i o]."""
    return "scale" if n * (i + o) <= 2 * i * o else "bmm"


def demodulation(weight: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """d = (s^2 W^2 + eps)^(-1/2), [b o], in the weight's precision also under autocast.

    Args:
        weight: W, [i o].
        style: s, [b i].
        eps: added to the squared norm.
    """
    with torch.autocast(weight.device.type, enabled=False):
        return (style.to(weight.dtype).square() @ weight.square() + eps).rsqrt()


def _scale(x: Tensor, weight: Tensor, style: Tensor, norm: Tensor | None) -> Tensor:
    y = (x * style.to(x.dtype)[:, None]) @ weight.to(x.dtype)
    return y if norm is None else y * norm.to(y.dtype)[:, None]


def _bmm(x: Tensor, weight: Tensor, style: Tensor, norm: Tensor | None) -> Tensor:
    return x @ _weights(weight, style, norm).to(x.dtype)


def _grouped(x: Tensor, weight: Tensor, style: Tensor, norm: Tensor | None) -> Tensor:
    kernels = rearrange(_weights(weight, style, norm).to(x.dtype), "b i o -> (b o) i 1 1")
    y = F.conv2d(rearrange(x, "b n i -> 1 (b i) n 1"), kernels, groups=len(x))
    return rearrange(y, "1 (b o) n 1 -> b n o", b=len(x))


FORMS: dict[Form, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "grouped": _grouped,
    "bmm": _bmm,
    "scale": _scale,
}


def _weights(weight: Tensor, style: Tensor, norm: Tensor | None) -> Tensor:
    """The weights of each image, W_io s_bi d_bo, [b i o]."""
    modulated = weight * style[:, :, None]
    return modulated if norm is None else modulated * norm[:, None]


def _check(x: Tensor, weight: Tensor, style: Tensor) -> None:
    fits = x.ndim == 3 and weight.ndim == 2 and x.shape[2] == weight.shape[0]
    if not fits or style.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and style {tuple(style.shape)} are "
            "not [b n i], [i o] and [b i]; for a published weight [1 i o] pass weight[0], for one "
            "point per image x[:, None]"
        )
