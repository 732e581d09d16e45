"""Sphere tracing of many heads at once: first cones around blocks of rays, then the rays.

A ray is ``origin + t · direction`` with a direction whose camera z is one, so ``t`` is the
camera-space depth. Rays that have not arrived are re-packed into full tiles every few steps. A tile
never mixes heads, so its result depends on its own head only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.data.heads.scene import HEAD_SCALE, Scene, distance

NEAR, FAR = 2.2, 3.35  # depth, world units
LANES = 128
TILES_AT_ONCE = 128  # 16384 points: the intermediate results stay in the cache
_RELAX = 0.9  # the distance bound's gradient reaches 1.4 near the surface
_STEPS_PER_PACKING = 4
_PATIENCE = 28  # number of steps after which the tolerance grows
_BLOCK = 4  # rays along the side of a block of the cone pass


@dataclass(frozen=True)
class HeadRays:
    """Rays of b heads, sorted by head.

    Args:
        head: [n] int64, ascending.
        origins: [b 3] camera centers, world units.
        directions: [3 n] with camera z one, world units.
    """

    head: Tensor
    origins: Tensor
    directions: Tensor

    def select(self, index: Tensor) -> HeadRays:
        return HeadRays(self.head[index], self.origins, self.directions[:, index])


class Packing:
    """Packs n rays, sorted by head, into tiles of LANES lanes that never mix heads.

    Attributes:
        head: [t] head of every tile.
        slot: [n] lane of every ray, counted over all tiles.
    """

    def __init__(self, head: Tensor, num_heads: int) -> None:
        counts = torch.bincount(head, minlength=num_heads)
        tiles = (counts + LANES - 1) // LANES
        self.head = torch.repeat_interleave(torch.arange(num_heads, device=head.device), tiles)  # t
        before = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(head), device=head.device) - before[head]
        self.slot = (torch.cumsum(tiles, 0) - tiles)[head] * LANES + rank  # n

    def spread(self, values: Tensor) -> Tensor:
        """[c n] -> [t c l]; empty lanes hold zero."""
        out = values.new_zeros(values.shape[0], len(self.head) * LANES)
        out[:, self.slot] = values
        return out.reshape(values.shape[0], -1, LANES).transpose(0, 1).contiguous()

    def gather(self, tiles: Tensor) -> Tensor:
        """[t c l] -> [c n]."""
        return tiles.transpose(0, 1).reshape(tiles.shape[1], -1)[:, self.slot]

    def chunks(self) -> list[slice]:
        """Chunks of at most TILES_AT_ONCE tiles."""
        tiles = len(self.head)
        return [slice(k, min(k + TILES_AT_ONCE, tiles)) for k in range(0, tiles, TILES_AT_ONCE)]


def grid(size: int, focal: Tensor, cam2world: Tensor, *, step: int = 1) -> HeadRays:
    """Rays through the cell centers of a size x size grid over the image, or through its blocks.

    Args:
        size: cells along a side.
        focal: [b] in units of the image width; the principal point is the image center.
        cam2world: [b 4 4], OpenCV.
        step: side of a block in cells.

    Returns:
        Rays in row-major order, head by head.
    """
    cells = (size + step - 1) // step
    cell = torch.arange(cells, dtype=torch.float64, device=focal.device)
    centers = (cell * step + step / 2) / size - 0.5
    v, u = torch.meshgrid(centers, centers, indexing="ij")
    local = torch.stack([u.flatten(), v.flatten()])[None] / focal.double()[:, None, None]
    local = torch.cat([local, torch.ones_like(local[:, :1])], dim=1)  # b 3 r
    directions = torch.einsum("bij,bjr->bir", cam2world[:, :3, :3].double(), local)
    head = torch.repeat_interleave(torch.arange(len(focal), device=focal.device), cells * cells)
    flat = directions.transpose(0, 1).reshape(3, -1)
    return HeadRays(head, cam2world[:, :3, 3].float(), flat.float())


def trace_grid(
    scene: Scene,
    size: int,
    focal: Tensor,
    cam2world: Tensor,
    tolerance: float,
    guess: Tensor | None = None,
) -> tuple[HeadRays, Tensor]:
    """Trace every ray of a grid.

    Args:
        scene: b heads.
        size: rays along a side.
        focal: [b].
        cam2world: [b 4 4].
        tolerance: a ray arrives when the distance is below tolerance · depth, head units.
        guess: [n] depth slightly in front of the surface where known, +inf elsewhere.

    Returns:
        (rays, depth [n]): camera z of the surface, +inf for rays that miss it.
    """
    rays = grid(size, focal, cam2world)
    spacing = float(1 / (size * focal.min()))

    # Cone pass: the depth at which the surface may first enter the cone of a block. Blocks whose
    # cone it never enters show background only.
    blocks = grid(size, focal, cam2world, step=_BLOCK)
    radius = 1.3 * _BLOCK * 0.7072 * spacing / HEAD_SCALE
    near = torch.full_like(blocks.directions[0], NEAR)
    start, near_surface = sphere_trace(scene, blocks, near, radius, steps=48)
    start = start * (1 - 0.5 * radius)

    # the block of every ray
    cell = torch.arange(size, device=focal.device) // _BLOCK
    side = (size + _BLOCK - 1) // _BLOCK
    block = (cell[:, None] * side + cell[None]).flatten()
    head = torch.arange(len(focal), device=focal.device)
    block = (head[:, None] * side * side + block[None]).flatten()  # n

    # Ray pass.
    candidates = near_surface[block].nonzero()[:, 0]
    start = start[block] if guess is None else torch.where(guess.isfinite(), guess, start[block])
    found, hit = sphere_trace(
        scene, rays.select(candidates), start[candidates], tolerance, steps=120
    )
    depth = torch.full_like(rays.directions[0], torch.inf)
    depth[candidates] = torch.where(hit, found, depth[candidates])
    return rays, depth


def sphere_trace(
    scene: Scene, rays: HeadRays, start: Tensor, tolerance: float, steps: int
) -> tuple[Tensor, Tensor]:
    """March until the distance is below ``tolerance · t`` (head units) or the depth exceeds FAR.

    Args:
        scene: b heads.
        rays: n rays.
        start: [n] first depth.
        tolerance: slope of the cone that counts as arrival.
        steps: maximum number of steps. A ray that is then still marching counts as arrived: it
            grazes the surface, and a miss would leave a hole.

    Returns:
        (depth [n], arrived [n] bool).
    """
    depth = start.clone()
    arrived = torch.ones_like(start, dtype=torch.bool)
    stride = _RELAX * HEAD_SCALE / rays.directions.norm(dim=0)
    active = torch.arange(len(start), device=start.device)
    for step_number in range(0, steps, _STEPS_PER_PACKING):
        # Grazing rays creep along the surface; after many steps a larger distance will do.
        slack = tolerance * (1 + max(0, step_number - _PATIENCE) / 8)

        # pack the active rays
        packing = Packing(rays.head[active], len(rays.origins))
        bundle = packing.spread(
            torch.cat([rays.directions[:, active], stride[active][None], depth[active][None]])
        )
        origins = rays.origins[packing.head][:, :, None] / HEAD_SCALE
        excess = torch.empty_like(bundle[:, 0])  # distance beyond the tolerance

        # march
        for chunk in packing.chunks():
            tiles = scene.select(packing.head[chunk])
            direction = bundle[chunk, 0:3] / HEAD_SCALE
            step = bundle[chunk, 3]
            t = bundle[chunk, 4].clone()
            for _ in range(_STEPS_PER_PACKING):
                d = distance(tiles, torch.addcmul(origins[chunk], direction, t[:, None]))
                d_excess = d - slack * t
                # A ray that has arrived takes a full last step and then hardly moves: d is about 0.
                t = torch.addcmul(t, d.clamp_max(0.25), step)
            bundle[chunk, 4] = t
            excess[chunk] = d_excess

        # drop the rays that have left or arrived
        t, d = packing.gather(torch.stack([bundle[:, 4], excess], dim=1))
        depth[active] = t
        left = t > FAR
        arrived[active[left]] = False
        active = active[(d > 0) & ~left]
        if not len(active):
            break
    return depth, arrived
