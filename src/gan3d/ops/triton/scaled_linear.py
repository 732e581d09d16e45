"""The kernel of layers with a scale per image on both sides of a shared matrix,

    z_bno = d_bo sum_i x_bni s_bi W_io + t_bo,   y = act(z),

which ModFC (s the style, d the demodulation, leaky ReLU) and FiLM-SIREN (d = gamma, t = gamma b +
beta, sine) both are. A program makes a tile of y: scales, offset and activation cost no pass over
memory, and the weights of an image, [b i o], are never written.

Backward. With g_z = g_y act'(z), whose sine is computed again from x so that z is not kept,

    g_x = ((g_z d) W^T) s,   P_bio = sum_n x_bni g_z,bno,   g_W = sum_b s P d,
    g_s = sum_o W P d,   g_d = sum_i W P s,   g_t = sum_n g_z.

g_x is the kernel itself, with the scales exchanged. P is a product of torch; for few points of many
images, where [b i o] would be large, products of shared matrices take its place.

Precision. Float32 is multiplied as torch's products are: exactly, or in tf32 if
`torch.set_float32_matmul_precision` allows it; sums are float32. The sine is a series after the
argument, tens of radians, is reduced by multiples of pi: no special function, and no slow path.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.backend import interprets
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.launches import accumulator

Activation = Literal["none", "leaky_relu", "sine"]
# As the kernel knows them; the last one is not of y but of its gradient: g cos(z).
KINDS: dict[str, int] = {"none": 0, "leaky_relu": 1, "sine": 2}
SINE_BACKWARD = 3
ROWS, COLUMNS, DEPTH = 64, 64, 32  # of a tile of y; of a step of the sum
FEW_ROWS = 64  # points of an image: with fewer, a tile has rows of several images


# pi in parts, the first two with few enough bits that their products with small integers are exact.
PI_HIGH = tl.constexpr(3.140625)
PI_MIDDLE = tl.constexpr(9.67502593994140625e-4)
PI_LOW = tl.constexpr(1.509957990978376432e-7)


@triton.jit
def _sine_near_zero(r):
    """sin(r), |r| <= pi / 2, by its series: error 6e-8."""
    q = r * r
    p = q * (1.0 / 362880.0 - q * (1.0 / 39916800.0)) - 1.0 / 5040.0
    return r + r * (q * (q * (q * p + 1.0 / 120.0) - 1.0 / 6.0))


@triton.jit
def _sine(z):
    if z.dtype == tl.float64:
        return tl.sin(z)
    k = tl.floor(z * 0.3183098861837907 + 0.5)
    r = z - k * PI_HIGH - k * PI_MIDDLE - k * PI_LOW
    return _sine_near_zero(r) * (1.0 - 2.0 * (k - 2.0 * tl.floor(k * 0.5)))


@triton.jit
def _cosine(z):
    if z.dtype == tl.float64:
        return tl.cos(z)
    k = tl.floor(z * 0.3183098861837907)
    half = k + 0.5
    r = z - half * PI_HIGH - half * PI_MIDDLE - half * PI_LOW
    return _sine_near_zero(r) * (2.0 * (k - 2.0 * tl.floor(k * 0.5)) - 1.0)


@triton.jit
def scaled_linear_kernel(
    x, weight, scale_in, scale_out, offset, grad, out_y,
    B, N, stride_xb, stride_wi, stride_wo, slope,
    IN: tl.constexpr, OUT: tl.constexpr,
    HAS_IN: tl.constexpr, HAS_OUT: tl.constexpr, HAS_OFFSET: tl.constexpr, KIND: tl.constexpr,
    SEVERAL_IMAGES: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    if SEVERAL_IMAGES:  # rows run over the points of all images
        row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        image, point = row // N, row % N
        on_row = row < B.to(tl.int64) * N
    else:
        point = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        image = tl.program_id(2).to(tl.int64) + tl.zeros_like(point)
        on_row = point < N
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    on_column = column < OUT
    at_x = image * stride_xb + point * IN

    total = tl.zeros([ROWS, COLUMNS], ACC)
    for start in range(0, IN, DEPTH):
        k = start + tl.arange(0, DEPTH)
        on_k = k < IN
        on_x = on_row[:, None] & on_k[None, :]
        a = tl.load(x + at_x[:, None] + k[None, :], mask=on_x, other=0.0)
        if HAS_IN:
            if SEVERAL_IMAGES:
                s = tl.load(scale_in + image[:, None] * IN + k[None, :], mask=on_x, other=0.0)
                a = (a * s).to(a.dtype)
            else:
                first = tl.program_id(2).to(tl.int64)
                s = tl.load(scale_in + first * IN + k, mask=on_k, other=0.0)
                a = (a * s[None, :]).to(a.dtype)
        at_w = k[:, None] * stride_wi + column[None, :] * stride_wo
        w = tl.load(weight + at_w, mask=on_k[:, None] & on_column[None, :], other=0.0)
        total = tl.dot(a, w.to(a.dtype), total, input_precision=PRECISION, out_dtype=ACC)

    mask = on_row[:, None] & on_column[None, :]
    per_image = image[:, None] * OUT + column[None, :]
    if HAS_OUT:
        total = total * tl.load(scale_out + per_image, mask=mask, other=0.0)
    if HAS_OFFSET:
        total = total + tl.load(offset + per_image, mask=mask, other=0.0)
    at_y = (image * N + point)[:, None] * OUT + column[None, :]
    if KIND == 1:
        total = tl.where(total >= 0, total, total * slope)
    if KIND == 2:
        total = _sine(total)
    if KIND == 3:
        total = _cosine(total) * tl.load(grad + at_y, mask=mask, other=0.0)
    tl.store(out_y + at_y, total, mask=mask)


@torch.library.custom_op("gan3d::scaled_linear", mutates_args=())
def scaled_linear(
    x: Tensor,
    weight: Tensor,
    scale_in: Tensor | None,
    scale_out: Tensor | None,
    offset: Tensor | None,
    batch: int,
    activation: str,
    slope: float,
) -> Tensor:
    """y = act(((x s) W) d + t).

    Args:
        x: [b n i], or [1 n i] for all images.
        weight: W, [i o], of any strides.
        scale_in: s, [b i].
        scale_out: d, [b o].
        offset: t, [b o].
        batch: b.
        activation: of `Activation`.
        slope: of the leaky ReLU.

    Returns:
        [b n o], in the dtype of x.
    """
    return _launch(x, weight, scale_in, scale_out, offset, batch, KINDS[activation], slope)


@scaled_linear.register_fake
def _(x, weight, scale_in, scale_out, offset, batch, activation, slope):
    return x.new_empty(batch, x.shape[1], weight.shape[1])


@torch.library.custom_op("gan3d::scaled_linear_backward", mutates_args=())
def scaled_linear_backward(
    grad: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    scale_in: Tensor | None,
    scale_out: Tensor | None,
    offset: Tensor | None,
    batch: int,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, scale_in, scale_out and offset; empty ones of what is not there."""
    some = (x, weight, scale_in, scale_out, offset)
    grad = grad.contiguous()
    if activation == "leaky_relu":
        grad = torch.where(y >= 0, grad, grad * slope)
    elif activation == "sine":
        grad = _launch(*some, batch, SINE_BACKWARD, slope, grad)
    of_x = _launch(grad, weight.mT, scale_out, scale_in, None, batch, KINDS["none"], slope)
    of_x = of_x.sum(0, keepdim=True) if len(x) < batch else of_x

    of_weights = _of_weights if x.shape[1] >= FEW_ROWS else _of_weights_of_few
    of_weight, of_in, of_out = of_weights(grad, x.expand(batch, -1, -1), *some[1:4])
    of_offset = _empty(x) if offset is None else grad.sum(1, dtype=offset.dtype)
    return of_x, of_weight, of_in, of_out, of_offset


@scaled_linear_backward.register_fake
def _(grad, y, x, weight, scale_in, scale_out, offset, batch, activation, slope):
    some = (scale_in, scale_out, offset)
    of_some = [_empty(x) if s is None else s.new_empty(s.shape) for s in some]
    return x.new_empty(x.shape), weight.new_empty(weight.shape), *of_some


def scaled_linear_form(
    x: Tensor,
    weight: Tensor,
    scale_in: Tensor | None,
    scale_out: Tensor | None,
    offset: Tensor | None,
    batch: int,
    activation: str,
    slope: float,
) -> Tensor:
    """What the kernel computes, in torch, for its derivatives of higher order."""
    z = (x if scale_in is None else x * scale_in[:, None]) @ weight.to(x.dtype)
    z = z.expand(batch, -1, -1)
    z = z if scale_out is None else z * scale_out[:, None]
    z = z if offset is None else z + offset[:, None]
    if activation == "none":
        return z
    return z.sin() if activation == "sine" else torch.where(z >= 0, z, z * slope)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.batch, ctx.activation, ctx.slope = inputs
    ctx.save_for_backward(*tensors, output if ctx.activation == "leaky_relu" else None)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, y = ctx.saved_tensors
    options = (ctx.batch, ctx.activation, ctx.slope)
    if torch.is_grad_enabled():
        found = recorded(scaled_linear_form, inputs, [True] * 5, [grad], *options)
        return *found, None, None, None
    found = scaled_linear_backward(grad, grad if y is None else y, *inputs, *options)
    present = [None if tensor is None else g for tensor, g in zip(inputs, found, strict=True)]
    return *present, None, None, None


scaled_linear.register_autograd(_differentiate, setup_context=_keep)


def _launch(
    x: Tensor,
    weight: Tensor,
    scale_in: Tensor | None,
    scale_out: Tensor | None,
    offset: Tensor | None,
    batch: int,
    kind: int,
    slope: float,
    grad: Tensor | None = None,
) -> Tensor:
    """One call of the kernel."""
    x = x.contiguous()
    n, (inside, out) = x.shape[1], weight.shape
    y = x.new_empty(batch, n, out)
    several = n < FEW_ROWS
    rows = triton.cdiv(batch * n if several else n, ROWS)
    grid = (triton.cdiv(out, COLUMNS), rows, 1 if several else batch)
    tensors = [x if t is None else t.contiguous() for t in (scale_in, scale_out, offset, grad)]
    scaled_linear_kernel[grid](
        x, weight, *tensors, y,
        batch, n, 0 if len(x) < batch else n * inside, *weight.stride(), slope,
        inside, out, scale_in is not None, scale_out is not None, offset is not None, kind,
        several, precision_of(x), accumulator(x),
        ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    return y


def precision_of(x: Tensor) -> str:
    """How float32 is multiplied: as torch's products are (`torch.set_float32_matmul_precision`)."""
    exact = interprets() or x.dtype != torch.float32
    return "ieee" if exact or torch.get_float32_matmul_precision() == "highest" else "tf32"


def _of_weights(
    grad: Tensor, x: Tensor, weight: Tensor, scale_in: Tensor | None, scale_out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight and scales, by the product P [b i o] of every image."""
    product = (x.mT @ grad).to(weight.dtype)
    scaled = product if scale_out is None else product * scale_out[:, None].to(product.dtype)
    both = scaled if scale_in is None else scaled * scale_in[..., None].to(product.dtype)
    of_in = _empty(x) if scale_in is None else (scaled * weight).sum(2).to(scale_in.dtype)
    if scale_out is None:
        return both.sum(0), of_in, _empty(x)
    product = product if scale_in is None else product * scale_in[..., None].to(product.dtype)
    return both.sum(0), of_in, (product * weight).sum(1).to(scale_out.dtype)


def _of_weights_of_few(
    grad: Tensor, x: Tensor, weight: Tensor, scale_in: Tensor | None, scale_out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight and scales, by products over all points of all images."""
    inside = x if scale_in is None else x * scale_in[:, None].to(x.dtype)
    outside = grad if scale_out is None else grad * scale_out[:, None].to(grad.dtype)
    of_weight = (inside.flatten(0, 1).mT @ outside.flatten(0, 1)).to(weight.dtype)
    of_in, of_out = _empty(x), _empty(x)
    if scale_in is not None:
        of_in = (x * (outside @ weight.mT.to(x.dtype))).sum(1).to(scale_in.dtype)
    if scale_out is not None:
        of_out = (grad * (inside @ weight.to(x.dtype))).sum(1).to(scale_out.dtype)
    return of_weight, of_in, of_out


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(0)
