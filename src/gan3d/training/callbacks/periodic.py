"""Callbacks: what a user sees of a run while it trains. Progress, times and file names count
images, not steps.

An event is due when a multiple of its interval lies among the images of the last iteration: a
function of images seen alone, so that a resumed run neither repeats nor skips one. No callback
draws from a global random stream or changes
the state of a network: training is bit for bit the same with and without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from gan3d.host import number
from gan3d.randomness import Randomness
from gan3d.schedules import crossed
from gan3d.training.loggers import DiskLogger
from gan3d.training.sharding import whole
from gan3d.training.tolerance import tolerated

if TYPE_CHECKING:
    from gan3d.training.gan import GAN


def images_seen(pl_module: LightningModule) -> int:
    """By the run, as the host knows them."""
    return int(number(cast("GAN", pl_module).images_seen))


def is_last(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether no iteration follows this one, as far as images and steps decide."""
    over = images_seen(pl_module) >= cast("GAN", pl_module).run.total_kimg * 1000
    return over or 0 <= trainer.max_steps <= trainer.global_step


def forget_later(trainer: Trainer, step: int) -> None:
    """Drops what an interrupted run has logged after the images from which this one goes on."""
    for logger in trainer.loggers:
        if isinstance(logger, DiskLogger):
            logger.truncate(step)


# Images seen before the last iteration of a checkpoint, in its content.
BEFORE_KEY = "gan3d_images_before"


class PeriodicCallback(Callback, ABC):
    """Something done at the start of a run, every `every_kimg` thousand images, and at its end.

    A checkpoint is saved before it is done at the same images: a run that goes on from there does
    it first. While it is done every process has whole networks, however they are sharded: what only
    the first process does needs none of the others.
    """

    def __init__(self, every_kimg: float):
        if every_kimg <= 0:
            raise ValueError(
                f"every_kimg {every_kimg} is not positive; leave the callback out to have none of "
                "it"
            )
        self.every_kimg = every_kimg
        self.name = type(self).__name__
        self._before = 0
        self._resumed_before: int | None = None
        self._done_at: int | None = None
        self._follows_iteration = False  # and is not at the start or the end of a session

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        """Does it; `seen` images were seen."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before, self._done_at = images_seen(pl_module), None
        forget_later(trainer, self._before)
        if self._before == 0:
            self._act(trainer, pl_module, 0)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed_before = checkpoint.get(BEFORE_KEY)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not in on_train_start, where Lightning refuses metrics of a step.
        last, self._resumed_before = self._resumed_before, None
        if last is not None and crossed(last, self._before, self.every_kimg):
            self._act(trainer, pl_module, self._before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._before = self._before, images_seen(pl_module)
        # What is due after the last iteration is left to on_train_end: done once, and known to be
        # final.
        if crossed(before, self._before, self.every_kimg) and not is_last(trainer, pl_module):
            self._follows_iteration = True
            self._act(trainer, pl_module, self._before)
            self._follows_iteration = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done_at != images_seen(pl_module):
            self._act(trainer, pl_module, images_seen(pl_module), final=True)
        else:
            with self._whole(pl_module), tolerated(self.name):
                self.conclude(trainer, pl_module, images_seen(pl_module))

    def conclude(self, trainer: Trainer, pl_module: LightningModule, seen: int) -> None:
        """What is still to do at the end where the last act was not known to be the last
        (--trainer.max_time).
        """

    def _act(
        self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool = False
    ) -> None:
        self._done_at = seen
        with self._whole(pl_module), tolerated(self.name):
            self.act(trainer, pl_module, seen, final)

    def networks(self, module: GAN) -> tuple[nn.Module, ...]:
        """Those that are shown."""
        return (module.generator_ema,)

    def _whole(self, pl_module: LightningModule) -> AbstractContextManager[None]:
        return whole(*self.networks(cast("GAN", pl_module)))


def fixed_draws(module: GAN, indices: range | list[int], phase: str) -> Randomness:
    """Fixed draws for looking at a run: the same in every run, whatever its seed."""
    return Randomness(
        0, indices, phase, device=module.device, dtype=cast(torch.dtype, module.dtype)
    )
