"""Adam with the correction for lazy regularization."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Adam:
    """Adam as the StyleGAN family uses it.

    A regularizer that runs every k-th iteration adds one optimizer step to k: with c = k / (k + 1)
    the learning rate becomes c lr and each beta becomes beta^c (StyleGAN2, appendix B).

    Args:
        lr: learning rate before the correction.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        clip_norm: largest norm of all gradients together; larger ones are scaled down. None: no
            clipping.
    """

    lr: float = 0.0025
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"lr is {self.lr}; expected a learning rate of 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(
                f"clip_norm {self.clip_norm} is not positive; null is without clipping"
            )

    def build(self, parameters: Iterable[nn.Parameter], lazy_interval: int = 0) -> torch.optim.Adam:
        """The optimizer; `lazy_interval` is k above, 0 if no regularizer has its own step."""
        c = _correction(lazy_interval)
        return torch.optim.Adam(
            parameters, lr=self.lr * c, betas=(self.beta1**c, self.beta2**c), eps=self.eps
        )

    def set_rate(
        self, optimizer: torch.optim.Optimizer, rate: float | None, lazy_interval: int = 0
    ) -> None:
        """Sets the learning rate before the correction; None is the optimizer's own."""
        for group in optimizer.param_groups:
            group["lr"] = (self.lr if rate is None else rate) * _correction(lazy_interval)

    def clip(self, parameters: Iterable[nn.Parameter]) -> None:
        """Scales gradients down where their common norm is above `clip_norm`."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)


def _correction(lazy_interval: int) -> float:
    return lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
