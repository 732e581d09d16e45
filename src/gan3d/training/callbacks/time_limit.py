"""A time after which a session of training ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


class TimeLimit(Timer):
    """Stops training after some time, checkpoint and last pictures not included.

    Unlike Lightning's Timer, it counts this session alone: nothing of it is in a checkpoint, so
    that a resumed run has its own limit.

    Args:
        duration: DD:HH:MM:SS, a timedelta, or a dictionary of its arguments.
    """

    def __init__(self, duration: str | timedelta | dict[str, int]):
        super().__init__(duration, verbose=False)

    @property
    def seconds_left(self) -> float:
        left = self.time_remaining()
        assert left is not None
        return max(left, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {}


def time_limit(trainer: Trainer) -> TimeLimit | None:
    """The limit of a session, where it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, TimeLimit)), None)  # type: ignore[attr-defined]
