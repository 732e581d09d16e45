"""Measures of several views of the same head: what they share, and the walk over a generator.

A `ViewMetric` says from which cameras it looks (`camera`), and which cameras the latents are for
(`conditioning`). `measure_views` renders each head from them. Every value is one number per head,
so that a mean comes with an interval (`per_head`).

Convention: several views of b heads are one `Rendering` whose maps have an axis of views after the
first: image [b v 3 H W], depth and opacity [b v 1 h w].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from gan3d.camera import Camera, frontal
from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import Generator, Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.frechet import ExactMetric

LatentsFor = Literal["frontal", "same"]


def view_cameras(
    yaw: Sequence[float] | Tensor,
    pitch: Sequence[float] | Tensor | float = 0.0,
    *,
    radius: float = RADIUS,
    fov: float = FOV,
) -> Camera:
    """Cameras at some yaws and pitches, radians [v]; by default those of the procedural heads."""
    yaw, pitch = (torch.as_tensor(angle, dtype=torch.float64) for angle in (yaw, pitch))
    return Camera.from_angles(yaw, pitch, radius=radius, fov=fov).to(torch.float32)


class ViewMetric(ExactMetric):
    """Values of heads that are seen from v cameras; a subclass computes them in `values`.

    Its states are one float64 number per head and value, so any split over batches and processes
    gives the same means.

    Args:
        camera: v cameras for rendering.
        conditioning: the camera that the latents of each view are for, v cameras; None: all
            views show one scene, of a frontal camera.

    Attributes:
        names: of the values.
        needs_depth: whether a generator without depth is refused.
    """

    names: tuple[str, ...] = ()
    needs_depth = False

    def __init__(self, camera: Camera, conditioning: Camera | None = None):
        super().__init__()
        if conditioning is not None and len(conditioning) != len(camera):
            raise ValueError(
                f"{len(camera)} cameras for rendering and {len(conditioning)} for conditioning; "
                "give one of each per view"
            )
        self.camera, self.conditioning = camera, conditioning
        for name in self.names:
            self.add_state(f"of_{name}", [], dist_reduce_fx="cat")

    @abstractmethod
    def values(self, views: Rendering) -> dict[str, Tensor]:
        """One number per head for every name, [b], of views [b v ..]."""

    def update(self, views: Rendering) -> None:
        """Adds b heads, each seen from all cameras: image [b v 3 H W], depth [b v 1 h w]."""
        self._check(views)
        for name, value in self.values(views).items():
            getattr(self, f"of_{name}").append(exact(value).cpu())

    def per_head(self) -> dict[str, Tensor]:
        """Every value of every head, float64 [n], in the order of the updates.

        Raises:
            ValueError: there are no heads yet.
        """
        if any(len(getattr(self, f"of_{name}")) == 0 for name in self.names):
            raise ValueError("no heads yet; call update first")
        return {name: dim_zero_cat(getattr(self, f"of_{name}")) for name in self.names}

    def compute(self) -> dict[str, Tensor]:
        """The means over the heads, float64 scalars. Heads of which a value is NaN (nothing to
        compare) do not count for it; of no head, it is NaN.
        """
        return {name: value.nanmean() for name, value in self.per_head().items()}

    def _check(self, views: Rendering) -> None:
        image = views.image
        if image.ndim != 5 or image.shape[1] != len(self.camera) or image.shape[2] != 3:
            raise ValueError(
                f"images have shape {list(image.shape)}, expected [b {len(self.camera)} 3 H W]: "
                f"each head from the {len(self.camera)} cameras of {type(self).__name__}.camera"
            )
        if self.needs_depth and views.depth is None:
            raise ValueError(
                f"{type(self).__name__} compares depths and got none; choose a 3D generator"
            )


def each_head(views: Rendering) -> Iterator[Rendering]:
    """The v views of each head, [v ..], of views [b v ..]."""
    for k, image in enumerate(views.image):
        depth = None if views.depth is None else views.depth[k]
        opacity = None if views.opacity is None else views.opacity[k]
        yield Rendering(image, depth=depth, opacity=opacity)


@torch.no_grad()
def measure_views(
    generator: Generator,
    latents: Iterable[Tensor],
    metrics: Sequence[ViewMetric],
    *,
    latents_for: LatentsFor = "frontal",
    truncation: float = 1.0,
    resolution: int | None = None,
) -> dict[str, float]:
    """Measures the heads of a generator by several metrics of views.

    Afterwards `ViewMetric.per_head` has the values of every head. Colors that depend on the view
    count as the generator shows them; set `generator.lock_view` to measure the scenes without.

    Args:
        generator: any generator with a camera, in evaluation mode.
        latents: batches of z [b z_dim].
        metrics: what to measure.
        latents_for: the camera that `Generator.map` takes: "frontal", one scene for all views, or
            "same", the rendering camera, with which every view has a scene of its own and older
            papers measured. A metric that moves the conditioning camera itself keeps its own.
        truncation: of `Generator.map`.
        resolution: of `Generator.render`.

    Returns:
        The values of all metrics, by name.

    Raises:
        ValueError: the generator has no camera, or no depth where a metric compares depths; or two
            metrics have a value of the same name.
    """
    name = type(generator).__name__
    if not generator.has_camera:
        raise ValueError(f"{name} has no camera to move, so it has no views; choose a 3D generator")
    names = [value for metric in metrics for value in metric.names]
    if len(set(names)) < len(names):
        raise ValueError(f"the values are {', '.join(names)}; give each metric once")
    for z in latents:
        for metric in metrics:
            own = metric.conditioning
            if own is None and latents_for == "same":
                own = metric.camera
            metric.update(_seen(generator, z, metric.camera, own, truncation, resolution))
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}


def _seen(
    generator: Generator,
    z: Tensor,
    cameras: Camera,
    conditioning: Camera | None,
    truncation: float,
    resolution: int | None,
) -> Rendering:
    """Views [b v ..] of the heads z, on the CPU."""

    def scene_for(camera: Camera) -> Any:
        camera = camera.select([0] * len(z)).to(z)
        return generator.represent(generator.map(z, camera, truncation=truncation))

    scene = scene_for(frontal(cameras)) if conditioning is None else None
    views = []
    for k in range(len(cameras)):
        shown = scene if conditioning is None else scene_for(conditioning.select([k]))
        camera = cameras.select([k] * len(z)).to(z)
        views.append(generator.render(shown, camera, resolution=resolution, raw=False))
    return Rendering(
        torch.stack([view.image.float().cpu() for view in views], dim=1),
        depth=_together([view.depth for view in views]),
        opacity=_together([view.opacity for view in views]),
    )


def _together(maps: Sequence[Tensor | None]) -> Tensor | None:
    there = [m.float().cpu() for m in maps if m is not None]
    return torch.stack(there, dim=1) if len(there) == len(maps) else None
