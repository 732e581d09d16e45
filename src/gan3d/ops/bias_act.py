"""Bias, activation, gain and clamp in one go (StyleGAN2).

    y = clamp(gain act(x + b), -clamp, clamp)

The default gain keeps the variance of a normal input: sqrt(2) for relu, lrelu and swish, 1 for the
rest.
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
    """Bias along dimension 1, activation, gain, clamp; differentiable as often as the activation
    is.

    Args:
        x: [b c ..].
        b: [c], or None.
        act: name of the activation.
        alpha: slope of lrelu below 0 (default 0.2); the others have none.
        gain: replaces the activation's own gain.
        clamp: largest magnitude of the result, after the gain; None is no limit.
        overwrite: x is not needed any more; where no gradient is recorded the result takes its
            memory.

    Returns:
        As x.
    """
    if act not in GAINS:
        raise ValueError(f"activation {act!r} is unknown; choose one of {', '.join(GAINS)}")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(
            f"bias has shape {tuple(b.shape)}, x {tuple(x.shape)}; expected one number per channel "
            "(dim 1)"
        )
    gain = GAINS[act] if gain is None else gain
    own = overwrite and not torch.is_grad_enabled()
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if dim == 1 else 1 for dim in range(x.ndim)])
        x, own = (x.add_(b) if own else x + b), not torch.is_grad_enabled()
    if act != "linear":
        x, own = (
            _activate(x, act, LRELU_SLOPE if alpha is None else alpha, own),
            not torch.is_grad_enabled(),
        )
    if gain != 1:
        x, own = (x.mul_(gain) if own else x * gain), not torch.is_grad_enabled()
    if clamp is not None:
        x = x.clamp_(-clamp, clamp) if own else x.clamp(-clamp, clamp)
    return x


def _activate(x: Tensor, act: Activation, alpha: float, own: bool) -> Tensor:
    """act(x), in x's memory if `own` and the activation can."""
    if act == "lrelu":
        return F.leaky_relu(x, alpha, inplace=own)
    if act == "relu":
        return F.relu(x, inplace=own)
    if act == "elu":
        return F.elu(x, inplace=own)
    if act == "selu":
        return F.selu(x, inplace=own)
    if act == "softplus":
        return F.softplus(x)
    if act == "swish":
        return F.silu(x, inplace=own)
    return torch.tanh(x) if act == "tanh" else torch.sigmoid(x)
