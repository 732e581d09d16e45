"""Loss scaling: gradients of float16, which has nothing between 0 and 6e-8 and ends at 65504.

A phase with the scale S of that moment, and with a gradient inside of it (R1, path lengths):

    g' = d(S D) / dx,   g = g' / S                         inside, where there is such a gradient
    backward(S loss)    d(S loss) / dp, over all parts, averaged over the processes
    / S                 norm, clipping and step see the gradient itself
    step                unless a gradient is infinite; then S <- S / 2, on all processes alike
    S <- 2 S            after 2000 steps in a row

S and its course are torch.amp.GradScaler's, which Lightning makes for `--trainer.precision
16-mixed` and keeps in its checkpoints. Nothing here waits for the device: the fused Adam skips a
step by itself, and what was skipped is seen in what an iteration reads at its end.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SCALE, SKIPPED = "float16/scale", "float16/skipped"


class LossScale:
    """The scale of the losses, the same throughout a phase.

    Args:
        scaler: of the run; None is a run without scaling, in which nothing here computes anything.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None = None):
        self._scaler = scaler
        self._now: Tensor | None = None

    def start(self, device: torch.device) -> Tensor | None:
        """A phase begins; the scale that it has, a scalar on the device, None without scaling."""
        if self._scaler is not None:
            self._now = self._scaler.scale(torch.ones((), device=device))
        return self._now

    def up(self, value: Tensor) -> Tensor:
        """What a backward pass inside of a phase begins with."""
        return value if self._now is None else value * self._now

    def down(self, value: Any, power: int = 1) -> Any:
        """What was computed from such a pass, in whose result the scale is to some power."""
        return value if self._now is None else value / self._now**power

    def of_backward(self, share: float) -> Tensor | float:
        """What the harness multiplies each scalar with, before it runs backward."""
        return share if self._now is None else share * self._now

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients of an optimizer's parameters by the scale; if one of them is not
        finite, the step that follows is skipped.
        """
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)


def without_overflow(values: dict[str, float]) -> dict[str, float]:
    """What an iteration logged, less what is infinite because a step was skipped.

    Args:
        values: by name; the norms of gradients are `gradient/..`, and `SCALE` is the scale at the
            beginning of the iteration.

    Returns:
        values with `SKIPPED`, 1 or 0. Without scaling, and where nothing is left to scale down, all
        as they are: what is infinite then ends the run.
    """
    if SCALE not in values:
        return values
    skipped = any(
        name.startswith("gradient/") and not math.isfinite(v) for name, v in values.items()
    )
    if skipped and values[SCALE] > 1:
        values = {name: value for name, value in values.items() if math.isfinite(value)}
    return values | {SKIPPED: float(skipped)}
