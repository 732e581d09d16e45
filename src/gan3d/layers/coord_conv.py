"""CoordConv: convolution with pixel coordinates as input channels (Liu et al. 2018, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.precision import full_precision


def coordinates(
    h: int, w: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Row and column of every pixel, [1 2 h w].

    Convention: -1 at the first row or column, 1 at the last; 0 if there is one only.
    """

    def axis(n: int) -> Tensor:
        if n > 1:
            return torch.linspace(-1, 1, n, device=device, dtype=dtype)
        return torch.zeros(1, device=device, dtype=dtype)

    return torch.stack(torch.meshgrid(axis(h), axis(w), indexing="ij"))[None]


class CoordConv2d(nn.Conv2d):
    """y = conv([x, row, column]), with zero padding of all channels; used by pi-GAN and GRAM.

    Computed as conv(x) + conv([row, column]): this needs no copy of x, and all images share the
    second term.

    Args:
        in_channels: channels of x, without the two coordinates.
        out_channels: channels of y.
        kernel_size: k.
        stride: stride of the convolution; coordinates are taken on the grid of x.
        padding: zeros on each side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__(in_channels + 2, out_channels, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """[b in h w] -> [b out H W]."""
        weight_x, weight_coords = self.weight.split([self.in_channels - 2, 2], dim=1)
        y = F.conv2d(x, weight_x, self.bias, self.stride, self.padding)
        with full_precision(x):  # neighbors of 1024 columns are one number in bfloat16
            coords = coordinates(*x.shape[2:], device=x.device, dtype=self.weight.dtype)
            shift = F.conv2d(coords, weight_coords, None, self.stride, self.padding)
        return (y + shift).to(y.dtype)
