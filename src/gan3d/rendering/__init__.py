"""Rendering along rays: radiance fields (mid-point and left-point rules), radiance manifolds."""

from gan3d.rendering.density_prior import DensityPrior
from gan3d.rendering.triplane_field import TriplaneField
from gan3d.rendering.volume import (
    Background,
    Field,
    RayRendering,
    RenderOptions,
    importance_depths,
    inverse_cdf,
    ray_box,
    ray_limits,
    render_rays,
    stratified_depths,
)

__all__ = [
    "Background",
    "DensityPrior",
    "Field",
    "RayRendering",
    "RenderOptions",
    "TriplaneField",
    "importance_depths",
    "inverse_cdf",
    "ray_box",
    "ray_limits",
    "render_rays",
    "stratified_depths",
]
