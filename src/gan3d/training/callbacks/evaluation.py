"""Frechet distance of the EMA generator to held-out images while it trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from gan3d.apps.samples import picture
from gan3d.apps.views import render_views, repeated
from gan3d.camera import frontal
from gan3d.generators.contract import Rendering
from gan3d.layers.resize import filtered_resizing
from gan3d.metrics import FrechetDistance, SmallFeatures
from gan3d.training.callbacks.periodic import (
    PeriodicCallback,
    fixed_draws,
    forget_later,
    images_seen,
)
from gan3d.training.loggers import log_metrics, log_pictures
from gan3d.training.tolerance import is_tolerable

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

log = logging.getLogger(__name__)

SHOWN = 16  # real images in the picture


class Evaluation(PeriodicCallback):
    """Frechet distance of the EMA generator's images to held-out real ones, with fixed z and
    cameras.

    Logs `distance/frechet`, of images conditioned on the camera that renders them (`same`), and of
    3D models `distance/frechet_3d`: conditioned on the frontal camera, rendered from the same
    cameras (`3d`; the same number where the generator is given no camera).

    At the start of a run it logs `distance/floor` (one half of the reals against the other: what
    perfect fakes would get, or a little more, as the halves are smaller) and `distance/mean_image`
    (the mean real image: what ignoring z would get), and a picture of some `reals`. As many fakes
    as reals are used; compare numbers at equal n only. The fakes are shared out over the processes
    and rounded to 8 bits, like the reals. In a stage of lower resolution, fakes are made and reals
    are shrunk to it, and floor, mean image and picture are logged again: numbers of different
    stages do not compare.

    Args:
        every_kimg: between two evaluations.
        num_images: of the held-out images; all of them if they are fewer.
        batch_size: fakes rendered at once.
        features: [b 3 H W] in [-1, 1] -> [b c]; None are `SmallFeatures` (whose distance is not the
            FID).
    """

    def __init__(
        self,
        every_kimg: float = 200.0,
        num_images: int = 2000,
        batch_size: int = 16,
        features: nn.Module | None = None,
    ):
        super().__init__(every_kimg)
        self.num_images, self.batch_size = num_images, batch_size
        self.features = features or SmallFeatures()
        self._num_real = 0
        self._floor_side = 0  # of the images whose floor was logged last

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        refuse_too_few(min(getattr(data, "heldout", 0), self.num_images))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, seen = cast("GAN", pl_module), images_seen(pl_module)
        forget_later(trainer, seen)
        if seen > 0:  # the last evaluation was before the checkpoint
            before = seen if self._resumed_before is None else self._resumed_before
            every = self.every_kimg * 1000
            self._floor_side = image_side(module, int(before // every * every))
        self._see_reals(trainer, module, log_floor=seen == 0)
        super().on_train_start(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        if self._num_real == 0:
            return
        if self._floor_side != image_side(cast("GAN", pl_module), seen):  # another stage has begun
            self._see_reals(trainer, cast("GAN", pl_module), log_floor=True)
        module = cast("GAN", pl_module)
        value = self._of_fakes(trainer, module)
        log_metrics(trainer.loggers, {"distance/frechet": value}, seen)
        if self._follows_iteration:  # Lightning allows it only then
            # for ModelCheckpoint(monitor="distance/frechet")
            pl_module.log("distance/frechet", value, logger=False, on_step=True, on_epoch=False)
        if (generator := module.generator_ema).has_camera:
            if generator.camera_conditioned:  # else the images are the same
                value = self._of_fakes(trainer, module, is_frontal=True)
            log_metrics(trainer.loggers, {"distance/frechet_3d": value}, seen)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.distance = self._distance(cast("GAN", pl_module))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """`validate` and `test`: all held-out images against as many fakes."""
        fakes = outputs["image"]
        self.distance.update(shrunk(batch.image, fakes.shape[-1]), real=True)
        self.distance.update(rounded(fakes), real=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("distance/frechet", self.distance.compute().float(), rank_zero_only=True)

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _of_fakes(self, trainer: Trainer, module: GAN, is_frontal: bool = False) -> float:
        """The distance, of latents for the camera that renders or for the frontal one. Where a
        process fails, all fail together: none waits for the others.
        """
        self.distance.reset()
        failed: Exception | None = None
        try:
            self._see_fakes(trainer, module, is_frontal)
        except Exception as error:
            if not is_tolerable(error):
                raise
            failed = error
        if trainer.world_size > 1:
            flag = torch.tensor(float(failed is not None), device=module.device)
            if trainer.strategy.reduce(flag, reduce_op="sum") and failed is None:
                failed = OSError("it failed in another process")
        if failed is not None:
            raise failed
        try:
            return float(self.distance.compute())
        finally:
            if self.distance._is_synced:  # it failed, and holds the sums of all processes
                self.distance.unsync()

    def _see_fakes(self, trainer: Trainer, module: GAN, is_frontal: bool) -> None:
        """Fakes 0 to n - 1, each seen by one process: batches go round."""
        stride = self.batch_size * trainer.world_size
        for start in range(self.batch_size * trainer.global_rank, self._num_real, stride):
            draw = fixed_draws(
                module, range(start, min(start + self.batch_size, self._num_real)), "evaluation"
            )
            cameras = module.sample_cameras(draw)  # of a 2D model: its labels
            condition = cameras
            if is_frontal and cameras is not None:
                condition = repeated(frontal(cameras), len(cameras))
            fakes = render_views(
                module.generator_ema,
                draw.normal("z", module.generator_ema.z_dim),
                cameras if module.generator_ema.has_camera else None,
                conditioning=condition,
                resolution=module.resolution_now(),
                raw=False,
                batch_size=self.batch_size,
            ).image.to(module.device)
            self.distance.update(rounded(fakes), real=False)

    def _see_reals(self, trainer: Trainer, module: GAN, log_floor: bool) -> None:
        """Statistics of the reals, floor and mean image. Every process sees its own share of the
        reals.
        """
        rank, world_size = trainer.global_rank, trainer.world_size
        side = image_side(module, images_seen(module))
        self.distance = self._distance(module, reset_real=False)
        halves = self._distance(module)
        total, num = torch.zeros((1, 3, side, side), device=module.device), 0
        first = total.new_zeros(SHOWN, 3, side, side)
        with torch.random.fork_rng(devices=[]):  # the iterator of a DataLoader draws a seed
            for images in self._reals(trainer, len(range(rank, self.num_images, world_size))):
                images = shrunk(images.to(module.device), side)
                self.distance.update(images, real=True)
                place = rank + world_size * torch.arange(
                    num, num + len(images), device=module.device
                )
                shown = place < SHOWN
                first[place[shown]] = images[shown]
                for half in (0, 1):
                    halves.update(images[place % 2 == half], real=half == 0)
                total, num = total + images.sum(0, keepdim=True), num + len(images)
        counted = torch.tensor(num, device=module.device)
        self._num_real = int(trainer.strategy.reduce(counted, reduce_op="sum"))
        refuse_too_few(self._num_real)
        if self._num_real == 0:
            log.warning(
                "no images are held out, so there is no Frechet distance; set data.heldout to "
                "their number, such as --data.heldout 500"
            )
        elif log_floor:
            mean = trainer.strategy.reduce(total, reduce_op="sum") / self._num_real
            self.distance.update(torch.cat([mean, mean]), real=False)
            metrics = {
                "distance/floor": float(halves.compute()),
                "distance/mean_image": float(self.distance.compute()),
            }
            log_metrics(trainer.loggers, metrics, images_seen(module))
            first = trainer.strategy.reduce(first, reduce_op="sum")[: self._num_real]
            if trainer.is_global_zero:
                reals = picture(Rendering(first.cpu()))
                log_pictures(trainer.loggers, "reals", [reals], step=images_seen(module))
            self._floor_side = side

    def _distance(self, module: GAN, reset_real: bool = True) -> FrechetDistance:
        side = image_side(module, images_seen(module))
        return FrechetDistance(self.features, reset_real, side).to(module.device)

    @staticmethod
    def _reals(trainer: Trainer, limit: int) -> Iterator[Tensor]:
        """This process's held-out images, at most `limit`, in batches [b 3 H W]."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        for batch in [] if datamodule is None else datamodule.val_dataloader():
            if limit <= 0:
                return
            images = batch.image[:limit]
            yield images
            limit -= len(images)


def refuse_too_few(num_images: int) -> None:
    """Refuses so few held-out images that halves of them have no distance."""
    if 0 < num_images < 4:
        raise ValueError(
            f"Evaluation has {num_images} held-out images to compare with; hold out at least 4, "
            "better 1000 (--data.heldout, --evaluation.num_images)"
        )


def image_side(module: GAN, images_seen: int) -> int:
    """Side of the average's images after `images_seen` images."""
    generator = module.generator_ema
    side = module.resolution_at(images_seen) if generator.any_resolution else None
    return side or generator.img_resolution


def shrunk(images: Tensor, side: int) -> Tensor:
    """Real images [b 3 H W] at the side of a stage, as in training."""
    return images if images.shape[-1] == side else filtered_resizing(images, side)


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8 bits store them."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
