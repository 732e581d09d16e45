"""One row per run: what it is, and its final and best values."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from gan3d.apps.run_files import read_run
from gan3d.apps.summary import facts_of, ordered, values_of
from gan3d.training.loggers import DiskLogger, log_summary
from gan3d.training.tolerance import tolerated

if TYPE_CHECKING:
    from gan3d.training.gan import GAN


class Summary(Callback):
    """Gives every logger the row of the run when a session ends, however it ends.

    Final and best values are those of metrics.csv, so those of earlier sessions count, too.

    Args:
        config: name of the run's config.
    """

    def __init__(self, config: str):
        self.config = config
        self._begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(trainer, cast("GAN", pl_module))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._begun:
            self._say(trainer, cast("GAN", pl_module))

    def _say(self, trainer: Trainer, module: GAN) -> None:
        disk = next((one for one in trainer.loggers if isinstance(one, DiskLogger)), None)
        if disk is None or not trainer.is_global_zero:
            return
        with tolerated("the summary"):
            row = facts_of(module.generator, module.discriminator, self.config)
            row |= values_of(read_run(disk.metrics.path.parent).columns)
            log_summary(trainer.loggers, ordered(row))
