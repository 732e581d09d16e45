"""The EMA generator in a browser while it trains."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from gan3d.apps.looks import Exhibit
from gan3d.apps.turns import ServedTurns
from gan3d.apps.viewer import HOST, Viewer
from gan3d.camera import frontal
from gan3d.training.callbacks.periodic import fixed_draws
from gan3d.training.sharding import is_sharded

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

log = logging.getLogger(__name__)

NAME = "the average in training"


class LiveView(Callback):
    """A page for browsers (gan3d.apps.viewer) that shows the EMA generator while it trains.

    Frames are rendered between two iterations, in the thread that trains, and only for browsers
    that are open: a frame for each that moves, else one every few seconds. No parameter and no
    draw depends on them. The first process serves.

    Args:
        port: of the page.
        host: address that is listened on; 127.0.0.1 is this machine alone.
        every_seconds: a browser at rest sees the generator of that moment.
    """

    def __init__(self, port: int = 8080, host: str = HOST, every_seconds: float = 3.0):
        self.port, self.host, self.every_seconds = port, host, every_seconds
        self.viewer: Viewer | None = None
        self._shown_at = 0.0  # seconds of time.monotonic

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_sharded(cast("GAN", pl_module).generator_ema):
            raise ValueError(
                "--view shows the average of one process at any time, and here it is sharded over "
                "all of them; leave --view out, or set --trainer.strategy gan_ddp"
            )
        if trainer.is_global_zero:
            self._open(cast("GAN", pl_module))
            assert self.viewer is not None
            log.info("look at it while it trains: %s", self.viewer.url)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.viewer is None:
            return
        module = cast("GAN", pl_module)
        if module.resolution_now() != self.viewer.gallery.exhibits[0].resolution:
            self.close()
            self._open(module)  # browsers come back by themselves
        if self.viewer.sessions and time.monotonic() - self._shown_at >= self.every_seconds:
            self.viewer.gallery.forget()
            self.viewer.ask_again()
            self._shown_at = time.monotonic()
        self.turns.serve()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the page."""
        if self.viewer is not None:
            self.viewer.close()
        self.viewer = None

    def _open(self, module: GAN) -> None:
        generator = module.generator_ema
        exhibit = Exhibit(NAME, generator, resolution=module.resolution_now())
        cameras = module.sample_cameras(fixed_draws(module, range(16), "snapshot"))
        if generator.has_camera and cameras is not None:
            front = frontal(cameras)
            radius, fov = float(front.origins[0].norm()), float(front.fov[0])
            exhibit = Exhibit(NAME, generator, radius, fov, exhibit.resolution)
        self.turns = ServedTurns()
        self.viewer = Viewer([exhibit], port=self.port, host=self.host, turns=self.turns)
