"""Callbacks: what a user sees of a run while it trains. Progress, times and file names count images, not steps.

An event is due when a multiple of its interval lies among the images of the last iteration: a function of images seen
alone, so that a resumed run neither repeats nor skips one. No callback draws from a global random stream or changes
the state of a network: training is bit for bit the same with and without them.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from einops import rearrange
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from PIL import Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from gan3d.apps.pictures import grid, side_by_side, to_uint8
from gan3d.apps.video import orbit_video
from gan3d.apps.views import frontal, orbit_like, render_views, repeated
from gan3d.camera import Camera
from gan3d.generators.contract import Rendering
from gan3d.loggers import DiskLogger, log_pictures, log_videos
from gan3d.metrics import FrechetDistance, SmallFeatures, camera_leak, flatness, z_sensitivity
from gan3d.randomness import Randomness
from gan3d.schedules import crossed

if TYPE_CHECKING:
    from gan3d.gan import GAN

log = logging.getLogger(__name__)


def images_seen(pl_module: LightningModule) -> int:
    return int(cast("GAN", pl_module).images_seen)


def is_last(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether no iteration follows this one, as far as images and steps decide."""
    over = images_seen(pl_module) >= cast("GAN", pl_module).total_kimg * 1000
    return over or 0 <= trainer.max_steps <= trainer.global_step


def log_everywhere(trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Gives metrics to all loggers, with images seen as the step."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


def forget_later(trainer: Trainer, step: int) -> None:
    """Drops what an interrupted run has logged after the images from which this one goes on."""
    for logger in trainer.loggers:
        if isinstance(logger, DiskLogger):
            logger.truncate(step)


def say(message: str) -> None:
    """A warning in the console that leaves the progress bar in one piece."""
    with tqdm.external_write_mode(file=sys.stderr):
        log.warning(message)


def is_sharded(network: nn.Module) -> bool:
    """Whether the weights are spread over processes, so that a forward pass needs all of them."""
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


class KimgProgressBar(ProgressBar):
    """One line: kimg of the total, images per second, time left, losses.

    The rate is that of this session, pictures and evaluation included. Where stderr is no terminal, a line is printed
    every `print_seconds` instead.

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
                total=cast("GAN", pl_module).total_kimg,
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

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = time.monotonic()
        seen, total = images_seen(pl_module), cast("GAN", pl_module).total_kimg
        line = progress_line(seen, self._first, total, self._shown - self._began, trainer.callback_metrics)
        if self._bar is None:
            print(f"{seen / 10 / max(total, 1e-9):3.0f}% | {line}", file=sys.stderr, flush=True)
            return
        self._bar.n = min(seen / 1000, total)
        self._bar.set_description_str(line)


def progress_line(seen: int, first: int, total_kimg: float, seconds: float, metrics: Mapping[str, Any]) -> str:
    """`12.3/100 kimg, 450 images/s, 3:15 left, G 0.81, D 1.20`, the rate being that of images `first` to `seen`."""
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


class Occasional(Callback, ABC):
    """Something done at the start of a run, every so many kimg, and at its end."""

    def __init__(self, every_kimg: float):
        if every_kimg <= 0:
            raise ValueError(f"every_kimg {every_kimg} is not positive; leave the callback out to have none of it")
        self.every_kimg = every_kimg
        self._before = 0
        self._done_at: int | None = None

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        """Does it, at so many images seen."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before, self._done_at = images_seen(pl_module), None
        forget_later(trainer, self._before)
        if self._before == 0:
            self._act(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._before = self._before, images_seen(pl_module)
        # What is due after the last iteration is left to on_train_end: done once, and known to be final.
        if crossed(before, self._before, self.every_kimg) and not is_last(trainer, pl_module):
            self._act(trainer, pl_module, self._before)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done_at != images_seen(pl_module):
            self._act(trainer, pl_module, images_seen(pl_module), final=True)
        else:
            self.conclude(trainer, pl_module, images_seen(pl_module))

    def conclude(self, trainer: Trainer, pl_module: LightningModule, seen: int) -> None:
        """What is still to do at the end where the last act was not known to be the last (--trainer.max_time)."""

    def _act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool = False) -> None:
        self._done_at = seen
        self.act(trainer, pl_module, seen, final)


@dataclass(frozen=True)
class AlarmLevels:
    """When a geometry alarm sounds.

    Args:
        after_kimg: not before; young generators are flat, all of them.
        flatness: relief below this many world units is flat (real heads at radius 2.7: 0.056).
        z_sensitivity: images of different z differing less than this, of a range of 2, are the same head.
        camera_leak: the conditioning camera changing the head this much, relative to z, is too much.
    """

    after_kimg: float = 1000.0
    flatness: float = 0.01
    z_sensitivity: float = 0.03
    camera_leak: float = 0.5


def alarms(values: Mapping[str, float], levels: AlarmLevels) -> dict[str, str]:
    """A plain sentence for each alarm that sounds, by its name."""
    sentences: dict[str, str] = {}
    flat = values.get("alarm/flatness", math.inf)
    same = values.get("alarm/z_sensitivity", math.inf)
    leak = values.get("alarm/camera_leak", 0.0)
    if flat < levels.flatness:
        sentences["alarm/flatness"] = (
            f"The heads are nearly flat (relief {flat:.4f} world units, alarm below {levels.flatness:g}): try another "
            "--model.r1.gamma (larger first), or condition the discriminator on the camera."
        )
    if same < levels.z_sensitivity:
        sentences["alarm/z_sensitivity"] = (
            f"Different z give nearly the same image (they differ by {same:.4f}, alarm below "
            f"{levels.z_sensitivity:g}): the generator collapses; try a larger --model.r1.gamma or a smaller learning "
            "rate of the generator."
        )
    if leak > levels.camera_leak:
        sentences["alarm/camera_leak"] = (
            f"The head changes with the conditioning camera, {leak:.2f} times as much as with z (alarm above "
            f"{levels.camera_leak:g}): condition the generator less, by a larger swap probability in "
            "--model.conditioning or by switching its camera conditioning off."
        )
    return sentences


class Snapshots(Occasional):
    """Pictures of the EMA generator with fixed z and cameras, an orbit video, and geometry alarms.

    Logs `fakes` (a grid), `layers` (raw | image | depth of every head, for models that have them), `orbit` (video) and
    `alarm/flatness`, `alarm/z_sensitivity`, `alarm/camera_leak`. Only the first process renders, unless the weights are
    sharded, when all must.

    Args:
        every_kimg: between two snapshots.
        num_heads: heads in the pictures.
        batch_size: heads rendered at once.
        video_every: a video with every so many-th snapshot and at the end; 0 is never.
        video_heads: heads in the video.
        video_frames: of one orbit, at 30 frames per second.
        video_yaw: largest angle of the orbit, radians.
        alarm: when to warn.
    """

    def __init__(
        self,
        every_kimg: float = 200.0,
        num_heads: int = 16,
        batch_size: int = 4,
        video_every: int = 10,
        video_heads: int = 4,
        video_frames: int = 90,
        video_yaw: float = 0.5,
        alarm: AlarmLevels = AlarmLevels(),
    ):
        super().__init__(every_kimg)
        if num_heads < 2:
            raise ValueError(f"num_heads {num_heads}: the alarms compare heads; use 2 or more")
        self.num_heads, self.batch_size = num_heads, batch_size
        self.video_every, self.video_heads, self.video_frames = video_every, video_heads, video_frames
        self.video_yaw, self.alarm = video_yaw, alarm
        self._sounding: set[str] = set()

    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        module = cast("GAN", pl_module)
        if not (trainer.is_global_zero or is_sharded(module.generator_ema)):
            return
        z, cameras = self._heads(module)
        view = self._views(module, z, cameras, conditioning=cameras)
        log_pictures(trainer.loggers, "fakes", [grid(to_uint8(view.image))], step=seen)
        if view.raw is not None or view.depth is not None:
            columns = 1 if self.num_heads < 6 else 2
            log_pictures(trainer.loggers, "layers", [grid(side_by_side(view), columns, gap=6)], step=seen)
        self._check(trainer, module, z, cameras, seen)
        if cameras is not None and self._wants_video(seen, final):
            self._video(trainer, module, z[: self.video_heads], cameras, seen)

    def conclude(self, trainer: Trainer, pl_module: LightningModule, seen: int) -> None:
        module = cast("GAN", pl_module)
        if not (trainer.is_global_zero or is_sharded(module.generator_ema)) or self._wants_video(seen, final=False):
            return
        z, cameras = self._heads(module)
        if cameras is not None and self.video_every:
            self._video(trainer, module, z[: self.video_heads], cameras, seen)

    def _heads(self, module: GAN) -> tuple[Tensor, Camera | None]:
        """The latents and cameras of every snapshot."""
        draw = module_draws(module, range(self.num_heads), "snapshot")
        z = draw.normal("z", module.generator_ema.z_dim)
        return z, module.sample_cameras(draw) if module.generator_ema.has_camera else None

    def _wants_video(self, seen: int, final: bool) -> bool:
        if not self.video_every:
            return False
        return final or (seen > 0 and round(seen // (self.every_kimg * 1000)) % self.video_every == 0)

    def _views(self, module: GAN, z: Tensor, cameras: Camera | None, conditioning: Camera | None) -> Rendering:
        return render_views(
            module.generator_ema,
            z,
            cameras,
            conditioning=conditioning,
            resolution=module.raw_resolution_now(),
            batch_size=self.batch_size,
        )

    def _check(self, trainer: Trainer, module: GAN, z: Tensor, cameras: Camera | None, seen: int) -> None:
        """Logs the alarms' values, and says which are new."""
        front = None if cameras is None else frontal(cameras)
        views = self._views(module, z, repeated(front, len(z)), repeated(front, len(z)))
        values = {"alarm/z_sensitivity": float(z_sensitivity(views.image))}
        if front is not None and views.depth is not None:
            on_cpu = front.select([0] * len(z)).to(views.depth.device)
            values["alarm/flatness"] = float(flatness(views.depth, views.opacity, on_cpu).mean())
        if front is not None and cameras is not None and module.generator_ema.camera_conditioned:
            num = min(4, len(z))
            every_z = z[:num].repeat_interleave(num, dim=0)
            conditioning = cameras.select(list(range(num)) * num)
            images = self._views(module, every_z, repeated(front, num * num), conditioning).image
            leak = camera_leak(rearrange(images, "(z c) k h w -> z c k h w", z=num))
            values["alarm/camera_leak"] = float(leak)
        log_everywhere(trainer, values, seen)
        sounding = alarms(values, self.alarm) if seen >= self.alarm.after_kimg * 1000 else {}
        if trainer.is_global_zero:
            for name in sounding.keys() - self._sounding:
                say(f"{seen / 1000:g} kimg: {sounding[name]}")
        self._sounding = set(sounding)

    def _video(self, trainer: Trainer, module: GAN, z: Tensor, cameras: Camera, seen: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "orbit.mp4"
            orbit_video(
                path,
                module.generator_ema,
                z,
                orbit_like(cameras, self.video_frames, yaw=self.video_yaw),
                conditioning=frontal(cameras),
                resolution=module.raw_resolution_now(),
                progress=trainer.is_global_zero and sys.stderr.isatty(),
            )
            log_videos(trainer.loggers, "orbit", [path], step=seen)


class Predictions(Callback):
    """Writes what `predict` draws: `<run>/predictions/<index>.png`, and a sheet with raw images and depth as well."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        folder = Path(trainer.default_root_dir) / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        indices = batch.index.tolist()
        for index, picture in zip(indices, to_uint8(outputs["image"]), strict=True):
            Image.fromarray(picture).save(folder / f"{index:06d}.png")
        Image.fromarray(grid(side_by_side(Rendering(**outputs)))).save(folder / f"sheet_{indices[0]:06d}.png")


def module_draws(module: GAN, indices: range | list[int], phase: str) -> Randomness:
    """Fixed draws for looking at a run: the same in every run, whatever its seed."""
    return Randomness(0, indices, phase, device=module.device, dtype=cast(torch.dtype, module.dtype))


class Evaluation(Occasional):
    """Frechet distance of the EMA generator's images to held-out real ones, with fixed z and cameras.

    Logs `distance/frechet`, and at the start of a run `distance/floor` (one half of the reals against the other:
    what perfect fakes would get, or a little more, as the halves are smaller) and `distance/mean_image` (the mean real
    image: what ignoring z would get). As many fakes as reals are used; compare numbers at equal n only. The fakes are
    shared out over the processes and rounded to 8 bits, like the reals.

    Args:
        every_kimg: between two evaluations.
        num_images: of the held-out images; all of them if they are fewer.
        batch_size: fakes rendered at once.
        features: [b 3 H W] in [-1, 1] -> [b c]; None are `SmallFeatures` (whose distance is not the FID).
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        forget_later(trainer, images_seen(pl_module))
        self._see_reals(trainer, cast("GAN", pl_module))
        super().on_train_start(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        if self._num_real == 0:
            return
        value = self._of_fakes(trainer, cast("GAN", pl_module))
        log_everywhere(trainer, {"distance/frechet": value}, seen)
        if not final and seen > 0:  # for ModelCheckpoint(monitor="distance/frechet"); Lightning allows it here only
            pl_module.log("distance/frechet", value, logger=False, on_step=True, on_epoch=False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.distance = FrechetDistance(self.features).to(pl_module.device)

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
        self.distance.update(batch.image, real=True)
        self.distance.update(rounded(outputs["image"]), real=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("distance/frechet", self.distance.compute().float(), rank_zero_only=True)

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _of_fakes(self, trainer: Trainer, module: GAN) -> float:
        self.distance.reset()
        num_batches = math.ceil(self._num_real / self.batch_size)
        for turn in range(math.ceil(num_batches / trainer.world_size)):
            batch = turn * trainer.world_size + trainer.global_rank
            # Without a batch of its own a process renders the last one for nothing: sharded weights need all of them.
            start = min(batch, num_batches - 1) * self.batch_size
            draw = module_draws(module, range(start, min(start + self.batch_size, self._num_real)), "evaluation")
            cameras = module.sample_cameras(draw) if module.generator_ema.has_camera else None
            fakes = render_views(
                module.generator_ema,
                draw.normal("z", module.generator_ema.z_dim),
                cameras,
                conditioning=cameras,
                resolution=module.raw_resolution_now(),
                raw=False,
                batch_size=self.batch_size,
            ).image.to(module.device)
            if batch < num_batches:
                self.distance.update(rounded(fakes), real=False)
        return float(self.distance.compute())

    def _see_reals(self, trainer: Trainer, module: GAN) -> None:
        """Statistics of the reals, floor and mean image. Every process sees its own share of the reals."""
        rank, world_size = trainer.global_rank, trainer.world_size
        self.distance = FrechetDistance(self.features, reset_real=False).to(module.device)
        halves = FrechetDistance(self.features).to(module.device)
        total, num = torch.zeros((1, 3, *[module.generator_ema.img_resolution] * 2), device=module.device), 0
        with torch.random.fork_rng(devices=[]):  # the iterator of a DataLoader draws a seed
            for images in self._reals(trainer, len(range(rank, self.num_images, world_size))):
                images = images.to(module.device)
                self.distance.update(images, real=True)
                place = rank + world_size * torch.arange(num, num + len(images), device=module.device)
                for half in (0, 1):
                    halves.update(images[place % 2 == half], real=half == 0)
                total, num = total + images.sum(0, keepdim=True), num + len(images)
        counted = torch.tensor(num, dtype=torch.float64, device=module.device)
        self._num_real = int(trainer.strategy.reduce(counted, reduce_op="sum"))
        if 0 < self._num_real < 4:
            raise ValueError(f"Evaluation found {self._num_real} held-out images; hold out at least 4, better 1000")
        if self._num_real == 0:
            log.info("no images are held out, so there is no Frechet distance; set data.heldout to their number")
        elif images_seen(module) == 0:
            mean = trainer.strategy.reduce(total, reduce_op="sum") / self._num_real
            self.distance.update(torch.cat([mean, mean]), real=False)
            metrics = {"distance/floor": float(halves.compute()), "distance/mean_image": float(self.distance.compute())}
            log_everywhere(trainer, metrics, 0)

    @staticmethod
    def _reals(trainer: Trainer, limit: int) -> Iterator[Tensor]:
        """This process's held-out images, at most `limit`, in batches [b 3 H W]."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        for batch in [] if datamodule is None else datamodule.val_dataloader():
            if limit <= 0:
                return
            yield batch.image[:limit]
            limit -= len(batch.image)


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8 bits store them."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
