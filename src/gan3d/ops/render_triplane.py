"""Volume rendering of tri-planes: lookup, decoder and compositing as one op (EG3D, section 3.2).

    x_s = o + d_s v,   F(x_s) from the planes (`ops.triplane`)
    sigma_s, c_s = decoder(F(x_s)) (`ops.field_decoder`),   sigma_s = sigma_s + offset_s
    C, D, W by the mid-point rule (`ops.composite`)

`render_triplane` takes the distances d_s in increasing order, so that whatever draws them draws the
same for every backend; `triplane_density` gives the densities alone, from which importance samples
are drawn. On a GPU each is one kernel (`ops.triton.render_triplane`) that keeps nothing of the size
of the samples but scalars: no feature, no hidden layer and no color of a sample is ever in memory,
and the backward pass computes them again.

Convention: distances carry no gradient; planes, decoder, offsets and rays do, any number of times.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gan3d.ops.backend import Backend, choose, deterministic
from gan3d.ops.composite import Composite, Samples, composite
from gan3d.ops.field_decoder import decode
from gan3d.ops.field_decoder import reference as decode_reference
from gan3d.ops.triplane import PlaneTable

MOST_CHANNELS = 64  # of planes, hidden layer and colors that the kernels take


class DecoderWeights(NamedTuple):
    """Of `ops.field_decoder.decode`: w1 [h c], b1 [h], w2 [1+f h], b2 [1+f]."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def render_triplane(
    table: PlaneTable,
    decoder: DecoderWeights,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    *,
    box_warp: float,
    offset: Tensor | None = None,
    background: float | None = None,
    backend: Backend | None = None,
) -> Composite:
    """C, D and W of rays through tri-planes.

    Args:
        table: the planes, of 1 or b scenes.
        decoder: weights.
        origins: o, [b r 3].
        directions: v, [b r 3].
        depths: d_s in increasing order, [b r s].
        box_warp: side of the cube that the planes span.
        offset: added to the raw densities, [b r s]: noise, or a prior.
        background: color behind everything; None is black (0).
        backend: see `ops.backend`; None chooses. The kernel takes at most 64 channels, hidden
            units and colors; its backward pass adds by atomics, so that under deterministic
            algorithms torch takes its place.

    Returns:
        rgb [b r f], depth and opacity [b r].

    Raises:
        ValueError: the backend does not run here.
    """
    backend = choose(backend, table.rows)
    if backend == "triton" and is_fused(table, decoder):
        from gan3d.ops.triton.render_triplane import render_rays

        options = (*_shape(table), 2 / box_warp, background or 0.0)
        rays = (origins, directions, depths.detach(), offset)
        return Composite(*render_rays(table.rows, *decoder, *rays, *options))
    return _form(table, decoder, origins, directions, depths, box_warp, offset, background, backend)


@torch.no_grad()
def triplane_density(
    table: PlaneTable,
    decoder: DecoderWeights,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    *,
    box_warp: float,
    offset: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Raw densities of samples, [b r s], without gradient. Arguments as for `render_triplane`."""
    backend = choose(backend, table.rows)
    if backend == "triton" and is_fused(table, decoder):
        from gan3d.ops.triton.render_triplane import densities

        rays = (origins, directions, depths, offset)
        return densities(table.rows, *decoder, *rays, *_shape(table), 2 / box_warp)
    return _samples(table, decoder, origins, directions, depths, box_warp, offset, backend).sigma


def is_fused(table: PlaneTable, decoder: DecoderWeights) -> bool:
    """Whether the kernels take these sizes, under the present rules of determinism."""
    hidden, channels = decoder.w1.shape
    return max(hidden, channels, len(decoder.w2) - 1) <= MOST_CHANNELS and not deterministic()


def render_form(
    rows: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    offset: Tensor | None,
    batch: int,
    height: int,
    width: int,
    axes: list[int],
    scale: float,
    background: float,
) -> Composite:
    """What the kernel computes, in torch, for its derivatives of higher order."""
    projections = tuple(zip(axes[::2], axes[1::2], strict=True))
    table = PlaneTable(rows, batch, height, width, projections)
    weights = DecoderWeights(w1, b1, w2, b2)
    rays = (origins, directions, depths, 2 / scale, offset, background)
    return _form(table, weights, *rays, "fast")


def _form(
    table: PlaneTable,
    decoder: DecoderWeights,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    box_warp: float,
    offset: Tensor | None,
    background: float | None,
    backend: Backend,
) -> Composite:
    depths = depths.detach()
    samples = _samples(table, decoder, origins, directions, depths, box_warp, offset, backend)
    return composite(samples, background=background, backend=backend)


def _samples(
    table: PlaneTable,
    decoder: DecoderWeights,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    box_warp: float,
    offset: Tensor | None,
    backend: Backend,
) -> Samples:
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]  # b r s 3
    lookup = backend if backend == "triton" else "fast"  # the reference needs unpacked planes
    features = table.features(points, box_warp=box_warp, backend=lookup)
    sigma, rgb = (decode_reference if backend == "reference" else decode)(features, *decoder)
    sigma = sigma[..., 0] if offset is None else sigma[..., 0] + offset
    return Samples(depths, sigma, rgb)


def _shape(table: PlaneTable) -> tuple[int, int, int, list[int]]:
    """Scenes, height and width of the planes, and their axes one after the other."""
    axes = [axis for pair in table.projections for axis in pair]
    return table.batch, table.height, table.width, axes
