"""Residual-in-residual dense blocks (ESRGAN, Wang et al. 2018, section 3.1), as GRAM-HD uses them.

    dense block   x_k = lrelu_0.2(conv_k([x, x_1, .., x_{k-1}])),   k = 1..4
                  y = x + 0.2 conv_5([x, x_1, .., x_4])
    RRDB          y = x + 0.2 D_3(D_2(D_1(x)))
    trunk         f = conv_first(x),   y = f + trunk_conv(R_n(.. R_1(f)))

All convolutions are 3x3 with bias and zero padding. Differentiable any number of times.

On a CPU the concatenations are nearly free as long as they stay in the cache and memory is
channels-last: pass a few maps at a time (`layers.manifold_superresolution` does). A preallocated
buffer of all channels was slower: convolutions copy inputs whose channels are not dense.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
RESIDUAL_SCALE = 0.2
conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1)


class ResidualDenseBlock(nn.Module):
    """y = x + 0.2 conv_5([x, x_1, .., x_4]).

    Args:
        channels: channels of x and y.
        growth: channels of each x_k.
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.conv1 = conv3x3(channels, growth)
        self.conv2 = conv3x3(channels + growth, growth)
        self.conv3 = conv3x3(channels + 2 * growth, growth)
        self.conv4 = conv3x3(channels + 3 * growth, growth)
        self.conv5 = conv3x3(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] -> [b c h w]."""
        features = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features.append(F.leaky_relu_(conv(torch.cat(features, 1)), SLOPE))
        return torch.add(x, self.conv5(torch.cat(features, 1)), alpha=RESIDUAL_SCALE)


class RRDB(nn.Module):
    """y = x + 0.2 D_3(D_2(D_1(x))) with dense blocks D; arguments as for `ResidualDenseBlock`."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.RDB1 = ResidualDenseBlock(channels, growth)
        self.RDB2 = ResidualDenseBlock(channels, growth)
        self.RDB3 = ResidualDenseBlock(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] -> [b c h w]."""
        return torch.add(x, self.RDB3(self.RDB2(self.RDB1(x))), alpha=RESIDUAL_SCALE)


class RRDBTrunk(nn.Module):
    """Base class of networks that start with the trunk y = f + trunk_conv(R_n(.. R_1(f))).

    Args:
        in_channels: channels of x.
        channels: channels of y.
        num_blocks: n, number of RRDBs.
        growth: growth of the dense blocks.
    """

    def __init__(self, in_channels: int, channels: int, num_blocks: int, growth: int):
        super().__init__()
        self.conv_first = conv3x3(in_channels, channels)
        self.RRDB_trunk = nn.Sequential(*(RRDB(channels, growth) for _ in range(num_blocks)))
        self.trunk_conv = conv3x3(channels, channels)

    def trunk(self, x: Tensor) -> Tensor:
        """x [b in h w] -> y [b channels h w]."""
        first = self.conv_first(x)
        return first + self.trunk_conv(self.RRDB_trunk(first))
