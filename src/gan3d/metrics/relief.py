"""Relief with a sign, for procedural heads: whether faces and bodies come towards the camera.

    slope = sum_p w_p (t_p - mean t) (d_p - mean d) / sum_p w_p (t_p - mean t)^2

d is the depth of a head seen from the front, t the mean depth of true heads at the same pixel, w
the weight of the pixel in a region, face or body (head and shoulders). The slope is 1 where the
relief is right, 0 where it is flat, and -1 where it is hollow, as the inside of a mask is. What the
picture looks like does not matter, nor where the head is along the axis.

The mean head is that of `gan3d.data.heads` from the front, so the measures hold for generators of
these heads and for their camera only. `gan3d.metrics.bulge` has a sign without knowing the truth.

Convention: depth is camera z; lengths are compared in camera radii, so a world of another scale
gives the same values. A pixel shows a surface where its depth is finite and its opacity exceeds
0.5.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads import FOV, head_camera, render_heads, sample_heads
from gan3d.generators.contract import SURFACE_OPACITY
from gan3d.metrics.exact import exact
from gan3d.metrics.frechet import ExactMetric

Region = Literal["face", "body"]
# The face without ears, from the hairline to the chin: an ellipse in picture widths.
FACE_CENTER, FACE_AXES = (0.5, 0.52), (0.16, 0.19)
CONVEX = 0.02  # slope above which a head is convex; a plane has 0 up to rounding
FAR = 1.25  # depth of a ray that meets no surface, camera radii; heads lie between 0.83 and 1.26
FOCAL = 0.5 / math.tan(math.radians(FOV / 2))
_NUM_HEADS, _SEED, _SIDE = 64, 4242, 64


class MeanHead(NamedTuple):
    """Frontal views of true heads at a size.

    Attributes:
        depth: mean over the heads that cover a pixel, camera radii, 0 where none does, [h w].
        face: whether the whole pixel is in the face, 0 or 1, [h w].
        body: whether it is in head and shoulders of all heads, [h w].
        background: whether no head covers any of it, [h w].
    """

    depth: Tensor
    face: Tensor
    body: Tensor
    background: Tensor


@cache
def mean_head(side: int) -> MeanHead:
    """The mean of 64 heads at `side` pixels, float64; made once per process, in a second or two."""
    if side != _SIDE:
        whole = mean_head(_SIDE)
        # the depth of a pixel that is not whole is that of an edge
        weights = [(_resized(weight, side) > 0.999).double() for weight in whole[1:]]
        covered = (whole.depth > 0).double()
        depth = _resized(whole.depth, side) / _resized(covered, side).clamp(min=1e-9)
        return MeanHead(depth, *weights)
    front = torch.zeros(_NUM_HEADS)
    heads = sample_heads(_SEED, range(_NUM_HEADS))
    camera = head_camera(front, front)
    depth = render_heads(heads, camera, side, supersample=1).depth[:, 0].double()
    depth = depth / camera.origins.norm(dim=-1).double()[:, None, None]  # b h w

    # regions
    hit = depth.isfinite()
    common = hit.all(0)
    position = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    x = (position - FACE_CENTER[0]) / FACE_AXES[0]
    y = (position - FACE_CENTER[1]) / FACE_AXES[1]
    return MeanHead(
        depth=torch.where(hit, depth, 0).sum(0) / hit.sum(0).clamp(min=1),
        face=((x[None].square() + y[:, None].square() < 1) & common).double(),
        body=common.double(),
        background=(~hit).all(0).double(),
    )


def relief_slope(depth: Tensor, opacity: Tensor | None, camera: Camera, region: Region) -> Tensor:
    """Slope of the frontal depth over the mean true depth of heads: 1 right, 0 flat, -1 hollow.

    Args:
        depth: camera z [b 1 h w].
        opacity: [b 1 h w]; the surface is where it exceeds 0.5. None: everywhere.
        camera: b frontal cameras with the field of view of `gan3d.data.heads`; any radius.
        region: "face", or "body" for head and shoulders.

    Returns:
        float64 [b]; 0 where less than half of the region shows a surface. Detached.

    Raises:
        ValueError: the shapes do not match, or a camera is another one.
    """
    depth, seen = _surface(depth, opacity, camera)
    head = mean_head(depth.shape[-1])
    truth, region_weight = head.depth.to(depth.device), getattr(head, region).to(depth.device)

    # weighted least squares, per head
    weight = region_weight * seen  # b h w
    total = weight.sum((1, 2), keepdim=True)
    share = weight / total.clamp(min=1e-9)
    d = depth - (share * depth).sum((1, 2), keepdim=True)
    t = truth - (share * truth).sum((1, 2), keepdim=True)
    slope = (share * t * d).sum((1, 2)) / (share * t.square()).sum((1, 2)).clamp(min=1e-12)
    return torch.where(total[:, 0, 0] >= region_weight.sum() / 2, slope, 0.0)


def background_behind(depth: Tensor, opacity: Tensor | None, camera: Camera) -> Tensor:
    """Mean depth of the background minus that of the face, in camera radii.

    A ray that meets no surface has the depth 1.25. Positive: the background is behind the face, as
    it should be (true heads: 0.32). Negative: fog stands before the head, or the face is seen
    through a hole in it.

    Args:
        depth, opacity, camera: as in `relief_slope`.

    Returns:
        float64 [b]. Detached.

    Raises:
        ValueError: the shapes do not match, or a camera is another one.
    """
    depth, seen = _surface(depth, opacity, camera)
    depth = torch.where(seen, depth, FAR)
    head = mean_head(depth.shape[-1])
    back, face = (
        (depth * weight).sum((1, 2)) / weight.sum()
        for weight in (head.background.to(depth.device), head.face.to(depth.device))
    )
    return back - face


class HeadRelief(ExactMetric):
    """Signed relief of many heads: means of slopes and background, and shares of convex heads.

    Its states are sums, so any split over batches and processes gives the same values.
    """

    higher_is_better = True
    num: Tensor
    names = ("face_slope", "face_convex", "body_slope", "body_convex", "background_behind")

    def __init__(self) -> None:
        super().__init__()
        for name in ("num", *self.names):
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, depth: Tensor, opacity: Tensor | None, camera: Camera) -> None:
        """Adds b heads; arguments as of `relief_slope`."""
        face, body = (relief_slope(depth, opacity, camera, region) for region in ("face", "body"))
        values = {
            "num": torch.ones_like(face),
            "face_slope": face,
            "face_convex": face > CONVEX,
            "body_slope": body,
            "body_convex": body > CONVEX,
            "background_behind": background_behind(depth, opacity, camera),
        }
        for name, value in values.items():
            setattr(self, name, getattr(self, name) + value.double().sum().to(self.num))

    def compute(self) -> dict[str, Tensor]:
        """`face_slope`, `face_convex` (share of the heads whose slope is above 0.02), `body_slope`,
        `body_convex`, `background_behind` (camera radii), float64 scalars.
        """
        if self.num == 0:
            raise ValueError("no heads yet; call update first")
        return {name: getattr(self, name) / self.num for name in self.names}


def _surface(depth: Tensor, opacity: Tensor | None, camera: Camera) -> tuple[Tensor, Tensor]:
    """Depth in camera radii, 0 where no surface is seen, float64 [b h w], and where one is seen."""
    if depth.ndim != 4 or depth.shape[1] != 1 or len(camera) != len(depth):
        raise ValueError(
            f"depth {list(depth.shape)} and {len(camera)} cameras; expected depth [b 1 h w] and b "
            "cameras"
        )
    radius = check_frontal(camera)
    depth = exact(depth.detach())[:, 0]
    seen = depth.isfinite()
    if opacity is not None:
        seen = seen & (opacity[:, 0].to(depth.device) > SURFACE_OPACITY)
    depth = torch.where(seen, depth, 0.0) / radius.to(depth)[:, None, None]
    return depth, seen


def check_frontal(camera: Camera) -> Tensor:
    """Radius of each camera, [b].

    Raises:
        ValueError: a camera is not in front of the head, or has another field of view than the
            procedural heads.
    """
    radius = camera.origins.norm(dim=-1)
    aside = (camera.origins / radius[:, None])[:, :2].norm(dim=-1).amax()
    zoom = float(camera.focal.mean()) / FOCAL
    if float(aside) > 0.02 or float(camera.origins[:, 2].amin()) <= 0:
        raise ValueError(
            f"a camera looks from {camera.origins[0].tolist()}, expected one in front of the head, "
            "on the z axis; render with head_camera(0, 0) (gan3d.data.heads)"
        )
    if abs(zoom - 1) > 0.05:
        raise ValueError(
            f"the focal length is {zoom * FOCAL:.3f} picture widths, expected {FOCAL:.3f}, that of "
            "the procedural heads, whose mean shape the measure knows; use it for generators of "
            "these heads, and gan3d.metrics.bulge for others"
        )
    return radius


def _resized(x: Tensor, side: int) -> Tensor:
    """A map [h w] at another size, by area or bilinearly."""
    if side < len(x):
        return F.adaptive_avg_pool2d(x[None, None], side)[0, 0]
    size = (side, side)
    return F.interpolate(x[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
