"""Reprojection consistency: whether two views of a scene show the same color at the same point.

    p = o_t + d_t z_t(u)
    warped(u) = image_s(project_s(p)),   PSNR over the pixels u whose p the source camera sees

The depth of the target view gives the point that a pixel shows, the image of the source view its
color. The views of a 3D scene without view-dependent color agree up to the resampling of the
images; a texture that sticks to the screen does not agree. Neither do translucent scenes, which
have no single depth.

Convention: images in [-1, 1] (peak-to-peak 2, PSNR in dB); depth is camera z; pixel centers as in
gan3d.camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import SURFACE_OPACITY, Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.views import ViewMetric, each_head, view_cameras
from gan3d.ops.grid_sample import grid_sample


@dataclass(frozen=True)
class Warped:
    """Source views as seen by the target cameras.

    Attributes:
        image: [b 3 H W]; 0 where not valid.
        valid: bool [b 1 H W], where the source camera sees the point that the target shows.
        visible: bool [b 1 H W], where the target shows a surface; contains `valid`.
    """

    image: Tensor
    valid: Tensor
    visible: Tensor


@dataclass(frozen=True)
class PairwiseReprojection:
    """Every ordered pair (source, target) of n views of one scene.

    Attributes:
        psnr: dB [n n], row = source; NaN on the diagonal and where no pixel is valid.
        share: [n n], fraction of the target's visible pixels that are compared. A high PSNR of few
            pixels means little.
    """

    psnr: Tensor
    share: Tensor

    @property
    def mean_psnr(self) -> float:
        """Mean over the pairs with valid pixels; NaN if there are none."""
        return float(self.psnr.nanmean())


@torch.no_grad()
def reproject(
    source: Rendering,
    source_camera: Camera,
    target: Rendering,
    target_camera: Camera,
    *,
    tolerance: float = 0.01,
) -> Warped:
    """Warps source views to the target cameras by the target's depth.

    A pixel is valid if

    * the target shows a surface there,
    * its point projects between the centers of the source's outer pixels,
    * the source's depth is interpolated from surface pixels only, and
    * the point is not deeper than that depth by more than `tolerance` (else it is occluded).

    A point *in front of* the source's surface is valid: the two depths disagree, which is what the
    metric measures. Depth coarser than the image is enlarged bilinearly.

    Args:
        source: b views with depth.
        source_camera: b cameras.
        target: b views with depth, of the same size as the source.
        target_camera: b cameras.
        tolerance: relative to the depth.

    Raises:
        ValueError: a view has no depth, or the shapes do not match.
    """
    _check(source, source_camera, "source")
    _check(target, target_camera, "target")
    side = target.image.shape[-1]
    if source.image.shape != target.image.shape:
        raise ValueError(
            f"source {list(source.image.shape)} and target {list(target.image.shape)} differ; "
            "render both at the same size"
        )

    # points of the target, projected into the source
    depth, visible = _surface(target, side)
    rays = target_camera.rays(side)
    along = rearrange(depth, "b 1 h w -> b (h w) 1") / rays.cosines
    uv, z = source_camera.project(rays.origins + rays.directions * along)  # b (h w) 2, b (h w) 1
    grid = rearrange(2 * uv - 1, "b (h w) k -> b h w k", h=side)
    z = rearrange(z, "b (h w) 1 -> b 1 h w", h=side)
    grid = torch.where(grid.isfinite(), grid, 2.0)

    # samples of the source; `opaque` falls to 0 beyond the centers of its outer pixels
    source_depth, source_seen = _surface(source, side)
    channels = torch.cat([source.image, source_depth, source_seen.to(depth)], dim=1)
    color, nearest, opaque = grid_sample(channels, grid).split([3, 1, 1], dim=1)
    valid = visible & (z > 0) & (opaque > 1 - 1e-3) & (z <= nearest * (1 + tolerance))
    return Warped(torch.where(valid, color, 0.0), valid, visible)


def masked_psnr(image: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
    """PSNR = 10 log10(2² / MSE) over the valid pixels and three channels.

    Args:
        image: [b 3 H W] in [-1, 1].
        reference: [b 3 H W] in [-1, 1].
        valid: bool [b 1 H W].

    Returns:
        dB [b]; NaN without valid pixels, infinite if the images are equal.
    """
    difference = exact(image) - exact(reference)
    valid = valid.to(difference.device)
    square = torch.where(valid, difference.square(), 0.0)
    return 10 * torch.log10(4 * 3 * valid.sum(dim=(1, 2, 3)) / square.sum(dim=(1, 2, 3)))


def pairwise_reprojection(
    views: Rendering, camera: Camera, *, tolerance: float = 0.01
) -> PairwiseReprojection:
    """Reprojects every view of a scene into every other.

    Args:
        views: n views of one scene, with depth.
        camera: n cameras.
        tolerance: tolerance of `reproject`.

    Raises:
        ValueError: there are fewer than two views, or they have no depth.
    """
    n = len(camera)
    if n < 2:
        raise ValueError(f"got {n} view(s), expected at least two to compare; render more cameras")
    _check(views, camera, "views")
    psnr = torch.full((n, n), torch.nan, dtype=torch.float64)
    share = torch.full((n, n), torch.nan, dtype=torch.float64)
    for s in range(n):
        # all targets of a source at once
        targets = [t for t in range(n) if t != s]
        sources = [s] * len(targets)
        target = _select(views, targets)
        warped = reproject(
            _select(views, sources),
            camera.select(sources),
            target,
            camera.select(targets),
            tolerance=tolerance,
        )
        psnr[s, targets] = masked_psnr(warped.image, target.image, warped.valid).cpu()
        num_valid = warped.valid.sum(dim=(1, 2, 3)).cpu().double()
        num_visible = warped.visible.sum(dim=(1, 2, 3)).cpu().double()
        share[s, targets] = num_valid / num_visible.clamp(min=1)
    return PairwiseReprojection(psnr, share)


class Reprojection(ViewMetric):
    """Mean PSNR and compared share of all pairs of 5 views of a head, `pairwise_reprojection`.

    Args:
        yaws: of the cameras, radians.
        tolerance: tolerance of `reproject`.
        radius: of the cameras, world units.
        fov: degrees.
    """

    names = ("reprojection_psnr", "reprojection_share")
    higher_is_better = True
    needs_depth = True

    def __init__(
        self,
        yaws: Sequence[float] = (-0.3, -0.15, 0.0, 0.15, 0.3),
        tolerance: float = 0.01,
        *,
        radius: float = RADIUS,
        fov: float = FOV,
    ):
        super().__init__(view_cameras(yaws, radius=radius, fov=fov))
        self.tolerance = tolerance

    def values(self, views: Rendering) -> dict[str, Tensor]:
        found = [
            pairwise_reprojection(head, self.camera, tolerance=self.tolerance)
            for head in each_head(views)
        ]
        return {
            "reprojection_psnr": torch.stack([pairs.psnr.nanmean() for pairs in found]),
            "reprojection_share": torch.stack([pairs.share.nanmean() for pairs in found]),
        }


def _check(views: Rendering, camera: Camera, what: str) -> None:
    if views.depth is None:
        raise ValueError(
            f"{what} has no depth, so its pixels have no position in the world; use a 3D generator"
        )
    b, _, height, width = views.image.shape
    if len(camera) != b or len(views.depth) != b or height != width:
        raise ValueError(
            f"{what}: images {list(views.image.shape)}, depth {list(views.depth.shape)} and "
            f"{len(camera)} cameras; expected b square images, depth [b 1 h w] and b cameras"
        )


def _surface(views: Rendering, side: int) -> tuple[Tensor, Tensor]:
    """Depth [b 1 H W], finite everywhere, and surface mask, bool [b 1 H W], at image size."""
    assert views.depth is not None
    seen = views.depth.isfinite() & (views.depth > 0)
    if views.opacity is not None:
        seen = seen & (views.opacity > SURFACE_OPACITY)
    depth = torch.where(seen, views.depth, 0.0)
    if depth.shape[-1] != side:
        # Pixels interpolated from any pixel without depth have none either.
        share = _enlarged(seen.to(depth), side)
        depth = _enlarged(depth, side)
        seen = share > 1 - 1e-3
    return depth, seen


def _enlarged(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _select(views: Rendering, indices: list[int]) -> Rendering:
    depth = None if views.depth is None else views.depth[indices]
    opacity = None if views.opacity is None else views.opacity[indices]
    return Rendering(views.image[indices], depth=depth, opacity=opacity)
