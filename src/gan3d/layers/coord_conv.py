"""Convolution that knows where it is (CoordConv: Liu et al. 2018, section 3; used by pi-GAN and
GRAM).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def coordinates(
    h: int, w: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The row, then the column of every pixel, [1 2 h w], from -1 at the first to 1 at the last (0
    if it is alone).
    """
    rows, columns = (
        torch.linspace(-1, 1, n, device=device, dtype=dtype)
        if n > 1
        else torch.zeros(1, device=device, dtype=dtype)
        for n in (h, w)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


class CoordConv2d(nn.Conv2d):
    """y = conv([x, row, column]): two more input channels, behind those of x; zeros around all of
    them alike.

    Computed as conv(x) + conv([row, column]), which keeps no copy of x, and whose second part all
    images share.

    Args:
        in_channels: of x, without the two.
        out_channels: of y.
        kernel_size: k.
        stride: of the convolution; coordinates are those of the finer grid.
        padding: zeros around.
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
        of_x, of_place = self.weight.split([self.in_channels - 2, 2], dim=1)
        place = coordinates(*x.shape[2:], device=x.device, dtype=x.dtype)
        y = F.conv2d(x, of_x, self.bias, self.stride, self.padding)
        return y + F.conv2d(place, of_place, None, self.stride, self.padding)
