"""Alarms: numbers that reveal a degenerate 3D GAN during training.

All are pure functions of images, depth and cameras.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY
from gan3d.metrics.exact import exact


def flatness(depth: Tensor, opacity: Tensor | None, camera: Camera) -> Tensor:
    """Relief of the visible surface: rms deviation of its points from the best-fit plane.

        min over a, b, c of rms(z - (a x + b y + c)),   (x, y, z) = z K^-1 (u, v, 1) in camera axes

    A billboard gives 0, at any tilt. Real heads have 0.021 camera radii on average and at least
    0.014. The value is linear in the relief; it does not say whether the relief is right: a hollow
    head has the same. `bulge` has a sign, and `relief_slope` knows the truth of procedural heads.

    Args:
        depth: camera z [b 1 h w].
        opacity: [b 1 h w]; the surface is where it exceeds 0.5. None: everywhere.
        camera: b views.

    Returns:
        float64 [b], world units; 0 where fewer than four pixels are opaque. Detached.

    Raises:
        ValueError: the shapes do not match.
    """
    residual, seen = _off_plane(depth, opacity, camera)
    count = seen.sum(dim=(1, 2))
    rms = (residual.square().sum(dim=(1, 2)) / count.clamp(min=1)).sqrt()
    return torch.where(count >= 4, rms, 0.0)


def bulge(depth: Tensor, opacity: Tensor | None, camera: Camera) -> Tensor:
    """Relief with a sign: mean depth of the rim of the visible surface minus that of its center.

    Center and rim are the quarters of its pixels nearest to and farthest from their centroid in the
    image, and depth is what deviates from the best-fit plane, so that a tilted plane gives 0. A
    surface that bulges towards the camera is positive, one that is hollow, such as the inside of a
    mask, negative. A hollow face within a convex head may go unnoticed.

    Args:
        depth: camera z [b 1 h w].
        opacity: [b 1 h w]; the surface is where it exceeds 0.5. None: everywhere.
        camera: b views.

    Returns:
        float64 [b], world units; 0 where fewer than four pixels are opaque. Detached.

    Raises:
        ValueError: the shapes do not match.
    """
    residual, seen = _off_plane(depth, opacity, camera)
    values = []
    for deviations, where in zip(residual, seen):
        points = where.nonzero().to(deviations)  # n 2
        quarter = len(points) // 4
        if quarter == 0:
            values.append(deviations.new_zeros(()))
            continue
        from_center = (points - points.mean(dim=0)).square().sum(dim=1).argsort(stable=True)
        ordered = deviations[where][from_center]
        values.append(ordered[-quarter:].mean() - ordered[:quarter].mean())
    return torch.stack(values)


def opaque_share(opacity: Tensor) -> Tensor:
    """Share of the pixels [b 1 h w] that show a surface, i.e. exceed an opacity of 0.5, [b]."""
    return (opacity > SURFACE_OPACITY).float().mean(dim=(1, 2, 3))


def _off_plane(depth: Tensor, opacity: Tensor | None, camera: Camera) -> tuple[Tensor, Tensor]:
    """Deviation of a surface from its best-fit plane along camera z, float64 [b h w], 0 where none
    is seen, and where one is seen, bool [b h w].
    """
    if depth.ndim != 4 or depth.shape[1] != 1 or len(camera) != len(depth):
        raise ValueError(
            f"depth {list(depth.shape)} and {len(camera)} cameras; expected depth [b 1 h w] and b "
            "cameras"
        )
    depth = exact(depth.detach())
    camera = camera.to(depth.device)

    # camera coordinates of the points; x, y, z are 0 where no surface is seen
    height, width = depth.shape[-2:]
    seen = depth.isfinite()
    if opacity is not None:
        seen = seen & (opacity.to(depth.device) > SURFACE_OPACITY)
    z = rearrange(torch.where(seen, depth, 0.0), "b 1 h w -> b (h w)")
    v, u = torch.meshgrid(
        (torch.arange(height, device=z.device, dtype=z.dtype) + 0.5) / height,
        (torch.arange(width, device=z.device, dtype=z.dtype) + 0.5) / width,
        indexing="ij",
    )
    pixels = torch.stack([u.flatten(), v.flatten(), torch.ones_like(u.flatten())])  # 3 (h w)
    x, y, _ = (torch.linalg.inv(camera.intrinsics.to(z)) @ pixels * z[:, None]).unbind(1)  # b (h w)

    # least squares
    ones = rearrange(seen, "b 1 h w -> b (h w)").to(z)
    terms = torch.stack([x, y, ones], dim=-1)  # b (h w) 3
    plane = torch.linalg.pinv(terms) @ z[..., None]
    residual = z - (terms @ plane).squeeze(-1)
    return rearrange(residual, "b (h w) -> b h w", h=height), seen[:, 0]


def z_sensitivity(images: Tensor) -> Tensor:
    """Effect of z on the image: rms over pixels of the unbiased standard deviation over z.

    0 means that the generator ignores z (mode collapse). For two images, its square is half their
    mean squared difference.

    Args:
        images: [b 3 H W], b different z seen from one camera.

    Returns:
        A scalar, in units of the image range [-1, 1].
    """
    if len(images) < 2:
        raise ValueError(f"z_sensitivity got {len(images)} image(s); it compares at least 2")
    return exact(images).var(dim=0).mean().sqrt()


def camera_leak(images: Tensor) -> Tensor:
    """Effect of the *conditioning* camera on the image, relative to the effect of z.

        rms std over conditioning cameras (z fixed) / rms std over z (conditioning camera fixed)

    All images are rendered from one camera, so a scene that is independent of the conditioning
    gives 0. At 1 the conditioning determines as much of the head as z does.

    Args:
        images: [z c 3 H W], for each z the image under each conditioning camera.

    Returns:
        A scalar; 0 if nothing changes at all, infinite if only the camera has an effect.
    """
    if images.ndim != 5 or min(images.shape[:2]) < 2:
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [z c 3 H W] with at least 2 z and 2 "
            "c"
        )
    images = exact(images)
    by_camera = images.var(dim=1).mean().sqrt()
    by_z = images.var(dim=0).mean().sqrt()
    return torch.where(by_camera > 0, by_camera / by_z, torch.zeros_like(by_camera))
