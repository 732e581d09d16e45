"""Bias, activation, gain and clamp in one step: y = clamp(gain * act(x + b)). Source: specs/eg3d.md, section 2.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]

_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda x, _: x,
    "relu": lambda x, _: F.relu(x),
    "lrelu": F.leaky_relu,
    "tanh": lambda x, _: torch.tanh(x),
    "sigmoid": lambda x, _: torch.sigmoid(x),
    "elu": lambda x, _: F.elu(x),
    "selu": lambda x, _: F.selu(x),
    "softplus": lambda x, _: F.softplus(x),
    "swish": lambda x, _: F.silu(x),
}

# Default gains keep the variance of a normal input.
DEFAULT_GAIN = {name: math.sqrt(2) if name in ("relu", "lrelu", "swish") else 1.0 for name in _FUNCTIONS}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: Activation = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """y = clamp(gain * act(x + b), -clamp, clamp).

    Without gradient, leaky ReLU and linear reuse the memory of x + b.

    Args:
        x: any shape.
        b: bias along `dim`.
        dim: of the bias.
        act: activation.
        alpha: slope of leaky ReLU.
        gain: None is the activation's default.
        clamp: after the gain; None is off.
    """
    if act not in _FUNCTIONS:
        raise ValueError(f"activation {act!r} is not known; choose one of {', '.join(_FUNCTIONS)}")
    gain = DEFAULT_GAIN[act] if gain is None else gain
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    if b is not None and act in ("linear", "lrelu") and not torch.is_grad_enabled():
        if act == "lrelu":
            F.leaky_relu_(x, alpha)
        if gain != 1:
            x.mul_(gain)
        return x if clamp is None else x.clamp_(-clamp, clamp)
    x = _FUNCTIONS[act](x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
