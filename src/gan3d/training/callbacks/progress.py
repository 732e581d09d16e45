"""The progress bar of a training: one line in kimg."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from gan3d.training.callbacks.periodic import (
    forget_later,
    images_seen,
)

if TYPE_CHECKING:
    from gan3d.training.gan import GAN


class KimgProgressBar(ProgressBar):
    """One line: kimg of the total, images per second, time left, losses.

    The rate is that of this session, pictures and evaluation included. Where stderr is no terminal,
    a line is printed every `print_seconds` instead.

    Args:
        refresh_seconds: between two updates of the bar.
        print_seconds: between two lines where there is no terminal.
    """

    def __init__(self, refresh_seconds: float = 0.5, print_seconds: float = 30.0):
        super().__init__()
        self.refresh_seconds, self.print_seconds = refresh_seconds, print_seconds
        self._enabled, self._bar = True, None
        self._began, self._shown, self._first = 0.0, 0.0, 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._shown = time.monotonic()
        self._first = images_seen(pl_module)
        forget_later(trainer, self._first)
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=cast("GAN", pl_module).run.total_kimg,
                initial=self._first / 1000,
                bar_format="{percentage:3.0f}% |{bar}| {desc}",
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pause = self.print_seconds if self._bar is None else self.refresh_seconds
        if self._enabled and time.monotonic() - self._shown >= pause:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            self._show(trainer, pl_module)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = time.monotonic()
        seen, total = images_seen(pl_module), cast("GAN", pl_module).run.total_kimg
        line = progress_line(
            seen, self._first, total, self._shown - self._began, trainer.callback_metrics
        )
        if self._bar is None:
            print(f"{seen / 10 / max(total, 1e-9):3.0f}% | {line}", file=sys.stderr, flush=True)
            return
        self._bar.n = min(seen / 1000, total)
        self._bar.set_description_str(line)


def progress_line(
    seen: int, first: int, total_kimg: float, seconds: float, metrics: Mapping[str, Any]
) -> str:
    """`12.3/100 kimg, 450 images/s, 3:15 left, G 0.81, D 1.20`, the rate being that of images
    `first` to `seen`.
    """
    digits = max(0, min(3, 3 - math.ceil(math.log10(max(total_kimg, 1e-9)))))
    parts = [f"{seen / 1000:.{digits}f}/{total_kimg:g} kimg"]
    rate = (seen - first) / max(seconds, 1e-9)
    if rate > 0:
        left = max(total_kimg * 1000 - seen, 0) / rate
        parts += [
            f"{rate:.3g} images/s" if rate < 100 else f"{rate:.0f} images/s",
            f"{tqdm.format_interval(left)} left",
        ]
    for letter, name in (("G", "loss/generator"), ("D", "loss/discriminator")):
        if name in metrics:
            parts.append(f"{letter} {float(metrics[name]):.2f}")
    return ", ".join(parts)
