"""Minibatch standard deviation (Progressive GAN, section 3; in groups as in StyleGAN2)."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn


class MinibatchStd(nn.Module):
    """Appends constant maps of mean_chw sqrt(var over a group of images + 1e-8).

    Convention: groups are strided. With m groups, group j holds images j, j + m, j + 2m, ...

    Args:
        group_size: g, images per group; None (or a smaller batch) for the whole batch.
        num_channels: f, number of parts into which the channels are split, one map each.
    """

    def __init__(self, group_size: int | None = 4, num_channels: int = 1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] -> [b c+f h w].

        Raises:
            ValueError: group size and number of maps do not divide the batch and the channels.
        """
        b, c, h, w = x.shape
        group = b if self.group_size is None else min(self.group_size, b)
        if b % group or c % self.num_channels:
            raise ValueError(
                f"minibatch standard deviation got {b} images of {c} channels for groups of "
                f"{group} and {self.num_channels} maps; both must divide: change the batch size, "
                "group_size or mbstd_channels"
            )
        # In half precision the squares would overflow.
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        y = rearrange(y, "(g m) (f c) h w -> g m f c h w", g=group, f=self.num_channels)
        # Not torch.var: in float32 its second derivative (R1) has four times the error.
        std = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean([2, 3, 4])  # m f
        maps = repeat(std.to(x.dtype), "m f -> (g m) f h w", g=group, h=h, w=w)
        return torch.cat([x, maps], 1)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, num_channels={self.num_channels}"
