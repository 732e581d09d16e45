"""Stages of a progressive run: settings that hold from some kimg on.

Convention: a stage is a function of the images seen, so a resumed run stands where it stood.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from gan3d.schedules import fraction


@dataclass(frozen=True)
class Stage:
    """Settings from `from_kimg` on until the next stage begins; None keeps the run's own.

    Attributes:
        from_kimg: thousands of images seen when it begins; 0 for the first stage.
        resolution: side of the images rendered and judged; real images are shrunk to it.
        fade_kimg: kimg over which the discriminator's newest block fades in.
        batch_size: images per iteration, over all processes.
        micro_batch_size: images per forward pass and process.
        lr_g: learning rate of the generator.
        lr_d: learning rate of the discriminator.
        gamma: weight of R1.
        num_rays: rays that carry gradient (`--model.rays`).
        judge_raw: whether the raw (auxiliary) image is judged.
        diffaug: whether DiffAugment is on.
        freeze: parts of the generator that stay as the average has them (`--model.run.freeze`).
    """

    from_kimg: float = 0.0
    resolution: int | None = None
    fade_kimg: float = 0.0
    batch_size: int | None = None
    micro_batch_size: int | None = None
    lr_g: float | None = None
    lr_d: float | None = None
    gamma: float | None = None
    num_rays: int | None = None
    judge_raw: bool = True
    diffaug: bool | None = None
    freeze: str | list[str] | None = None

    def fade(self, images_seen: int) -> float:
        """Share of the newest block, 0 at the beginning of the stage and 1 after `fade_kimg`."""
        return fraction(max(images_seen - round(self.from_kimg * 1000), 0), self.fade_kimg)


class Stages:
    """The stages of a run, in order.

    Args:
        stages: none is one stage with nothing of its own.

    Raises:
        ValueError: the first does not begin at 0, or they are not in order.
    """

    def __init__(self, stages: Sequence[Stage] | None = None):
        self.stages = tuple(stages or (Stage(),))
        starts = [stage.from_kimg for stage in self.stages]
        if starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
            raise ValueError(
                f"stages begin at {starts} kimg; the first must begin at 0, each other after the "
                "one before"
            )

    def index(self, images_seen: int) -> int:
        """Index of the stage of an iteration that begins at `images_seen`."""
        return sum(images_seen >= stage.from_kimg * 1000 for stage in self.stages) - 1

    def at(self, images_seen: int) -> Stage:
        return self.stages[self.index(images_seen)]

    def __iter__(self):
        return iter(self.stages)


def names_of(freeze: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of parts, given as one text ("nerf", or "nerf,inr") or as several."""
    if freeze is None:
        return ()
    if isinstance(freeze, str):
        return tuple(name.strip() for name in freeze.split(","))
    return tuple(freeze)
