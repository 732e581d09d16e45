"""Epipolar lines as numbers: are they straight, and do they lean as near points must?

The row y of a picture over the yaw t of the camera is an image I(t, x), see `gan3d.apps.epi` for
pictures of it. In windows of it (5 frames by 5 pixels) the structure tensor

    J = [[<Ix Ix>, <Ix It>], [<Ix It>, <It It>]],   eigenvalues l1 >= l2

has l2 = 0 where all is one straight line (Bigun and Granlund 1987).

    straight = 1 - 2 sum l2 / sum (l1 + l2)     1: straight lines; about 0.2: noise
    parallax = sum <Ix It> / sum <Ix Ix>        image widths per radian, = -dx/dt (least squares)

A point that lies z in front of the origin (world units) moves against the camera:
parallax = f z / (r - z). So true heads have a positive one, heads that stick to the screen 0,
mirrored heads a negative one. A hollow head has less than a true one, and the sign of where its
mean lies.
No network judges, and no depth is needed.

Lines that stick to the screen are straight, too: read both.

Convention: a camera that moves to +x has a positive yaw; x to the right. Sums are over rows, colors
and the windows that are opaque; images are reduced to 64 px, so that lines move by less than a
pixel per frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import SURFACE_OPACITY, Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.refit import at_side
from gan3d.metrics.views import ViewMetric, view_cameras

SIDE = 64  # pixels of the pictures whose lines are followed
WINDOW = 5  # frames and pixels


def epipolar_lines(images: Tensor, opacity: Tensor, yaw_step: float) -> tuple[Tensor, Tensor]:
    """Straightness and parallax of the lines that b scenes draw.

    Args:
        images: [b t 3 H W], at equal steps of the camera's yaw.
        opacity: [b t 1 H W]; a window counts where all of it exceeds 0.5.
        yaw_step: radians.

    Returns:
        straight and parallax (image widths per radian), float64 [b]; NaN where nothing has an edge.

    Raises:
        ValueError: there are too few frames for a window, or the shapes do not match.
    """
    b, t, _, height, width = images.shape
    if t < WINDOW + 2 or width < WINDOW + 2 or opacity.shape != (b, t, 1, height, width):
        raise ValueError(
            f"images {list(images.shape)} and opacity {list(opacity.shape)}; expected [b t 3 H W] "
            f"and [b t 1 H W] with at least {WINDOW + 2} frames and pixels in a row"
        )
    # one image of time over x per row and color; central differences
    lines = rearrange(exact(images), "b t c y x -> b (c y) t x")
    by_x = (lines[:, :, 1:-1, 2:] - lines[:, :, 1:-1, :-2]) / 2
    by_t = (lines[:, :, 2:, 1:-1] - lines[:, :, :-2, 1:-1]) / 2
    seen = rearrange((opacity > SURFACE_OPACITY).to(lines), "b t c y x -> b (c y) t x")
    inside = (-F.max_pool2d(-seen, WINDOW + 2, stride=1)).repeat(1, images.shape[2], 1, 1)

    xx, xt, tt = (
        F.avg_pool2d(product, WINDOW, stride=1) * inside
        for product in (by_x * by_x, by_x * by_t, by_t * by_t)
    )
    spread = ((xx - tt).square() + 4 * xt.square()).sqrt()  # l1 - l2
    smaller = (xx + tt - spread) / 2
    where = (1, 2, 3)
    straight = 1 - 2 * smaller.sum(where) / (xx + tt).sum(where)
    return straight, xt.sum(where) / xx.sum(where) / (width * yaw_step)


class EpipolarLines(ViewMetric):
    """Straightness and parallax of the lines of heads, from 13 cameras at yaws of -0.12 to 0.12.

    Args:
        num: of cameras.
        yaw: of the outer cameras, radians.
        radius: of the cameras, world units.
        fov: degrees.
    """

    names = ("epi_straight", "epi_parallax")
    higher_is_better = True

    def __init__(
        self, num: int = 13, yaw: float = 0.12, *, radius: float = RADIUS, fov: float = FOV
    ):
        yaws = torch.linspace(-yaw, yaw, num, dtype=torch.float64)
        super().__init__(view_cameras(yaws, radius=radius, fov=fov))
        self.yaw_step = 2 * yaw / (num - 1)

    def values(self, views: Rendering) -> dict[str, Tensor]:
        straight, parallax = epipolar_lines(*at_side(views, SIDE), self.yaw_step)
        return {"epi_straight": straight, "epi_parallax": parallax}
