"""Guards: a run that goes wrong says so, and says what went wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gan3d.training.sharding import norms

REMEDIES = "Try a larger --model.r1.gamma, a smaller learning rate, or --trainer.precision 32-true."


class NonFiniteError(ArithmeticError):
    """A loss or a gradient became NaN or infinite."""


class GradientWatch:
    """Remembers the gradient norms of each phase on the device, to be read once per iteration."""

    def __init__(self) -> None:
        self._norms: list[tuple[str, nn.Module, list[nn.Parameter], Tensor]] = []

    def watch(
        self, phase: str, network: nn.Module, parameters: Iterable[nn.Parameter] | None = None
    ) -> Tensor:
        """The norm of all gradients of a network, a scalar still on the device.

        Args:
            phase: its name.
            network: the network; its names are looked up only where something went wrong.
            parameters: those of the network that may have a gradient; None are all of them.
        """
        among = network.parameters() if parameters is None else parameters
        gradients = {p: p.grad for p in among if p.grad is not None}
        if not gradients:
            raise RuntimeError(f"phase {phase}: no parameter received a gradient")
        each = norms(list(gradients.values()))
        self._norms.append((phase, network, list(gradients), each))
        return each.square().sum().sqrt()

    def check(self, values: dict[str, float], images_seen: int, seeds: Sequence[int] = ()) -> None:
        """Raises if a value is not finite, naming the first culprit in the order of computation."""
        bad_values = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad_values:
            return
        where = [
            f"{phase}: gradient of {names[parameter]}"
            for phase, network, seen, each in self._norms
            for names in [{p: name for name, p in network.named_parameters()}]
            for parameter, finite in zip(seen, torch.isfinite(each).tolist(), strict=True)
            if not finite
        ]
        culprits = ", ".join(bad_values[:4]) + (
            f"; first bad gradients: {', '.join(where[:3])}" if where else ""
        )
        raise NonFiniteError(
            f"the run stopped at {images_seen / 1000:.3f} kimg: {culprits} is not finite (images "
            f"{min(seeds, default=images_seen)}..{max(seeds, default=images_seen)} of the run). "
            f"{REMEDIES} Then go on from the last checkpoint, if there is one: --ckpt_path last."
        )
