"""Reprojection consistency: do two views of a scene show the same colors at the same points of its
surface?

    p = o_t + d_t z_t(u),   warped(u) = image_s(project_s(p)),   PSNR over the u whose p the source camera sees

The target's depth says which point a pixel shows; the source's image says which color that point
has. A scene that is truly 3D and has no view-dependent color agrees up to the resampling of its
images; a texture that sticks to the screen does not. Nor does what is translucent: many surfaces
have no one depth.

Convention: images in [-1, 1] (peak-to-peak 2, PSNR in dB); depth is camera z; pixel centers as in
gan3d.camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Rendering
from gan3d.ops.grid_sample import grid_sample


@dataclass(frozen=True)
class Warped:
    """Source views as seen by the target cameras.

    Attributes:
        image: [b 3 H W]; 0 where not valid.
        valid: where the source camera sees the point that the target shows, bool [b 1 H W].
        visible: where the target shows a surface at all, bool [b 1 H W]; contains `valid`.
    """

    image: Tensor
    valid: Tensor
    visible: Tensor


@dataclass(frozen=True)
class PairwiseReprojection:
    """Every ordered pair (source, target) of n views of one scene.

    Attributes:
        psnr: dB [n n], row = source; NaN on the diagonal and where no pixel is valid.
        share: of the target's visible pixels that are compared [n n]: a high PSNR of few pixels
            says little.
    """

    psnr: Tensor
    share: Tensor

    @property
    def mean_psnr(self) -> float:
        """Mean over the pairs that have one; NaN if none has."""
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
    """Source views warped to the target cameras by the target's depth.

    A pixel is valid if the target shows a surface there, whose point lies within the centers of the
    source's outer pixels, where all that the source's depth is sampled from is surface, and no
    deeper than that depth by more than `tolerance` of it (else something hides it). A point *in
    front of* the source's surface stays valid: it says that the two depths disagree, which is what
    is measured. Depth coarser than the image is enlarged bilinearly.

    Args:
        source: b views with depth.
        source_camera: b cameras.
        target: b views with depth, of the source's sizes.
        target_camera: b cameras.
        tolerance: relative.
    """
    _check(source, source_camera, "source")
    _check(target, target_camera, "target")
    side = target.image.shape[-1]
    if source.image.shape != target.image.shape:
        raise ValueError(
            f"source {list(source.image.shape)} and target {list(target.image.shape)} differ; "
            "render both alike"
        )
    depth, visible = _surface(target, side)
    rays = target_camera.rays(side)
    along = rearrange(depth, "b 1 h w -> b (h w) 1") / rays.cosines
    uv, z = source_camera.project(rays.origins + rays.directions * along)  # b (h w) 2, b (h w) 1
    grid = rearrange(2 * uv - 1, "b (h w) k -> b h w k", h=side)
    z = rearrange(z, "b (h w) 1 -> b 1 h w", h=side)
    grid = torch.where(grid.isfinite(), grid, 2.0)

    source_depth, source_seen = _surface(source, side)
    sampled = grid_sample(
        torch.cat([source.image, source_depth, source_seen.to(depth)], dim=1), grid
    )
    color, nearest, opaque = sampled.split(
        [3, 1, 1], dim=1
    )  # beyond the outer pixels' centers opaque falls to 0
    valid = visible & (z > 0) & (opaque > 1 - 1e-3) & (z <= nearest * (1 + tolerance))
    return Warped(torch.where(valid, color, 0.0), valid, visible)


def masked_psnr(image: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
    """PSNR = 10 log10(2² / MSE) over valid pixels and the three channels, dB [b]; NaN without any,
    infinite if equal.

    Args:
        image: [b 3 H W] in [-1, 1].
        reference: likewise.
        valid: bool [b 1 H W].
    """
    square = torch.where(valid, (image.double() - reference.double()).square(), 0.0).sum(
        dim=(1, 2, 3)
    )
    return 10 * torch.log10(4 * 3 * valid.sum(dim=(1, 2, 3)) / square)


def pairwise_reprojection(
    views: Rendering, camera: Camera, *, tolerance: float = 0.01
) -> PairwiseReprojection:
    """Reprojects every view of a scene into every other.

    Args:
        views: n views of one scene, with depth.
        camera: n cameras.
        tolerance: of `reproject`.
    """
    n = len(camera)
    if n < 2:
        raise ValueError(f"got {n} view(s), expected at least two to compare; render more cameras")
    _check(views, camera, "views")
    psnr, share = (torch.full((n, n), torch.nan, dtype=torch.float64) for _ in range(2))
    for s in range(n):
        targets = [t for t in range(n) if t != s]  # all at once
        to, sources = _chosen(views, targets), _chosen(views, [s] * len(targets))
        warped = reproject(
            sources,
            camera.select([s] * len(targets)),
            to,
            camera.select(targets),
            tolerance=tolerance,
        )
        psnr[s, targets] = masked_psnr(warped.image, to.image, warped.valid).cpu()
        counts = [mask.sum(dim=(1, 2, 3)).double().cpu() for mask in (warped.valid, warped.visible)]
        share[s, targets] = counts[0] / counts[1].clamp(min=1)
    return PairwiseReprojection(psnr, share)


def _check(views: Rendering, camera: Camera, what: str) -> None:
    if views.depth is None:
        raise ValueError(
            f"{what} has no depth, so no pixel has a place in the world; use a 3D generator"
        )
    b, _, height, width = views.image.shape
    if len(camera) != b or len(views.depth) != b or height != width:
        raise ValueError(
            f"{what}: images {list(views.image.shape)}, depth {list(views.depth.shape)} and "
            f"{len(camera)} cameras; expected b square images, depth [b 1 h w] and b cameras"
        )


def _surface(views: Rendering, side: int) -> tuple[Tensor, Tensor]:
    """(depth, finite everywhere [b 1 H W], where there is a surface, bool [b 1 H W]) at the images'
    size.
    """
    assert views.depth is not None
    seen = views.depth.isfinite() & (views.depth > 0)
    if views.opacity is not None:
        seen = seen & (views.opacity > SURFACE_OPACITY)
    depth = torch.where(seen, views.depth, 0.0)
    if depth.shape[-1] != side:
        depth, share = (_enlarged(x, side) for x in (depth, seen.to(depth)))
        seen = share > 1 - 1e-3  # beside what has no depth there is none
    return depth, seen


def _enlarged(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _chosen(views: Rendering, indices: list[int]) -> Rendering:
    depth, opacity = (None if x is None else x[indices] for x in (views.depth, views.opacity))
    return Rendering(views.image[indices], depth=depth, opacity=opacity)
