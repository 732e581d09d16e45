"""One model under one suite: its pictures, their features and its heads, each made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gan3d.bench.suites import Suite
from gan3d.camera import Camera, DatasetPoses
from gan3d.camera.poses import typical_view
from gan3d.data.dataset import ImageSequence, PosedImages, collate
from gan3d.data.heads import FOV, RADIUS, is_heads
from gan3d.generators.contract import Generator
from gan3d.metrics.features import inception_features
from gan3d.metrics.frechet import ExactMetric, SmallFeatures
from gan3d.metrics.headnet import SIDE, HeadNet
from gan3d.metrics.heads import frontal_depth, turned_views
from gan3d.metrics.measure import Cameras, Protocol, collect, fake_pictures
from gan3d.metrics.mobilenet import mobilenet_features
from gan3d.metrics.relief import HeadRelief
from gan3d.metrics.turn import YAWS, HeadTurn

# The two distances: `same` is conditioned on the rendering camera, `3d` as the suite says.
Pictures = Literal["same", "3d"]
BATCH = 16


class HeadFeatures(nn.Module):
    """The 160 features of HeadNet, [b 3 H W] -> [b 160]. A distance on them is no FID."""

    def __init__(self) -> None:
        super().__init__()
        self.network = HeadNet.load()

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images)


# Feature networks by name; `inception` needs the user's file, and is added where there is one.
FEATURES: Mapping[str, Callable[[], nn.Module]] = {
    "headnet": HeadFeatures,
    "small": SmallFeatures,
    "mobilenet": mobilenet_features,
}


def networks_of(suite: Suite, inception: str | None = None) -> dict[str, nn.Module]:
    """The feature networks of a suite, and Inception from a file.

    Raises:
        ValueError: a network is not known, or cannot be read.
    """
    check_features(suite)
    networks: dict[str, nn.Module] = {name: FEATURES[name]() for name in suite.features}
    if inception is not None:
        networks["inception"] = inception_features(inception)
    return {name: network.eval() for name, network in networks.items()}


def check_features(suite: Suite) -> None:
    """Refuses a suite with features that there are not."""
    for name in suite.features:
        if name not in FEATURES:
            raise ValueError(
                f"suite {suite.name}: there are no features {name}; known: {', '.join(FEATURES)}"
            )


class TurnedHeads(NamedTuple):
    """n heads from the front and at `YAWS`, all conditioned on the frontal camera.

    Attributes:
        front: n frontal cameras.
        depth: from the front, camera z [n 1 h w].
        opacity: from the front [n 1 h w]; None: all is opaque.
        images: [n y 3 s s], averaged over areas to 64 px where they were larger.
    """

    front: Camera
    depth: Tensor
    opacity: Tensor | None
    images: Tensor


@dataclass(eq=False)
class Subject:
    """What the measures are given.

    Args:
        generator: in evaluation mode.
        suite: what is measured, and how.
        reals: the real images, in the size of the fakes, with labels if the model has a camera.
        networks: feature networks, by name.
        resolution: of the rendering; None is the model's own.

    Raises:
        ValueError: the images have another size than the model's.
    """

    generator: Generator
    suite: Suite
    reals: PosedImages
    networks: Mapping[str, nn.Module]
    resolution: int | None = None
    _fakes: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def is_conditioned(self) -> bool:
        return self.generator.camera_conditioned

    @cached_property
    def cameras(self) -> Cameras | None:
        """The cameras of the real images, drawn with equal probability; None for 2D models."""
        if self.reals.labels is None or not (self.generator.has_camera or self.is_conditioned):
            return None
        return DatasetPoses().bind(self.reals.labels).sample

    @cached_property
    def view(self) -> tuple[float, float] | None:
        """Median radius and field of view (degrees) of the cameras; None for 2D models."""
        return None if self.cameras is None else typical_view(self.cameras)

    @property
    def protocol(self) -> Protocol:
        """How the fakes of `same` are drawn."""
        suite = self.suite
        return Protocol(suite.num_fakes, BATCH, suite.seed, suite.truncation, self.resolution)

    @cached_property
    def real(self) -> dict[str, Tensor]:
        """Features [n c] of the real images, by network."""
        sequence = ImageSequence(self.reals, range(len(self.reals)))
        loader = DataLoader(sequence, BATCH, collate_fn=collate)
        return collect((batch.to(self.device).image for batch in loader), self._placed)

    def fake(self, pictures: Pictures) -> dict[str, Tensor]:
        """Features [m c] of the fakes, by network. Models that are not conditioned have one set."""
        key = pictures if self.is_conditioned else "same"
        if key not in self._fakes:
            conditioning = "same" if key == "same" else self.suite.conditioning
            protocol = replace(self.protocol, conditioning=conditioning)
            made = fake_pictures(self.generator, protocol, self.cameras)
            self._fakes[key] = collect(made, self._placed)
        return self._fakes[key]

    @cached_property
    def turned(self) -> TurnedHeads:
        """The heads of all measures that turn them.

        Raises:
            ValueError: the model has no camera or depth.
        """
        radius, fov = self.view or (RADIUS, FOV)
        fronts: list[Camera] = []
        depths: list[Tensor] = []
        opacities: list[Tensor] = []
        images: list[Tensor] = []
        for front, (first, *views) in turned_views(
            self.generator,
            self.latents(),
            (0.0, *YAWS),
            truncation=self.suite.truncation,
            resolution=self.resolution,
            radius=radius,
            fov=fov,
        ):
            depth, opacity = frontal_depth(self.generator, first)
            fronts.append(front.to("cpu"))
            depths.append(depth)
            opacities += [] if opacity is None else [opacity]
            small = [_at_most(view.image.float().cpu(), SIDE) for view in views]
            images.append(torch.stack(small, dim=1))
        opacity = torch.cat(opacities) if opacities else None
        return TurnedHeads(Camera.cat(fronts), torch.cat(depths), opacity, torch.cat(images))

    @cached_property
    def heads(self) -> dict[str, tuple[ExactMetric, Tensor]]:
        """The states of `HeadRelief` and `HeadTurn` of each head, [n k], and a metric to compute
        with.

        Raises:
            ValueError: the model has no camera or depth, or the real images are no heads.
        """
        self.refuse_others_than_heads()
        front, depth, opacity, images = self.turned
        relief, turn = HeadRelief(), HeadTurn()
        rows: dict[str, list[Tensor]] = {"relief": [], "turn": []}
        for k in range(len(images)):
            one = slice(k, k + 1)
            seen = None if opacity is None else opacity[one]
            rows["relief"].append(state_of(relief, depth[one], seen, front[one]))
            rows["turn"].append(state_of(turn, images[one]))
        return {
            "relief": (relief, torch.stack(rows["relief"])),
            "turn": (turn, torch.stack(rows["turn"])),
        }

    def latents(self, num: int | None = None) -> Iterator[Tensor]:
        """z of the heads of the signed measures and the views, or of the first `num` of them, batch
        by batch [b z_dim].
        """
        num = self.suite.num_heads if num is None else num
        for draw in replace(self.protocol, num=num).draws(self.device):
            yield draw.normal("z", self.generator.z_dim)

    def refuse_others_than_heads(self) -> None:
        """For measures that know procedural heads only.

        Raises:
            ValueError: the real images are others.
        """
        if not is_heads(self.reals.archive):
            raise ValueError("the real images are no procedural heads with their ground truth")

    @property
    def _placed(self) -> dict[str, nn.Module]:
        return {name: network.to(self.device) for name, network in self.networks.items()}


def _at_most(images: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(images, side) if images.shape[-1] > side else images


def state_of(metric: ExactMetric, *update: Any) -> Tensor:
    """The states of a metric after one update alone, one after the other, [k]."""
    metric.reset()
    metric.update(*update)
    return torch.cat([getattr(metric, name).flatten() for name in metric._defaults])


def compute_from(metric: ExactMetric, state: Tensor) -> dict[str, Tensor]:
    """The values of a metric whose states, all sums, are given one after the other [k]."""
    metric.reset()
    sizes = [value.numel() for value in metric._defaults.values()]  # type: ignore[union-attr]
    for (name, like), part in zip(metric._defaults.items(), state.split(sizes)):
        setattr(metric, name, part.reshape(like.shape))  # type: ignore[union-attr]
    metric._update_count = 1  # it has seen images, by their states
    return metric.compute()
