"""Exponential moving average of the generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan3d.training.sharding import parts


@dataclass(frozen=True)
class EMA:
    """theta_ema <- theta + beta (theta_ema - theta), beta = 0.5^(batch / half-life).

    As in StyleGAN2-ADA and EG3D.

    Args:
        half_life_kimg: images (in thousands) after which an old weight counts one half. EG3D: batch
            * 10 / 32.
        ramp_up: the half-life is at most this fraction of the images seen; 0 is no ramp-up.
        start_kimg: thousands of images until which the average is the generator itself. CIPS-3D:
            batch * 1000 / 1000. unlike cips3d: its average stays at the *initial* weights until
            then, and takes as long to forget them.
    """

    half_life_kimg: float = 10.0
    ramp_up: float = 0.05
    start_kimg: float = 0.0

    def beta(self, images_seen: int, batch_size: int) -> float:
        """Share of the old average that stays; `images_seen` is the count before this batch."""
        if images_seen < self.start_kimg * 1000:
            return 0.0
        half_life = self.half_life_kimg * 1000.0
        if self.ramp_up > 0:
            half_life = min(half_life, images_seen * self.ramp_up)
        return 0.5 ** (batch_size / max(half_life, 1e-8))

    @torch.no_grad()
    def update(
        self, average: nn.Module, network: nn.Module, *, images_seen: int, batch_size: int
    ) -> None:
        """Moves the parameters of `average`; copies all buffers (w_avg, noise, magnitudes)."""
        beta = self.beta(images_seen, batch_size)
        old: list[Tensor] = parts(average.parameters())
        new: list[Tensor] = parts(network.parameters())
        # p_ema + (1 - beta) (p - p_ema): the same as above, in one multi-tensor call.
        torch._foreach_lerp_(old, new, 1.0 - beta)
        kept: list[Tensor] = list(average.buffers())
        if kept:
            torch._foreach_copy_(kept, list(network.buffers()))
