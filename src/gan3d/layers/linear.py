"""Fully connected layer with an equalized learning rate (Progressive GAN 4.1; StyleGAN2)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.ops.bias_act import Activation, bias_act


class EqualizedLinear(nn.Module):
    """y = act(x (W lr / sqrt(in))^T + b lr), W ~ N(0, 1) / lr.

    All weights have the same effective learning rate, lr times the optimizer's.

    Args:
        in_features: size of x.
        out_features: size of y.
        bias: whether to add b.
        activation: name of act, applied with its default gain.
        lr_multiplier: lr.
        bias_init: initial b; not divided by lr, as published.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.lr_multiplier = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [.. in] -> y [.. out]."""
        if self.bias is None:
            y = F.linear(x, *self.scaled(x.dtype))
        else:  # the product takes the factors, and no scaled copies are made
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            rows = x if x.ndim == 2 else x.flatten(0, -2)
            beta, alpha = self.lr_multiplier, self.weight_gain
            y = _Linear.apply(rows, weight, bias, alpha, beta)
            y = y if x.ndim == 2 else y.unflatten(0, x.shape[:-1])
        return bias_act(y, act=self.activation, overwrite=True)

    def scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight [out in] and bias [out] as they are applied."""
        bias = None if self.bias is None else self.bias.to(dtype)
        if bias is not None and self.lr_multiplier != 1:
            bias = bias * self.lr_multiplier
        return self.weight.to(dtype) * self.weight_gain, bias

    def extra_repr(self) -> str:
        sizes = f"{self.in_features}, {self.out_features}"
        return f"{sizes}, {self.activation}, lr_multiplier={self.lr_multiplier}"


class _Linear(torch.autograd.Function):
    """alpha x W^T + beta b, whose backward pass has the factors in its products, too: torch's own
    takes a pass for each. Differentiable any number of times.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, alpha: float, beta: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.factors = alpha, beta
        return torch.addmm(bias, x, weight.t(), beta=beta, alpha=alpha)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (alpha, beta), grad = ctx.saved_tensors, ctx.factors, grads[0]
        of_x = of_weight = of_bias = None
        # What is multiplied with beta 0 says nothing but the size.
        if ctx.needs_input_grad[0]:
            of_x = torch.addmm(x.detach(), grad, weight, beta=0, alpha=alpha)
        if ctx.needs_input_grad[1]:
            of_weight = torch.addmm(weight.detach(), grad.t(), x, beta=0, alpha=alpha)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(0) if beta == 1 else grad.sum(0) * beta
        return of_x, of_weight, of_bias, None, None
