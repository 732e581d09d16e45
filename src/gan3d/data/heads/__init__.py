"""Procedural heads: multi-view pictures with known 3D truth."""

from gan3d.data.heads.attributes import (
    ATTRIBUTE_NAMES,
    HeadAttributes,
    sample_angles,
    sample_heads,
)
from gan3d.data.heads.dataset import contact_sheet, is_heads, write_heads
from gan3d.data.heads.render import (
    FOV,
    RADIUS,
    HeadViews,
    head_camera,
    head_distance,
    render_heads,
)

__all__ = [
    "ATTRIBUTE_NAMES",
    "FOV",
    "RADIUS",
    "HeadAttributes",
    "HeadViews",
    "contact_sheet",
    "head_camera",
    "head_distance",
    "is_heads",
    "render_heads",
    "sample_angles",
    "sample_heads",
    "write_heads",
]
