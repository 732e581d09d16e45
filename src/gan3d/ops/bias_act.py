"""Bias, activation, gain and clamp in one function (StyleGAN2).

    y = clamp(gain act(x + b), -clamp, clamp)

The default gain roughly preserves the variance of a normal input: sqrt(2) for relu, lrelu and
swish, 1 for the others.

Leaky ReLU and linear keep one tensor for the backward pass, the result, which the next layer keeps
anyway. Its sign and its size tell the slope that the gradient is multiplied with:

    dy/dx = gain (1 if y > 0 else alpha)   where |y| < clamp, else 0

On a GPU they are one kernel forward and one backward (`ops.triton.bias_act`).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.backend import Backend, choose

Activation = Literal[
    "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"
]
GAINS: dict[str, float] = {
    "linear": 1.0,
    "relu": math.sqrt(2),
    "lrelu": math.sqrt(2),
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": math.sqrt(2),
}
LRELU_SLOPE = 0.2


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    act: Activation = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> Tensor:
    """Adds a bias along dimension 1, then applies activation, gain and clamp.

    Differentiable as many times as the activation. No gradient passes where the result is at the
    clamp.

    Args:
        x: [b c ..].
        b: bias [c], or None.
        act: name of the activation.
        alpha: slope of lrelu below 0 (default 0.2); the other activations ignore it.
        gain: replaces the activation's default gain.
        clamp: largest magnitude of the result, after the gain; None does not clamp.
        overwrite: allows the result to be written into x, which is done when no gradient is
            recorded.
        backend: see `ops.backend`; None chooses. "reference" and "fast" are the same here, and the
            kernel has linear and lrelu, of positive gain.

    Returns:
        Same shape and dtype as x.

    Raises:
        ValueError: the activation is unknown, b does not match x, or the backend does not run here.
    """
    if act not in GAINS:
        raise ValueError(f"activation {act!r} is unknown; choose one of {', '.join(GAINS)}")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(
            f"bias has shape {tuple(b.shape)} and x {tuple(x.shape)}; "
            "expected one number per channel (dim 1)"
        )
    gain = GAINS[act] if gain is None else gain
    slope = LRELU_SLOPE if alpha is None else alpha
    by_kernel = choose(backend, x) == "triton" and _is_homogeneous(act, slope, gain)
    if _result_has_its_sign(act, slope, gain, clamp) and _is_recorded(x, b):
        if act == "linear":
            return _FromResult.apply(x, b, None, None, gain, clamp, by_kernel)
        handle = _Handle.apply(x) if b is None else None
        return _FromResult.apply(x, b, handle, slope, gain, clamp, by_kernel)
    if by_kernel and not _is_recorded(x, b):
        return _kernel(x, b, 1.0 if act == "linear" else slope, gain, clamp)

    # Without gradients every step after the first works in place, on a tensor made here.
    no_grad = not torch.is_grad_enabled()
    inplace = overwrite and no_grad
    if b is not None:
        b = b.to(x.dtype)
        # A positive gain may come first, and then takes no pass of its own. Not in 16 bits: there a
        # scaled bias is rounded twice.
        early = gain if b.itemsize >= 4 and _is_homogeneous(act, slope, gain) else 1.0
        b = (b if early == 1 else b * early).reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
        x = torch.add(b, x, alpha=early, out=x) if inplace else torch.add(b, x, alpha=early)
        gain, inplace = gain / early, no_grad
    if act != "linear":
        x = _activate(x, act, slope, inplace)
        inplace = no_grad
    if gain != 1:
        x = x.mul_(gain) if inplace else x * gain
        inplace = no_grad
    if clamp is not None:
        x = x.clamp_(-clamp, clamp) if inplace else x.clamp(-clamp, clamp)
    return x


def _activate(x: Tensor, act: Activation, alpha: float, inplace: bool) -> Tensor:
    """act(x); `inplace` is ignored by activations that have no in-place form."""
    if act == "lrelu":
        return F.leaky_relu(x, alpha, inplace=inplace)
    if act == "relu":
        return F.relu(x, inplace=inplace)
    if act == "elu":
        return F.elu(x, inplace=inplace)
    if act == "selu":
        return F.selu(x, inplace=inplace)
    if act == "softplus":
        return F.softplus(x)
    if act == "swish":
        return F.silu(x, inplace=inplace)
    return torch.tanh(x) if act == "tanh" else torch.sigmoid(x)


def _is_recorded(*tensors: Tensor | None) -> bool:
    """Whether a backward pass can follow."""
    needed = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return needed and torch.is_grad_enabled()


def _result_has_its_sign(act: Activation, slope: float, gain: float, clamp: float | None) -> bool:
    """Whether the result has the sign of its input, so that it tells the derivative."""
    if act == "linear" and clamp is None:
        return False  # nothing is kept as it is
    return _is_homogeneous(act, slope, gain) and clamp != 0


def _is_homogeneous(act: Activation, slope: float, gain: float) -> bool:
    """Whether gain act(x) is act(gain x), and has the sign of x."""
    return (act == "linear" or (act == "lrelu" and slope >= 0)) and gain > 0


def _kernel(x: Tensor, b: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    from gan3d.ops.triton.bias_act import fused_bias_act

    return fused_bias_act(x, b, slope, gain, math.inf if clamp is None else clamp)


def _kernel_grad(grad: Tensor, y: Tensor, slope: float, gain: float, clamp: float | None) -> Tensor:
    from gan3d.ops.triton.bias_act import bias_act_grad

    return bias_act_grad(grad, y, slope, gain, math.inf if clamp is None else clamp)


class _FromResult(torch.autograd.Function):
    """clamp(gain lrelu(x + b)), which keeps its result; `slope` None is linear."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        b: Tensor | None,
        handle: Tensor | None,
        slope: float | None,
        gain: float,
        clamp: float | None,
        by_kernel: bool,
    ) -> Tensor:
        # Nothing is recorded here.
        if by_kernel:
            y = _kernel(x, b, 1.0 if slope is None else slope, gain, clamp)
        else:
            act: Activation = "linear" if slope is None else "lrelu"
            y = x.clone() if b is None else x
            options: dict[str, Any] = {"alpha": slope, "gain": gain, "clamp": clamp}
            y = bias_act(y, b, act=act, **options, overwrite=b is None, backend="fast")
        earlier = None if slope is None else handle if b is None else b
        ctx.save_for_backward(y, earlier)
        ctx.set_materialize_grads(False)
        ctx.numbers, ctx.by_kernel = (slope, gain, clamp), by_kernel
        ctx.dtype = None if b is None else b.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        slope, gain, clamp = ctx.numbers
        (y, earlier), grad, of_bias = ctx.saved_tensors, grads[0], None
        if grad is None:  # nothing comes from here: no zeros are computed
            return None, None, None, None, None, None, None
        # All of this is linear in the gradient, and recorded where it is differentiated again; y
        # only says where, so that it has no part in that.
        y = y.detach()
        if torch.is_grad_enabled() and earlier is not None:
            grad = _Zeros.apply(grad, earlier)
        if ctx.by_kernel:
            grad = _kernel_grad(grad, y, 1.0 if slope is None else slope, gain, clamp)
        else:
            if clamp is not None:
                grad = torch.ops.aten.hardtanh_backward(grad, y, -clamp, clamp)
            if slope is not None:
                grad = torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
            grad = grad if gain == 1 else grad * gain
        if ctx.needs_input_grad[1]:
            of_bias = grad.sum([dim for dim in range(grad.ndim) if dim != 1]).to(ctx.dtype)
        of_x = grad if ctx.needs_input_grad[0] else None
        return of_x, of_bias, None, None, None, None, None


class _Zeros(torch.autograd.Function):
    """The gradient, whose own gradient with respect to an `earlier` tensor is 0, as that of
    torch's leaky ReLU is. Without it a bias would have none at all under a gradient penalty, and
    Adam would leave it out of the step.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, earlier: Tensor) -> Tensor:
        ctx.save_for_backward(earlier)
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (earlier,) = ctx.saved_tensors
        return grads[0], torch.zeros_like(earlier) if ctx.needs_input_grad[1] else None


class _Handle(torch.autograd.Function):
    """One number that stands for x in the graph, so that x itself is not kept; gradients 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].new_zeros(()).expand(ctx.shape)
