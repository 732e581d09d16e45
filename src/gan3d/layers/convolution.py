"""Equalised convolution with resampling, and minibatch standard deviation."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from gan3d.ops.bias_act import DEFAULT_GAIN, Activation, bias_act
from gan3d.ops.resample import conv2d_resample, setup_filter

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


class Conv2dLayer(nn.Module):
    """Convolution (N(0, 1) weights, scaled by 1 / sqrt(fan in) at run time), resampling, bias, activation, clamp.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd.
        bias: whether there is one.
        activation: with its default gain.
        up: factor of upsampling.
        down: factor of downsampling.
        resample_filter: taps.
        conv_clamp: bound of the output, None is none.
        trainable: False keeps weight and bias as buffers of the same names (Freeze-D).
    """

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
        resample_filter: tuple[float, ...] = BINOMIAL,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        offset = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if offset is None else nn.Parameter(offset)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", offset)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[b c H W] -> [b o H' W']; `gain` multiplies the output and the clamp."""
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias, act=self.activation, gain=DEFAULT_GAIN[self.activation] * gain, clamp=clamp)

    def extra_repr(self) -> str:
        out, inputs, k, _ = self.weight.shape
        return f"{inputs} -> {out}, {k}x{k}, {self.activation}, up {self.up}, down {self.down}"


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """Appends the standard deviation within groups of images, averaged, as constant channels (Karras et al. 2018).

    Groups are strided: with M = b / G groups, group m holds images m, m + M, m + 2M, ...

    Args:
        x: [b c h w].
        group_size: G; None is the batch. At most the batch is used, which it must divide.
        num_channels: statistics F appended.

    Returns:
        [b c+F h w].
    """
    b, _, h, w = x.shape
    g = b if group_size is None else min(group_size, b)
    if b % g:
        raise ValueError(f"a batch of {b} images is not a multiple of the group size {g} of minibatch std")
    y = rearrange(
        x.float() if x.dtype in (torch.float16, torch.bfloat16) else x,
        "(g m) (f c) h w -> g m f c h w",
        g=g,
        f=num_channels,
    )
    y = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (y + 1e-8).sqrt().mean(dim=(2, 3, 4))  # m f
    return torch.cat([x, repeat(y, "m f -> (g m) f h w", g=g, h=h, w=w).to(x.dtype)], dim=1)
