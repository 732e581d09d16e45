"""Adam with the correction for lazy regularization."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FUSED = ("cpu", "cuda")  # devices where one kernel makes the whole step


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

    def build(self, parameters: Sequence[nn.Parameter], lazy_interval: int = 0) -> torch.optim.Adam:
        """The optimizer; `lazy_interval` is k above, 0 if no regularizer has its own step.

        On a CPU and on CUDA one fused kernel makes a step of all parameters, elsewhere it is a
        series of operations: the same to rounding. State of either goes on with the other.
        """
        fused = all(p.device.type in FUSED and p.is_floating_point() for p in parameters)
        form: dict[str, Any] = {"fused": fused, "foreach": None}
        optimizer = torch.optim.Adam(parameters, **self._numbers(None, lazy_interval), **form)

        def keep_form(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            return state | {"param_groups": [group | form for group in state["param_groups"]]}

        optimizer.register_load_state_dict_pre_hook(keep_form)
        return optimizer

    def adjust(
        self, optimizer: torch.optim.Optimizer, lr: float | None, lazy_interval: int = 0
    ) -> None:
        """Gives an optimizer the numbers of this one, in place of those of a checkpoint.

        Args:
            optimizer: made by `build`.
            lr: learning rate before the correction, of a stage; None is this one's own.
            lazy_interval: as of `build`.
        """
        for group in optimizer.param_groups:
            group.update(self._numbers(lr, lazy_interval))

    def _numbers(self, lr: float | None, lazy_interval: int) -> dict[str, Any]:
        c = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
        return {
            "lr": (self.lr if lr is None else lr) * c,
            "betas": (self.beta1**c, self.beta2**c),
            "eps": self.eps,
        }

    def clip(self, parameters: Iterable[nn.Parameter]) -> None:
        """Scales gradients down where their common norm is above `clip_norm`."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
