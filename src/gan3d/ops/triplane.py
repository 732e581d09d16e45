"""Features of points from three axis-aligned planes (EG3D, section 3.2).

    F(x) = 1/3 sum_p bilinear(plane_p, projection_p(2 x / box_warp))

This is the mean over the planes, as in the released code; the paper sums.

Convention: the cube of side `box_warp` around the origin maps to [-1, 1]^3. A projection (a, b)
takes world axis a along the width of the plane and b along its height. Bilinear, texel centers at
half-integers (align_corners=False), zero outside: beyond the box, features fade to 0 over half a
texel.

The `official` axes are (x,y), (x,z), (z,x): the third plane is the second one transposed, and no
plane covers (y,z). All published weights use them (NVlabs/eg3d issue 67). `fixed` has (z,y) for the
third plane.

`plane_features_reference` uses grid_sample. `PlaneTable` is the fast form for any device. With the
official axes, plane 3 is folded into plane 2: bilinear sampling is linear in the texels, and
sampling at (z,x) is sampling the transpose at (x,z). Each point is then one weighted sum of 8 (or
12) rows of a [texels, c] table. Both are differentiable any number of times, in the planes and in
the points. On a GPU one kernel finds the texels of a point and sums them (`ops.triton.triplane`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.ops.backend import Backend, choose, deterministic
from gan3d.ops.weighted_rows import WeightedRows, taps

PlaneAxes = Literal["official", "fixed"]
PROJECTIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "official": ((0, 1), (0, 2), (2, 0)),
    "fixed": ((0, 1), (0, 2), (2, 1)),
}


def plane_features_reference(
    planes: Tensor, points: Tensor, *, box_warp: float, axes: PlaneAxes
) -> Tensor:
    """Features of each plane by grid_sample.

    Args:
        planes: [b 3 c h w].
        points: world coordinates, [b p 3].
        box_warp: side of the cube that the planes span.
        axes: which two coordinates each plane is indexed by.

    Returns:
        [b 3 p c]; F(x) is the mean over dimension 1.
    """
    pairs = torch.tensor(PROJECTIONS[axes], device=points.device)
    grid = rearrange((points * (2 / box_warp))[..., pairs], "b p k xy -> (b k) 1 p xy")
    sampled = F.grid_sample(
        rearrange(planes, "b k c h w -> (b k) c h w"),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return rearrange(sampled, "(b k) c 1 p -> b k p c", b=len(planes))


@dataclass(frozen=True)
class PlaneTable:
    """Tri-planes packed for fast lookup (`PlaneTable.of`).

    Attributes:
        rows: texels, [(b k h w) c], in C order.
        batch, height, width: of the planes.
        projections: one (axis along the width, axis along the height) for each of the k planes.
    """

    rows: Tensor
    batch: int
    height: int
    width: int
    projections: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, planes: Tensor, axes: PlaneAxes = "official") -> PlaneTable:
        """The table of planes [b 3 c h w].

        Raises:
            ValueError: the planes have another shape, or the axes are unknown.
        """
        if planes.ndim != 5 or planes.shape[1] != 3:
            raise ValueError(f"planes have shape {tuple(planes.shape)}; expected [b 3 c h w]")
        if axes not in PROJECTIONS:
            raise ValueError(f"plane axes {axes!r} are unknown; choose {' or '.join(PROJECTIONS)}")
        batch, _, _, height, width = planes.shape
        projections = PROJECTIONS[axes]
        # Taken apart together: each alone would have a gradient of the size of all three. It comes
        # back as an image in channels-last order, which is how backbones make it.
        each = rearrange(planes, "b k c h w -> b h w k c").unbind(3)
        if axes == "official" and height == width:
            each, projections = (each[0], each[1] + each[2].transpose(1, 2)), projections[:2]
        rows = torch.stack(each, 1).flatten(0, 3)
        return cls(rows, batch, height, width, projections)

    def features(
        self, points: Tensor, *, box_warp: float, backend: Backend | None = None
    ) -> Tensor:
        """F(x) of points [b .. 3] -> [b .. c]; a table of one scene accepts points of any batch.

        Args:
            points: world coordinates.
            box_warp: side of the cube that the planes span.
            backend: "fast" or "triton", see `ops.backend`; None chooses. The reference is
                `plane_features_reference`, of planes that are not packed.

        Raises:
            ValueError: the batch sizes of planes and points do not match, or the backend does not
                run here.
        """
        if self.batch not in (1, len(points)):
            raise ValueError(
                f"{self.batch} scenes do not match points of a batch of {len(points)}; "
                f"give planes of 1 or {len(points)} scenes"
            )
        if choose(backend, self.rows) == "triton" and not deterministic():
            from gan3d.ops.triton.triplane import plane_features

            axes = [axis for pair in self.projections for axis in pair]
            size = (self.batch, self.height, self.width)
            flat = points.flatten(1, -2)
            found = plane_features(self.rows, flat, *size, axes, 2 / box_warp)
            return found.unflatten(1, points.shape[1:-1])

        # The two texels around each coordinate, along the width and along the height: 2 k b p.
        # Points come last: all that follows then runs over long rows.
        flat = (points * (2 / box_warp)).flatten(1, -2).movedim(-1, 0)  # 3 b p
        along_width, along_height = (list(axes) for axes in zip(*self.projections))
        columns, column_weights = taps(flat[along_width], self.width)
        rows, row_weights = taps(flat[along_height], self.height)

        # First row of each plane of each scene in the table, [k b 1].
        k, texels = len(self.projections), self.height * self.width
        first = torch.arange(self.batch * k, dtype=rows.dtype, device=points.device) * texels
        rows = rows * self.width + first.view(self.batch, k).t()[..., None]

        # Four texels of each plane. The mean is over three planes, whether one is folded or not.
        indices = rows[:, None] + columns  # 2 2 k b p
        weights = row_weights[:, None] * (column_weights / 3)
        gathered = WeightedRows.apply(
            self.rows, weights.flatten(0, 2).flatten(1), indices.flatten(0, 2).flatten(1)
        )
        return gathered.unflatten(0, points.shape[:-1])
