"""Rendering of scenes along rays: radiance fields by mid-point or left-point sums, and radiance
manifolds.
"""

from gan3d.rendering.volume import (
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
    "Field",
    "RayRendering",
    "RenderOptions",
    "importance_depths",
    "inverse_cdf",
    "ray_box",
    "ray_limits",
    "render_rays",
    "stratified_depths",
]
