"""The progress of a training: one line in kimg, and once, when it will end."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from gan3d.training import tolerance
from gan3d.training.callbacks.periodic import forget_later, images_seen
from gan3d.training.callbacks.time_limit import time_limit

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

log = logging.getLogger(__name__)

# The first iterations are slow: they allocate, and they follow the first pictures. The rate counts
# from the end of them, and is not shown before TELLING iterations.
WARM_UP, TELLING = 3, 20


class Pace:
    """Images per second of this session, pictures and evaluation included.

    Attributes:
        rate: None until enough iterations have passed.
    """

    def __init__(self) -> None:
        self.iterations = 0
        self._began, self._first = 0.0, 0
        self.rate: float | None = None

    def step(self, seen: int) -> None:
        """To be called after each iteration."""
        self.iterations += 1
        now = time.monotonic()
        if self.iterations <= WARM_UP:
            self._began, self._first = now, seen
        elif self.iterations >= TELLING:
            self.rate = (seen - self._first) / max(now - self._began, 1e-9)


class KimgProgressBar(ProgressBar):
    """One line: kimg of the total, images per second, time left, losses.

    The rate is that of this session. Where stderr is no terminal, a line is printed every
    `print_seconds` instead. After twenty iterations a message says when the run will end.

    Args:
        refresh_seconds: between two updates of the bar.
        print_seconds: between two lines where there is no terminal.
    """

    def __init__(self, refresh_seconds: float = 0.5, print_seconds: float = 30.0):
        super().__init__()
        self.refresh_seconds, self.print_seconds = refresh_seconds, print_seconds
        self._enabled, self._bar = True, None
        self._shown, self._pace = 0.0, Pace()

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        tolerance.begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown, self._pace = time.monotonic(), Pace()
        first = images_seen(pl_module)
        forget_later(trainer, first)
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=cast("GAN", pl_module).run.total_kimg,
                initial=first / 1000,
                bar_format="{percentage:3.0f}% |{bar}| {desc}",
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pace.step(images_seen(pl_module))
        if self._enabled and self._pace.iterations == TELLING:
            self._foretell(trainer, pl_module)
        pause = self.print_seconds if self._bar is None else self.refresh_seconds
        if self._enabled and time.monotonic() - self._shown >= pause:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            self._show(trainer, pl_module)
        self._close()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tolerance.conclude()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = time.monotonic()
        seen, total = images_seen(pl_module), cast("GAN", pl_module).run.total_kimg
        limit = time_limit(trainer)
        line = progress_line(
            seen,
            total,
            self._pace.rate,
            None if limit is None else limit.seconds_left,
            trainer.callback_metrics,
        )
        if self._bar is None:
            print(f"{seen / 10 / total:3.0f}% | {line}", file=sys.stderr, flush=True)
            return
        self._bar.n = min(seen / 1000, total)
        self._bar.set_description_str(line)

    def _foretell(self, trainer: Trainer, pl_module: LightningModule) -> None:
        limit = time_limit(trainer)
        log.info(
            "%s",
            forecast(
                images_seen(pl_module),
                cast("GAN", pl_module).run.total_kimg,
                self._pace.rate or 0.0,
                None if limit is None else limit.seconds_left,
                datetime.now(),
            ),
        )


def progress_line(
    seen: int,
    total_kimg: float,
    rate: float | None,
    limit: float | None,
    metrics: Mapping[str, Any],
) -> str:
    """`12.3/100 kimg, 450 images/s, 3:15 left, G 0.81, D 1.20, face +0.31, turn 0.42`.

    Args:
        seen: images seen.
        total_kimg: length of the run.
        rate: images per second; None is not known yet.
        limit: seconds until the session is stopped.
        metrics: with the losses, and of procedural heads the slope of the face's relief (1 right, 0
            flat, -1 hollow) and their turn (1 right, 0 none).
    """
    parts = [f"{seen / 1000:.{_digits(total_kimg, rate)}f}/{total_kimg:g} kimg"]
    if rate:
        left = max(total_kimg * 1000 - seen, 0) / rate
        is_cut = limit is not None and limit < left
        parts += [
            _speed(rate),
            f"{tqdm.format_interval(limit if is_cut else left)} left" + " of max_time" * is_cut,
        ]
    for letter, name in (("G", "loss/generator"), ("D", "loss/discriminator")):
        if name in metrics:
            parts.append(f"{letter} {float(metrics[name]):.2f}")
    if "heads/face_slope" in metrics:
        parts.append(f"face {float(metrics['heads/face_slope']):+.2f}")
        parts.append(f"turn {float(metrics['heads/turn']):.2f}")
    return ", ".join(parts)


def _digits(total_kimg: float, rate: float | None) -> int:
    """Decimals of kimg, from 0 to 3: three figures of the total, or as many as move within two
    seconds.
    """
    figures = 3 - math.ceil(math.log10(total_kimg))
    moving = math.ceil(-math.log10(rate * 2 / 1000)) if rate else 3
    return max(0, min(3, max(figures, moving)))


def _speed(rate: float) -> str:
    return f"{rate:.3g} images/s" if rate < 100 else f"{rate:.0f} images/s"


def forecast(seen: int, total_kimg: float, rate: float, limit: float | None, now: datetime) -> str:
    """When a session ends, in a sentence. Arguments as of `progress_line`."""
    left = max(total_kimg * 1000 - seen, 0) / max(rate, 1e-9)
    speed = f"about {_speed(rate)}: "
    if limit is None or left <= limit:
        return f"{speed}{total_kimg:g} kimg will be done {_moment(now, left)}"
    reached = (seen + rate * limit) / 1000
    return (
        f"{speed}--trainer.max_time will stop it {_moment(now, limit)}, at about {reached:.3g} of "
        f"{total_kimg:g} kimg ({reached / total_kimg:.0%}); the whole run takes "
        f"{tqdm.format_interval(left)}"
    )


def _moment(now: datetime, seconds: float) -> str:
    when = now + timedelta(seconds=seconds)
    clock = f"{when:%H:%M}" if when.date() == now.date() else f"{when:%a %d %b %Y, %H:%M}"
    return f"in {tqdm.format_interval(seconds)}, about {clock}"
