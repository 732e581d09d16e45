"""Adam with the correction for lazy regularisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Adam:
    """Adam as the StyleGAN family uses it.

    A regulariser that runs every k-th iteration adds one optimiser step to k: with c = k / (k + 1) the learning rate
    becomes c lr and each beta becomes beta^c (StyleGAN2, appendix B).

    Args:
        lr: learning rate before the correction.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    lr: float = 0.0025
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8

    def build(self, parameters: Iterable[nn.Parameter], lazy_interval: int = 0) -> torch.optim.Adam:
        """The optimiser. `lazy_interval` is k above; 0 where no regulariser has a step of its own."""
        c = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
        return torch.optim.Adam(parameters, lr=self.lr * c, betas=(self.beta1**c, self.beta2**c), eps=self.eps)
