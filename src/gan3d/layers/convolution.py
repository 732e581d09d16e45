"""Convolution with an equalized learning rate and resampling (StyleGAN2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan3d.ops.bias_act import GAINS, Activation, bias_act
from gan3d.ops.resample import conv2d_resample, setup_filter

BINOMIAL = (1, 3, 3, 1)  # StyleGAN2's low-pass filter


class EqualizedConv2d(nn.Module):
    """y = clamp(act(conv(x, W / sqrt(in k k)) + b)), W ~ N(0, 1), with `conv2d_resample`.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: k, odd.
        bias: whether to add b.
        activation: name of act, applied with its default gain.
        up: upsampling factor.
        down: downsampling factor; at most one of the two may exceed 1.
        resample_filter: taps of the low-pass filter.
        conv_clamp: largest magnitude of y; None does not clamp.
        trainable: False makes W and b buffers of the same names (Freeze-D, Mo et al. 2020).

    Raises:
        ValueError: the kernel size is even.
    """

    resample_filter: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: Activation = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = BINOMIAL,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even; give an odd one")
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self._register("weight", weight, trainable)
        self._register("bias", torch.zeros(out_channels) if bias else None, trainable)

    def _register(self, name: str, value: Tensor | None, trainable: bool) -> None:
        if trainable:
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """x [b in h w] -> y [b out H W]; `gain` multiplies the result and the clamp."""
        w = self.weight.to(x.dtype) * self.weight_gain
        # As published: convolution when upsampling, else correlation.
        y = conv2d_resample(
            x,
            w,
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=w.shape[-1] // 2,
            flip_weight=self.up == 1,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = GAINS[self.activation] * gain
        return bias_act(y, self.bias, act=self.activation, gain=gain, clamp=clamp, overwrite=True)

    def extra_repr(self) -> str:
        out, inside, k, _ = self.weight.shape
        return f"{inside}, {out}, {k}x{k}, {self.activation}, up={self.up}, down={self.down}"
