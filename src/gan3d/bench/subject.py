"""One model under one suite: its pictures, their features and its heads, each made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from gan3d.bench.suites import Suite
from gan3d.bench.workers import Workers
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
Result = TypeVar("Result")


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
        workers: processes with the same subject each, which share out the batches; None: this one
            does all.

    Raises:
        ValueError: the images have another size than the model's.
    """

    generator: Generator
    suite: Suite
    reals: PosedImages
    networks: Mapping[str, nn.Module]
    resolution: int | None = None
    workers: Workers | None = None
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

    def each(
        self,
        what: str,
        work: Callable[..., Result],
        protocol: Protocol,
        *args: Any,
    ) -> list[Result]:
        """work(subject, batch, *args) of every batch of a protocol, in order; `workers` share them
        out. A batch does not know of the others, so the results are the same.

        Args:
            what: is worked on, for the progress bar.
            work: a function that can be imported.
            protocol: that is divided into batches.
            args: the same for all batches.
        """
        batches = list(protocol.batches())
        found = (
            (work(self, batch, *args) for batch in batches)
            if self.workers is None
            else self.workers.map(work, batches, *args)
        )
        return list(tqdm(found, what, len(batches), leave=False, disable=None))

    @cached_property
    def real(self) -> dict[str, Tensor]:
        """Features [n c] of the real images, by network."""
        every = Protocol(len(self.reals), BATCH)
        return _together(self.each("real images", features_of_reals, every))

    def fake(self, pictures: Pictures) -> dict[str, Tensor]:
        """Features [m c] of the fakes, by network. Models that are not conditioned have one set."""
        key = pictures if self.is_conditioned else "same"
        if key not in self._fakes:
            conditioning = "same" if key == "same" else self.suite.conditioning
            protocol = replace(self.protocol, conditioning=conditioning)
            self._fakes[key] = _together(self.each(f"fakes, {key}", features_of_fakes, protocol))
        return self._fakes[key]

    @cached_property
    def turned(self) -> TurnedHeads:
        """The heads of all measures that turn them.

        Raises:
            ValueError: the model has no camera or depth.
        """
        parts = self.each("heads", turned_heads, self.heads_protocol)
        opacities = [part.opacity for part in parts if part.opacity is not None]
        return TurnedHeads(
            Camera.cat([part.front for part in parts]),
            torch.cat([part.depth for part in parts]),
            torch.cat(opacities) if opacities else None,
            torch.cat([part.images for part in parts]),
        )

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

    @property
    def heads_protocol(self) -> Protocol:
        """How the heads of the signed measures and of the views are drawn."""
        return replace(self.protocol, num=self.suite.num_heads)

    def latents(self, protocol: Protocol) -> Iterator[Tensor]:
        """z of the heads of a protocol, batch by batch [b z_dim]."""
        for draw in protocol.draws(self.device):
            yield draw.normal("z", self.generator.z_dim)

    def refuse_others_than_heads(self) -> None:
        """For measures that know procedural heads only.

        Raises:
            ValueError: the real images are others.
        """
        if not is_heads(self.reals.archive):
            raise ValueError("the real images are no procedural heads with their ground truth")

    @property
    def placed(self) -> dict[str, nn.Module]:
        """The feature networks, on the model's device."""
        return {name: network.to(self.device) for name, network in self.networks.items()}


def features_of_reals(subject: Subject, batch: Protocol) -> dict[str, Tensor]:
    """Features [b c] of some real images, by network."""
    sequence = ImageSequence(subject.reals, batch.indices)
    read = collate([sequence[k] for k in range(len(sequence))])
    return collect([read.to(subject.device).image], subject.placed)


def features_of_fakes(subject: Subject, batch: Protocol) -> dict[str, Tensor]:
    """Features [b c] of some fakes, by network."""
    return collect(fake_pictures(subject.generator, batch, subject.cameras), subject.placed)


def turned_heads(subject: Subject, batch: Protocol) -> TurnedHeads:
    """Some heads, turned."""
    radius, fov = subject.view or (RADIUS, FOV)
    ((front, (first, *views)),) = turned_views(
        subject.generator,
        subject.latents(batch),
        (0.0, *YAWS),
        truncation=batch.truncation,
        resolution=batch.resolution,
        radius=radius,
        fov=fov,
    )
    depth, opacity = frontal_depth(subject.generator, first)
    small = [_at_most(view.image.float().cpu(), SIDE) for view in views]
    return TurnedHeads(front.to("cpu"), depth, opacity, torch.stack(small, dim=1))


def _together(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


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
