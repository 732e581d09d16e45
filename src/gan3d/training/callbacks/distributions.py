"""Histograms of what the discriminator says, and of the poses of fakes, while a run trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from gan3d.apps.histograms import Panel, histograms
from gan3d.apps.views import render_views
from gan3d.camera import Camera
from gan3d.discriminators.contract import DiscriminatorOutput
from gan3d.layers.resize import filtered_resizing
from gan3d.metrics.headnet import headnet
from gan3d.randomness import Randomness
from gan3d.training.callbacks.evaluation import image_side, shrunk
from gan3d.training.callbacks.periodic import PeriodicCallback, fixed_draws, images_seen
from gan3d.training.loggers import log_metrics, log_pictures

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

MAX_LABELS = 10_000  # of the set, in a histogram


@dataclass(frozen=True)
class Judged:
    """Images and what the discriminator says of them.

    Attributes:
        image: [b 3 H W], before augmentation.
        said: its output.
    """

    image: Tensor
    said: DiscriminatorOutput


class Distributions(PeriodicCallback):
    """What the discriminator says of fakes and of held-out images, and in which poses fakes are.

    Logs `logit_histogram`, a picture: its logits of `num_images` fakes of the averaged generator,
    and of as many held-out images, blurred and augmented as in training; their mean is
    `logits/heldout`: far below `logits/real`, the discriminator overfits (Karras et al. 2020, ADA,
    section 2). And `pose_histogram`: yaw and pitch of the labels of the set against those read of
    the fakes, by HeadNet if the data are procedural heads, else by a discriminator that predicts
    poses; without either there is none. Only the first process draws.

    Args:
        every_kimg: between two of them.
        num_images: fakes, and held-out images; rounded down to whole batches.
        batch_size: rendered and judged at once; rounded to whole groups of the discriminator.
    """

    def __init__(self, every_kimg: float = 200.0, num_images: int = 256, batch_size: int = 16):
        super().__init__(every_kimg)
        for name, value in (("num_images", num_images), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} {value}: the histograms need images; use 1 or more")
        self.num_images, self.batch_size = num_images, batch_size

    def networks(self, module: GAN) -> tuple[nn.Module, ...]:
        return module.generator_ema, module.discriminator

    def act(self, trainer: Trainer, pl_module: LightningModule, seen: int, final: bool) -> None:
        if not trainer.is_global_zero:
            return
        module, data = cast("GAN", pl_module), trainer.datamodule  # type: ignore[attr-defined]
        fakes = list(self._fakes(module))
        reals = list(self._reals(module, data))

        # logits
        panels = {"fakes": logits_of(fakes)}
        if reals:
            panels["held-out images"] = logits_of(reals)
            mean = float(panels["held-out images"].mean())
            log_metrics(trainer.loggers, {"logits/heldout": mean}, seen)
        drawn = histograms([Panel("logits of the discriminator", panels)])
        log_pictures(trainer.loggers, "logit_histogram", [drawn], step=seen)

        # poses
        is_heads = getattr(data, "is_heads", False)
        labels = None if data is None else data.labels
        poses = read_poses(fakes, is_heads)
        if labels is None or poses is None:
            return
        thin = labels[:: -(-len(labels) // MAX_LABELS)]
        of_set = Camera.from_label(thin).yaw_pitch()
        drawn = histograms(
            [
                Panel(f"{name}, degrees", {"set": degrees(true), "fakes": degrees(read)})
                for name, true, read in zip(("yaw", "pitch"), of_set, poses)
            ]
        )
        log_pictures(trainer.loggers, "pose_histogram", [drawn], step=seen)

    def _batches(self, module: GAN) -> Iterator[Randomness]:
        """The draws of whole groups of images."""
        group = module.discriminator.group_size
        size = max(self.batch_size // group, 1) * group
        for k in range(max(self.num_images // size, 1)):
            yield fixed_draws(module, range(k * size, (k + 1) * size), "distributions")

    def _fakes(self, module: GAN) -> Iterator[Judged]:
        generator = module.generator_ema
        for draw in self._batches(module):
            cameras = module.sample_cameras(draw)
            views = render_views(
                generator,
                draw.normal("z", generator.z_dim),
                cameras if generator.has_camera else None,
                conditioning=cameras,
                resolution=module.resolution_now(),
                raw=module.discriminator.needs_raw,
                batch_size=self.batch_size,
            )
            raw = None if views.raw is None else views.raw.to(module.device)
            yield judged(module, views.image.to(module.device), raw, cameras, draw)

    def _reals(self, module: GAN, data: Any) -> Iterator[Judged]:
        """Held-out images, as many as there are whole batches of."""
        side = image_side(module, images_seen(module))
        generator, needs_raw = module.generator_ema, module.discriminator.needs_raw
        with torch.random.fork_rng(devices=[]):  # the iterator of a DataLoader draws a seed
            batches = [] if data is None else list(_limited(data, self))
        if not batches:
            return
        like = next(generator.parameters())
        images = torch.cat([image for image, _ in batches]).to(like)
        cameras = None
        if batches[0][1] is not None:
            cameras = Camera.cat([camera for _, camera in batches if camera is not None]).to(like)
        for draw in self._batches(module):
            part = slice(draw.indices[0], draw.indices[-1] + 1)
            full = images[part]
            if len(full) < len(draw.indices):
                return
            raw = None
            if needs_raw:
                raw = filtered_resizing(full, module.resolution_now() or generator.raw_resolution)
            camera = None if cameras is None else cameras[part]
            yield judged(module, shrunk(full, side), raw, camera, draw.in_phase("real"))


def _limited(data: Any, callback: Distributions) -> Iterator[tuple[Tensor, Camera | None]]:
    """The first held-out images, with their cameras."""
    left = callback.num_images
    # A process's own share would be other images than those of a single process.
    loader = getattr(data, "whole_heldout", data.val_dataloader)()
    for batch in loader:
        if left <= 0:
            return
        yield batch.image, batch.camera
        left -= len(batch)


@torch.no_grad()
def judged(
    module: GAN, image: Tensor, raw: Tensor | None, camera: Camera | None, draw: Randomness
) -> Judged:
    """What the discriminator says of images as it sees them in training; its state stays."""
    modes: dict[nn.Module, bool] = {m: m.training for m in module.discriminator.modules()}
    module.discriminator.eval()
    try:
        seen, seen_raw = module.phases.shown(image, raw, draw)
        return Judged(image, module.phases.judge(seen, seen_raw, camera, draw))
    finally:
        for part, training in modes.items():
            part.training = training


def logits_of(images: list[Judged]) -> np.ndarray:
    return torch.cat([judged.said.logits for judged in images]).float().cpu().numpy()


def read_poses(images: list[Judged], is_heads: bool) -> tuple[Tensor, Tensor] | None:
    """(yaw [n], pitch [n]) in radians that are read of images; None where nothing reads them."""
    if is_heads:
        network = headnet()
        readings = [network(judged.image.float().cpu()) for judged in images]
        return torch.cat([r.yaw for r in readings]), torch.cat([r.pitch for r in readings])
    predicted = [judged.said.pose for judged in images if judged.said.pose is not None]
    if not predicted:
        return None
    pitch, yaw = (np.pi / 2 - torch.cat(predicted)).float().cpu().unbind(dim=1)
    return yaw, pitch


def degrees(angles: Tensor) -> np.ndarray:
    return np.degrees(angles.cpu().numpy())
