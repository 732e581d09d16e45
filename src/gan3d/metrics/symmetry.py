"""Mirror symmetry: does a generator turn its head, or show the mirror image of what it showed from
the other side?

CIPS-3D (section 3.3) found that a NeRF followed by a 2D network tends to the latter: bangs change
sides near the frontal view. Two diagnostics:

* of the input: how far a position encoding E takes a point from its mirror image (figure 7),
      d(E(x, y, z), E(-x, y, z)), beside d(E(x, y, z), E(x + step, y, z)), the distance to a
      neighbor.
  Where the mirror image is the nearer of the two, the network is invited to paint both alike.
* of the pictures: how like are the view from yaw +a and the mirrored view from -a, for several a
(`mirror_symmetry`).

Convention: F mirrors at the plane x = 0 (yOz), a picture left-right. Yaw in radians. Nothing here
has gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import Generator

Encode = Callable[[Tensor], Tensor]  # points [p 3] -> codes [p c]
SYMMETRIC = 0.999  # frontal similarity from which a head and its mirror image are one


@dataclass(frozen=True)
class EncodingCurve:
    """Distances between codes along the line (x, y, z), x from -half_width to half_width.

    Attributes:
        x: [p].
        mirror: to the code of (-x, y, z), [p].
        neighbor: to the code of (x + step, y, z), [p].
        step: between neighbors.
    """

    x: Tensor
    mirror: Tensor
    neighbor: Tensor
    step: float

    @property
    def confused(self) -> float:
        """Share of points farther than `step` from their mirror image whose code is nearer to it
        than to the neighbor.

        By distance alone there are none (CIPS-3D eq. 8); an encoding that has some is not distance
        preserving (eq. 9).
        """
        apart = 2 * self.x.abs() > self.step * (1 + 1e-6)
        return float((self.mirror < self.neighbor)[apart].double().mean())


def encoding_distance(encode: Encode, points: Tensor, others: Tensor) -> Tensor:
    """d(E(p), E(q)) for points p, q [p 3]: Euclidean, [p]."""
    return torch.linalg.vector_norm(encode(points) - encode(others), dim=-1)


@torch.no_grad()
def encoding_curve(
    encode: Encode,
    half_width: float,
    *,
    y: float = 0.0,
    z: float = 0.0,
    num: int = 101,
    step: float | None = None,
    like: Tensor | None = None,
) -> EncodingCurve:
    """The position encoding's distances along a line across the scene (after CIPS-3D figure 7).

    Args:
        encode: points [p 3] -> codes [p c].
        half_width: x goes from minus to plus this, world units.
        y, z: of the line.
        num: points; not a power of two plus one, which would meet the zeros of a fixed encoding's
            sines.
        step: to the neighbor; None is 2 sin(5 degrees) half_width, as far as the paper's b is from
            a.
        like: a tensor of the dtype and device that `encode` takes; None is float32 on the CPU.
    """
    if half_width <= 0 or num < 2:
        raise ValueError(
            f"half_width {half_width} and num {num}; a line needs a positive width and 2 or more "
            "points"
        )
    step = 2 * math.sin(math.radians(5)) * half_width if step is None else step
    x = torch.linspace(-half_width, half_width, num, dtype=torch.float64)
    points = torch.stack([x, torch.full_like(x, y), torch.full_like(x, z)], dim=-1)
    points = points.float() if like is None else points.to(like)
    mirrored, moved = (
        points * points.new_tensor([-1.0, 1.0, 1.0]),
        points + points.new_tensor([step, 0.0, 0.0]),
    )
    mirror, neighbor = (encoding_distance(encode, points, others) for others in (mirrored, moved))
    return EncodingCurve(x, mirror.double().cpu(), neighbor.double().cpu(), step)


def mirror_similarity(right: Tensor, left: Tensor) -> float:
    """How like heads seen from one side are to their own mirrored views from the other side: 1
    equal, 0 like others'.

        1 - mean_k |R_k - F L_k|^2 / mean_{k != l} |R_k - F L_l|^2

    Args:
        right: views from yaw +a, [n 3 H W], n heads.
        left: views of the same heads from -a, as they were rendered; they are mirrored here.

    Raises:
        ValueError: there is nothing to compare with: fewer than two heads, or all alike.
    """
    if right.shape != left.shape or right.ndim != 4 or len(right) < 2:
        raise ValueError(
            f"views {list(right.shape)} and {list(left.shape)}; expected both [n 3 H W] with n > 1 "
            "heads"
        )
    r, f = right.double().flatten(1), left.double().flip(-1).flatten(1)
    own = (r - f).square().sum()
    every = len(r) * (r.square().sum() + f.square().sum()) - 2 * (r.sum(0) * f.sum(0)).sum()
    others = (every - own) / (len(r) - 1)  # of as many pairs as `own`
    if others <= 1e-12 * (r.square().sum() + f.square().sum()):
        raise ValueError("all heads are alike, so that similarity has no scale; use different z")
    return float(1 - own / others)


@dataclass(frozen=True)
class MirrorSymmetry:
    """How mirror-symmetric a generator is.

    Attributes:
        yaw: a > 0, ascending, [k].
        similarity: of the view from +a and the mirrored view from -a (`mirror_similarity`), [k].
        frontal: the same at yaw 0: what the heads' own symmetry explains.
        jump: squared change of the picture from the front to the first yaw on either side, the
            larger of the two, relative to the median of the other steps: about 1 if heads turn
            steadily, more if something changes sides.
    """

    yaw: Tensor
    similarity: Tensor
    frontal: float
    jump: float

    @property
    def score(self) -> Tensor:
        """(similarity - frontal) / (1 - frontal), [k]: 1 is perfectly mirrored, about 0 is what a
        steady head shows.

        A head that turns and its mirror image differ from every yaw as they do in front. NaN where
        the heads are symmetric in front: then nothing tells turning from mirroring.
        """
        if self.frontal > SYMMETRIC:
            return torch.full_like(self.similarity, torch.nan)
        return (self.similarity - self.frontal) / (1 - self.frontal)

    @property
    def mean(self) -> float:
        """The score, averaged over yaw."""
        return float(self.score.mean())


@torch.no_grad()
def symmetry_of_views(
    views: Callable[[float], Tensor], *, yaw: float = 0.5, num: int = 5
) -> MirrorSymmetry:
    """Mirror symmetry of n heads that a function shows: views(yaw) -> pictures [n 3 H W].

    Args:
        views: called once for each of 2 num + 1 yaws.
        yaw: the largest, radians.
        num: yaws > 0, at equal steps.
    """
    if yaw <= 0 or num < 2:
        raise ValueError(f"yaw {yaw} and num {num}; use a yaw above 0 and 2 or more steps")
    yaws = [yaw * (k + 1) / num for k in range(num)]
    front = views(0.0)
    right, left, similarities, steps = front, front, [], []
    for a in yaws:
        beyond = views(a), views(-a)
        similarities.append(mirror_similarity(*beyond))
        steps += [
            (now.double() - was.double()).square().mean() for now, was in zip(beyond, (right, left))
        ]
        right, left = beyond
    across, others = torch.stack(steps[:2]).max(), torch.stack(steps[2:]).median()
    jump = float(across / others) if others > 0 else torch.nan
    similarity = torch.tensor(similarities, dtype=torch.float64)
    return MirrorSymmetry(
        torch.tensor(yaws, dtype=torch.float64), similarity, mirror_similarity(front, front), jump
    )


@torch.no_grad()
def mirror_symmetry(
    generator: Generator,
    z: Tensor,
    *,
    yaw: float = 0.5,
    num: int = 5,
    radius: float = 2.7,
    fov: float | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    raw: bool = False,
) -> MirrorSymmetry:
    """Mirror symmetry of a generator, from pictures of 2 num + 1 yaws. Conditioning is neutral.

    Args:
        generator: with a camera, in evaluation mode.
        z: heads [n z_dim]; 8 or more for a score that is good to about 0.2.
        yaw: the largest, radians; beyond the yaws of its training a generator may show anything.
        num: yaws > 0, at equal steps.
        radius: distance of the cameras.
        fov: field of view, degrees; None is 18.83.
        truncation: of `generator.map`.
        resolution: of `generator.render`.
        raw: of the raw image (CIPS-3D: the auxiliary one) instead of the image.
    """
    name = type(generator).__name__
    if not generator.has_camera:
        raise ValueError(f"{name} has no camera to move; mirror symmetry needs a 3D generator")
    if raw and not generator.has_raw:
        raise ValueError(f"{name} has no raw image; leave out raw")
    scenes = [generator.represent(generator.map(one[None], truncation=truncation)) for one in z]

    def views(angle: float) -> Tensor:
        camera = Camera.from_angles(angle, 0.0, radius=radius, fov=fov).to(z)
        shown = [
            generator.render(scene, camera, resolution=resolution, raw=raw) for scene in scenes
        ]
        return torch.cat(
            [part for view in shown if (part := view.raw if raw else view.image) is not None]
        ).cpu()

    return symmetry_of_views(views, yaw=yaw, num=num)
