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
the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

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
        if axes == "official" and height == width:
            planes = torch.stack([planes[:, 0], planes[:, 1] + planes[:, 2].mT], 1)
            projections = projections[:2]
        return cls(rearrange(planes, "b k c h w -> (b k h w) c"), batch, height, width, projections)

    def features(self, points: Tensor, *, box_warp: float) -> Tensor:
        """F(x) of points [b .. 3] -> [b .. c]; a table of one scene accepts points of any batch.

        Raises:
            ValueError: the batch sizes of planes and points do not match.
        """
        if self.batch not in (1, len(points)):
            raise ValueError(
                f"{self.batch} scenes do not match points of a batch of {len(points)}; "
                f"give planes of 1 or {len(points)} scenes"
            )
        # The two texels around each coordinate, along the width and along the height.
        flat = (points * (2 / box_warp)).flatten(1, -2)  # b p 3
        columns = [_taps(flat[..., axis], self.width) for axis in range(3)]
        rows = columns
        if self.height != self.width:
            rows = [_taps(flat[..., axis], self.height) for axis in range(3)]

        # First row of each scene in the table.
        texels = self.height * self.width
        scene = torch.zeros(1, 1, dtype=torch.long, device=points.device)
        if self.batch > 1:
            numbers = torch.arange(self.batch, device=points.device)[:, None]
            scene = numbers * (len(self.projections) * texels)

        # Four texels of each plane.
        indices, weights = [], []
        for plane, (u, v) in enumerate(self.projections):
            for row, row_weight in rows[v]:
                start = row * self.width + (scene + plane * texels)
                for column, column_weight in columns[u]:
                    indices.append(start + column)
                    weights.append(row_weight * column_weight)

        # The mean is over three planes, whether one is folded or not.
        gathered = _WeightedRows.apply(
            self.rows,
            torch.stack(weights, -1).flatten(0, 1) / 3,
            torch.stack(indices, -1).flatten(0, 1),
        )
        return gathered.unflatten(0, points.shape[:-1])


def _taps(coordinate: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """(index, weight) of the two texels around a coordinate; the weight is 0 outside the plane."""
    position = ((coordinate + 1) * size - 1) / 2
    # Clamping keeps far points (and infinities) within the range of integers; their weights are
    # still 0.
    low = position.detach().floor().clamp(-2, size)
    fraction = (position - low).clamp(0, 1)
    index = low.long()
    taps = []
    for tap, weight in ((index, 1 - fraction), (index + 1, fraction)):
        exists = (tap >= 0) & (tap < size)
        taps.append((tap.clamp(0, size - 1), weight * exists))
    return taps


class _WeightedRows(torch.autograd.Function):
    """out_p = sum_k weights[p, k] rows[indices[p, k]].

    rows [n c], weights [p k], indices [p k] -> [p c]. The forward pass is `F.embedding_bag`; unlike
    it, this function has derivatives of any order. The backward pass scatters one tap after the
    other, which takes a third of the time of embedding_bag's own on a CPU (it sorts).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, indices)
        return F.embedding_bag(indices, rows, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weights, indices = ctx.saved_tensors
        grad, grad_rows, grad_weights = grads[0], None, None
        if ctx.needs_input_grad[0]:
            grad_rows = torch.zeros_like(rows)
            for tap in range(indices.shape[1]):
                grad_rows = grad_rows.index_add_(0, indices[:, tap], weights[:, tap, None] * grad)
        if ctx.needs_input_grad[1]:
            taps = range(indices.shape[1])
            grad_weights = torch.stack([(rows[indices[:, tap]] * grad).sum(-1) for tap in taps], -1)
        return grad_rows, grad_weights, None
