"""Modulated convolution (StyleGAN2, section 2.2).

    w'_noik = s_ni w_oik                                                                   (1)
    w''_noik = d_no w'_noik,   d_no = 1 / sqrt(sum_ik w'_noik^2 + 1e-8)                    (3)

Two forms give the same numbers. With `fused=False` all samples share the kernel w: the convolution
is linear, so the styles s scale its input and the demodulation d its output. With `fused=True`
every sample has its own kernel w'', in one grouped convolution (a plain one for a single sample).
d is computed without w'': sum_ik w'^2 = sum_i s_ni^2 sum_k w_oik^2.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from gan3d.layers.precision import full_precision, runs_in_half
from gan3d.ops.pointwise import is_product, pointwise
from gan3d.ops.resample import conv2d_resample

EPS = 1e-8


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
    fused: bool | None = None,
) -> Tensor:
    """Convolution with a kernel that is scaled per sample; differentiable any number of times.

    Args:
        x: [b i h w].
        weight: w, [o i k k].
        styles: s, [b i].
        noise: added after demodulation, broadcastable to the result.
        up: upsampling factor.
        padding: zeros around x.
        resample_filter: low-pass filter, see `conv2d_resample`.
        demodulate: whether to scale every output channel back to unit variance (3).
        flip_weight: True is correlation, False true convolution.
        fused: True for one kernel per sample, False for a shared kernel; None chooses the former
            for a single sample without gradient, where it is one plain convolution, and for 1x1
            kernels where they are a product of matrices (`ops.pointwise`).

    Returns:
        [b o H W].

    Raises:
        ValueError: the styles do not match x and the weight.
    """
    b = len(x)
    if styles.shape != (b, weight.shape[1]):
        raise ValueError(
            f"styles have shape {tuple(styles.shape)}; expected [b i] = {(b, weight.shape[1])} for "
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)}"
        )
    if demodulate and runs_in_half(x):
        weight, styles = _keep_in_range(weight, styles)
    d = demodulation(weight, styles) if demodulate else None

    # A product with one small matrix per sample: the styles need no pass over x.
    if fused is None and weight.shape[2:] == (1, 1) and up == 1 and padding == 0 and is_product(x):
        w = weight.flatten(1) * styles[:, None]  # b o i
        y = pointwise(x, w if d is None else w * d[:, :, None])
        return y if noise is None else y + noise
    fused = b == 1 and not torch.is_grad_enabled() if fused is None else fused

    # One kernel per sample.
    if fused:
        w = weight * styles[:, None, :, None, None]  # b o i k k
        w = w if d is None else w * d[:, :, None, None, None]
        w = rearrange(w, "b o i k l -> (b o) i k l").to(x.dtype)
        # A single sample is not reshaped, which would lose its memory format.
        y = conv2d_resample(
            x if b == 1 else rearrange(x, "b i h w -> 1 (b i) h w"),
            w,
            resample_filter,
            up=up,
            padding=padding,
            flip_weight=flip_weight,
            groups=b,
        )
        y = y if b == 1 else rearrange(y, "1 (b o) h w -> b o h w", b=b)
        return y if noise is None else y + noise.to(y.dtype)

    # One shared kernel: scale the input, then the output.
    x = x * styles.to(x.dtype).unflatten(1, (-1, 1, 1))
    y = conv2d_resample(
        x, weight.to(x.dtype), resample_filter, up=up, padding=padding, flip_weight=flip_weight
    )
    if d is None:
        return y if noise is None else y + noise.to(y.dtype)
    d = d.to(y.dtype).unflatten(1, (-1, 1, 1))
    return y * d if noise is None else torch.addcmul(noise.to(y.dtype), y, d)


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """d_no = 1 / sqrt(sum_i s_ni^2 sum_k w_oik^2 + 1e-8), [b o], without autocast."""
    with full_precision(styles):
        return _Demodulation.apply(weight, styles)


def demodulation_reference(weight: Tensor, styles: Tensor) -> Tensor:
    """The equation of `demodulation` as it stands."""
    energy = weight.square().sum([2, 3]).to(styles.dtype)  # o i
    return (styles.square() @ energy.t() + EPS).rsqrt()


class _Demodulation(torch.autograd.Function):
    """`demodulation`, with half the operations in its backward pass:

        dL/ds_ni  = -s_ni sum_o t_no E_oi,   t_no = d_no^3 dL/dd_no,   E_oi = sum_k w_oik^2
        dL/dw_oik = -w_oik sum_n t_no s_ni^2

    A backward pass that is itself differentiated goes through the reference.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, styles: Tensor) -> Tensor:
        energy, squares = weight.square().sum([2, 3]).to(styles.dtype), styles.square()
        d = (squares @ energy.t() + EPS).rsqrt_()
        ctx.save_for_backward(weight, styles, energy, squares, d)
        return d

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, styles, energy, squares, d = ctx.saved_tensors
        needed, of_weight, of_styles = ctx.needs_input_grad, None, None
        if torch.is_grad_enabled():
            again = demodulation_reference(weight, styles)
            inputs = [x for x, wanted in zip((weight, styles), needed) if wanted]
            found = iter(torch.autograd.grad(again, inputs, grads, create_graph=True))
            return tuple(next(found) if wanted else None for wanted in needed)
        t = d.pow(3).mul_(grads[0])
        if needed[0]:
            of_energy = torch.addmm(energy, t.t(), squares, beta=0, alpha=-1)
            of_weight = weight * of_energy.to(weight.dtype)[:, :, None, None]
        if needed[1]:
            of_styles = torch.addmm(styles, t, energy, beta=0, alpha=-1).mul_(styles)
        return of_weight, of_styles


def _keep_in_range(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Rescales weight and styles so that float16 does not overflow; demodulation cancels it."""
    fan_in = weight[0].numel()
    weight = weight / (fan_in**0.5 * weight.abs().amax([1, 2, 3], keepdim=True))
    return weight, styles / styles.abs().amax(1, keepdim=True)
