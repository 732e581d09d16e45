"""Schedules: functions of the images seen so far (kimg), never of optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass


def fraction(images_seen: int, fade_kimg: float) -> float:
    """min(n / (1000 fade_kimg), 1); 1 where there is nothing to fade."""
    return 1.0 if fade_kimg <= 0 else min(images_seen / (fade_kimg * 1000.0), 1.0)


@dataclass(frozen=True)
class Ramp:
    """A value that goes linearly from `initial` to `final` while the first `fade_kimg` thousand
    images are seen.

    Args:
        initial: value at the start; None where the model's own value is meant (no schedule).
        final: value after the fade; None keeps `initial`.
        fade_kimg: length of the fade in thousands of images.
    """

    initial: float | None = None
    final: float | None = None
    fade_kimg: float = 1000.0

    def at(self, images_seen: int) -> float | None:
        if self.initial is None or self.final is None:
            return self.initial
        alpha = fraction(images_seen, self.fade_kimg)
        return self.initial * (1.0 - alpha) + self.final * alpha


def crossed(images_before: int, images_after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after]: an event's due time, without any
    state.
    """
    if every_kimg <= 0:
        return False
    every = every_kimg * 1000.0
    return int(images_after // every) > int(images_before // every)
