"""What HeadNet reads of a head that is seen from several cameras, against what should be there.

* Pose error (EG3D section 5, table 2): squared difference between the yaw and pitch that are read
  and those of the camera, mean over both and over views, radians squared.
* Depth error (the same table): depth that the model renders against depth that is read from its
  picture, both normalized to mean 0 and variance 1 over the head,
      mean (n(d) - n(r))^2 = 2 - 2 correlation(d, r)
  so that scale and shift do not count. A depth without variance counts as 0, which gives 1. A
  hollow one has a negative correlation, up to 4.
* Attribute drift: how much the attributes change that are read,
      rms over attributes of their standard deviation over views
  in standard deviations over all heads. Either the rendering camera moves, or only the one that the
  latents are for; the picture should then not change at all.

HeadNet knows procedural heads only, and reads true heads with errors: their values are the floor.

Convention: angles in radians as in `gan3d.data.heads`; depth is camera z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.headnet import GRID, HeadNet, HeadReading, headnet
from gan3d.metrics.turn import YAWS
from gan3d.metrics.views import ViewMetric, view_cameras

# Poses that differ in both angles, radians.
POSES = tuple(zip((-0.5, -0.36, -0.21, -0.07, 0.07, 0.21, 0.36, 0.5), 4 * (0.15, -0.15)))


def pose_error(yaw: Tensor, pitch: Tensor, true_yaw: Tensor, true_pitch: Tensor) -> Tensor:
    """Mean over views of ((yaw error)^2 + (pitch error)^2) / 2, [b v] and [v] -> float64 [b]."""
    by_yaw = (exact(yaw) - exact(true_yaw)).square()
    by_pitch = (exact(pitch) - exact(true_pitch)).square()
    return ((by_yaw + by_pitch) / 2).mean(1)


def depth_error(depth: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of depths, each normalized to mean 0 and variance 1.

    Args:
        depth, reference: [b h w], finite.
        weight: of the pixels, not negative, [b h w].

    Returns:
        float64 [b]; NaN where the weights are 0. 1 where `depth` is flat.
    """
    share = exact(weight) / exact(weight).sum((1, 2), keepdim=True)
    normal = [_normalized(exact(x), share) for x in (depth, reference)]
    return (share * (normal[0] - normal[1]).square()).sum((1, 2))


def attribute_drift(attributes: Tensor) -> Tensor:
    """Root mean square over attributes of their standard deviation over views, [b v a] -> [b]."""
    return exact(attributes).var(1, correction=0).mean(1).sqrt()


class _Reading(ViewMetric):
    """What HeadNet reads of every view."""

    def __init__(
        self,
        camera: Camera,
        conditioning: Camera | None = None,
        network: HeadNet | None = None,
    ):
        super().__init__(camera, conditioning)
        self.network = headnet() if network is None else network

    @torch.no_grad()
    def read(self, views: Rendering) -> HeadReading:
        """Of b v pictures, one after the other."""
        return self.network(views.image.flatten(0, 1))


class PoseError(_Reading):
    """Pose error of heads seen from 8 poses (radians squared)."""

    names = ("pose_error",)
    higher_is_better = False

    def __init__(self, network: HeadNet | None = None):
        super().__init__(view_cameras(*zip(*POSES)), network=network)

    def values(self, views: Rendering) -> dict[str, Tensor]:
        reading = self.read(views)
        yaw, pitch = (x.unflatten(0, (-1, len(POSES))) for x in (reading.yaw, reading.pitch))
        return {"pose_error": pose_error(yaw, pitch, *self.camera.yaw_pitch())}


class DepthError(_Reading):
    """Depth error of heads seen from 8 poses, at 16 x 16, over what HeadNet reads as the head."""

    names = ("depth_error",)
    higher_is_better = False
    needs_depth = True

    def __init__(self, network: HeadNet | None = None):
        super().__init__(view_cameras(*zip(*POSES)), network=network)

    def values(self, views: Rendering) -> dict[str, Tensor]:
        reading = self.read(views)
        depth, seen = _on_grid(views)
        weight = (reading.mask[:, 0] > 0.5) & seen
        error = depth_error(depth, reading.depth[:, 0], weight)
        return {"depth_error": error.unflatten(0, (-1, len(POSES))).nanmean(1)}


class _Drift(_Reading):
    """How much what is read of heads changes over the views."""

    higher_is_better = False

    def values(self, views: Rendering) -> dict[str, Tensor]:
        attributes = self.read(views).attributes.unflatten(0, views.image.shape[:2])
        (name,) = self.names
        return {name: attribute_drift(attributes)}


class AttributeDrift(_Drift):
    """How much what is read of heads changes with the rendering camera (`drift`)."""

    names = ("drift",)

    def __init__(self, network: HeadNet | None = None):
        super().__init__(view_cameras(YAWS), network=network)


class ConditioningDrift(_Drift):
    """How much what is read of heads changes with the conditioning camera, seen from the front."""

    names = ("conditioning_drift",)

    def __init__(self, network: HeadNet | None = None):
        super().__init__(view_cameras([0.0] * len(YAWS)), view_cameras(YAWS), network)


def _normalized(x: Tensor, share: Tensor) -> Tensor:
    centered = x - (share * x).sum((1, 2), keepdim=True)
    deviation = (share * centered.square()).sum((1, 2), keepdim=True).sqrt()
    return torch.where(deviation > 1e-6 * x.abs().amax(), centered / deviation, 0.0)


def _on_grid(views: Rendering) -> tuple[Tensor, Tensor]:
    """Mean depth of the surface in each of 16 x 16 cells, [(b v) 16 16], and whether it covers most
    of the cell.
    """
    assert views.depth is not None
    depth = exact(views.depth.flatten(0, 1))
    seen = depth.isfinite()
    if views.opacity is not None:
        seen = seen & (views.opacity.flatten(0, 1) > SURFACE_OPACITY)
    share = F.adaptive_avg_pool2d(seen.double(), GRID)
    total = F.adaptive_avg_pool2d(torch.where(seen, depth, 0.0), GRID)
    return (total / share.clamp(min=1e-9))[:, 0], share[:, 0] > 0.5
