"""Pictures, videos and geometry alarms of the EMA generator while it trains."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from einops import rearrange
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gan3d.apps.clouds import point_cloud
from gan3d.apps.samples import picture
from gan3d.apps.video import ffmpeg, orbit_video
from gan3d.apps.views import (
    evaluating,
    orbit_like,
    render_turned,
    render_views,
    repeated,
    together,
)
from gan3d.camera import Camera, frontal
from gan3d.generators.contract import Rendering
from gan3d.metrics import (
    bulge,
    camera_leak,
    flatness,
    measure_heads,
    opaque_share,
    z_sensitivity,
)
from gan3d.training.callbacks.alarms import AlarmLevels, alarms
from gan3d.training.callbacks.periodic import (
    PeriodicCallback,
    fixed_draws,
)
from gan3d.training.loggers import log_cloud, log_metrics, log_pictures, log_videos
from gan3d.training.tolerance import tolerated

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

log = logging.getLogger(__name__)

VIDEO = "the video"
SHOWN = "heads/face_slope", "heads/turn"  # beside the losses in the progress


class Snapshots(PeriodicCallback):
    """Pictures of the EMA generator with fixed z and cameras, an orbit video, and geometry alarms.

    Logs `fakes` (a grid), `layers` (raw | image | depth of every head, for models that have them),
    `orbit` (video), `cloud` (points of the first head, from three views, where it is opaque),
    `alarm/opaque`, `alarm/flatness`, `alarm/bulge` (both in camera radii), `alarm/z_sensitivity`,
    `alarm/camera_leak`, and `alarm/sounding`, how many of the alarms sound. If the data are
    procedural heads, whose shape and pose are known, also `heads/face_slope`, `heads/face_convex`,
    `heads/body_slope`, `heads/body_convex`, `heads/background_behind`, `heads/turn` and
    `heads/identity` (docs/metrics.md), of `num_heads` heads. Only the first process renders.

    Args:
        every_kimg: between two snapshots.
        num_heads: heads in the pictures.
        batch_size: heads rendered at once.
        video_every: a video and a point cloud with every n-th snapshot and at the end; 0 is never.
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
        self.video_every, self.video_heads, self.video_frames = (
            video_every,
            video_heads,
            video_frames,
        )
        self.video_yaw, self.alarm = video_yaw, alarm
        self._sounding: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = self.video_every and cast("GAN", pl_module).generator_ema.has_camera
        if wanted and trainer.is_global_zero:
            with tolerated(VIDEO):  # said at once, not when the first video is due
                ffmpeg()
        super().on_train_start(trainer, pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        module = cast("GAN", pl_module)
        if not trainer.is_global_zero:
            return
        z, cameras = self._heads(module)
        view = self._views(module, z, cameras, conditioning=cameras)
        log_pictures(trainer.loggers, "fakes", [picture(Rendering(view.image))], step=seen)
        if view.raw is not None or view.depth is not None:
            log_pictures(trainer.loggers, "layers", [picture(view)], step=seen)
        self._check(trainer, module, z, cameras, seen)
        in_3d = module.generator_ema.has_camera
        if in_3d and cameras is not None and self._wants_video(seen, final):
            self._move(trainer, module, z, cameras, seen)

    def conclude(self, trainer: Trainer, pl_module: LightningModule, seen: int) -> None:
        module = cast("GAN", pl_module)
        if not trainer.is_global_zero or self._wants_video(seen, final=False):
            return
        z, cameras = self._heads(module)
        in_3d = module.generator_ema.has_camera
        if in_3d and cameras is not None and self.video_every:
            self._move(trainer, module, z, cameras, seen)

    def _heads(self, module: GAN) -> tuple[Tensor, Camera | None]:
        """The latents of every snapshot, and the cameras, or the labels of a 2D model."""
        draw = fixed_draws(module, range(self.num_heads), "snapshot")
        return draw.normal("z", module.generator_ema.z_dim), module.sample_cameras(draw)

    def _wants_video(self, seen: int, final: bool) -> bool:
        if not self.video_every:
            return False
        return final or (
            seen > 0 and round(seen // (self.every_kimg * 1000)) % self.video_every == 0
        )

    def _views(
        self, module: GAN, z: Tensor, cameras: Camera | None, conditioning: Camera | None
    ) -> Rendering:
        return render_views(
            module.generator_ema,
            z,
            cameras if module.generator_ema.has_camera else None,
            conditioning=conditioning,
            resolution=module.resolution_now(),
            batch_size=self.batch_size,
        )

    def _check(
        self, trainer: Trainer, module: GAN, z: Tensor, cameras: Camera | None, seen: int
    ) -> None:
        """Logs the alarms' values, and says which are new."""
        front = None if cameras is None else frontal(cameras)
        views = self._views(module, z, repeated(front, len(z)), repeated(front, len(z)))
        values = {"alarm/z_sensitivity": float(z_sensitivity(views.image))}
        if front is not None and views.depth is not None:
            fronts = front.select([0] * len(z)).to(views.depth.device)
            surface = views.depth, views.opacity, fronts
            radius = float(fronts.origins[0].norm())
            values["alarm/flatness"] = float(flatness(*surface).mean()) / radius
            values["alarm/bulge"] = float(bulge(*surface).mean()) / radius
            if views.opacity is not None:
                values["alarm/opaque"] = float(opaque_share(views.opacity).mean())
        generator = module.generator_ema
        leaks = generator.has_camera and generator.camera_conditioned  # a 2D model's label may
        if leaks and front is not None and cameras is not None:
            num = min(4, len(z))
            every_z = z[:num].repeat_interleave(num, dim=0)
            conditioning = cameras.select(list(range(num)) * num)
            images = self._views(module, every_z, repeated(front, num * num), conditioning).image
            leak = camera_leak(rearrange(images, "(z c) k h w -> z c k h w", z=num))
            values["alarm/camera_leak"] = float(leak)
        values |= self._of_true_heads(trainer, module, z)
        sounding = alarms(values, self.alarm) if seen >= self.alarm.after_kimg * 1000 else {}
        log_metrics(trainer.loggers, {"alarm/sounding": len(sounding), **values}, seen)
        if self._follows_iteration:  # Lightning allows it only then
            shown = {name: values[name] for name in SHOWN if name in values}
            module.log_dict(shown, logger=False, on_step=True, on_epoch=False, rank_zero_only=True)
        if trainer.is_global_zero:
            for name in sounding.keys() - self._sounding:
                log.warning("%g kimg: %s", seen / 1000, sounding[name])
        self._sounding = set(sounding)

    def _of_true_heads(self, trainer: Trainer, module: GAN, z: Tensor) -> dict[str, float]:
        """The signed measures, if the data are heads whose truth is known."""
        generator = module.generator_ema
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (generator.has_camera and getattr(data, "is_heads", False)):
            return {}
        with evaluating(generator):
            found = measure_heads(
                generator, z.split(self.batch_size), resolution=module.resolution_now()
            )
        return {f"heads/{name}": value for name, value in found.items()}

    def _move(self, trainer: Trainer, module: GAN, z: Tensor, cameras: Camera, seen: int) -> None:
        """What shows scenes from several sides: the video, and the points of the first scene."""
        self._video(trainer, module, z[: self.video_heads], cameras, seen)
        front = frontal(cameras)
        radius, focal = front.origins.norm(dim=-1), front.focal
        sides = [
            Camera.from_angles(yaw, 0.0, radius=float(radius), focal=float(focal)).to(z)
            for yaw in (0.0, -self.video_yaw, self.video_yaw)
        ]
        views = render_turned(
            module.generator_ema,
            z[:1],
            sides,
            conditioning=front,
            resolution=module.resolution_now(),
            raw=False,
        )
        if views[0].depth is not None:
            cloud = point_cloud(together(views), Camera.cat(sides).to("cpu"))
            if len(cloud):
                log_cloud(trainer.loggers, "cloud", cloud, step=seen)

    def _video(self, trainer: Trainer, module: GAN, z: Tensor, cameras: Camera, seen: int) -> None:
        with tolerated(VIDEO), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "orbit.mp4"
            orbit_video(
                path,
                module.generator_ema,
                z,
                orbit_like(cameras, self.video_frames, yaw=self.video_yaw),
                conditioning=frontal(cameras),
                resolution=module.resolution_now(),
                progress=trainer.is_global_zero and sys.stderr.isatty(),
            )
            log_videos(trainer.loggers, "orbit", [path], step=seen)
