"""Bias, activation, gain and clamp in one function (StyleGAN2).

    y = clamp(gain act(x + b), -clamp, clamp)

The default gain roughly preserves the variance of a normal input: sqrt(2) for relu, lrelu and
swish, 1 for the others.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
) -> Tensor:
    """Adds a bias along dimension 1, then applies activation, gain and clamp.

    Differentiable as many times as the activation.

    Args:
        x: [b c ..].
        b: bias [c], or None.
        act: name of the activation.
        alpha: slope of lrelu below 0 (default 0.2); the other activations ignore it.
        gain: replaces the activation's default gain.
        clamp: largest magnitude of the result, after the gain; None does not clamp.
        overwrite: allows the result to be written into x, which is done when no gradient is
            recorded.

    Returns:
        Same shape and dtype as x.

    Raises:
        ValueError: the activation is unknown, or b does not match x.
    """
    if act not in GAINS:
        raise ValueError(f"activation {act!r} is unknown; choose one of {', '.join(GAINS)}")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(
            f"bias has shape {tuple(b.shape)} and x {tuple(x.shape)}; "
            "expected one number per channel (dim 1)"
        )
    gain = GAINS[act] if gain is None else gain

    # Without gradients every step after the first works in place, on a tensor made here.
    no_grad = not torch.is_grad_enabled()
    inplace = overwrite and no_grad
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if dim == 1 else 1 for dim in range(x.ndim)])
        x = x.add_(b) if inplace else x + b
        inplace = no_grad
    if act != "linear":
        x = _activate(x, act, LRELU_SLOPE if alpha is None else alpha, inplace)
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
