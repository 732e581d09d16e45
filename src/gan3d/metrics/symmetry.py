"""Mirror symmetry: does a generator turn its head, or mirror the picture between the two sides?

CIPS-3D (section 3.3) found that a NeRF followed by a 2D network tends to mirror: bangs change sides
near the frontal view. Two diagnostics:

* The input (figure 7): the distance of a point and its mirror image under a position encoding E,
      d(E(x, y, z), E(-x, y, z)), beside the distance to a neighbor,
      d(E(x, y, z), E(x + step, y, z)).
  Where the mirror image is closer than the neighbor, the network is led to treat both alike.
* The pictures: the similarity of the view from yaw +a and the mirrored view from -a, for several a
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
from gan3d.metrics.exact import exact

Encode = Callable[[Tensor], Tensor]  # points [p 3] -> codes [p c]
SYMMETRIC = 0.999  # frontal similarity above which a head counts as symmetric itself


@dataclass(frozen=True)
class EncodingCurve:
    """Distances between codes along the line (x, y, z), x from -half_width to half_width.

    Attributes:
        x: [p], world units.
        mirror: [p], distance to the code of (-x, y, z).
        neighbor: [p], distance to the code of (x + step, y, z).
        step: distance between neighbors, world units.
    """

    x: Tensor
    mirror: Tensor
    neighbor: Tensor
    step: float

    @property
    def confused(self) -> float:
        """Fraction of points whose code is closer to the mirror image's than to the neighbor's.

        Only points farther than `step` from their mirror image count. An encoding that preserves
        distances has none (CIPS-3D eq. 8, 9).
        """
        apart = 2 * self.x.abs() > self.step * (1 + 1e-6)
        return float((self.mirror < self.neighbor)[apart].double().mean())


def encoding_distance(encode: Encode, points: Tensor, others: Tensor) -> Tensor:
    """Euclidean distance d(E(p), E(q)) of points p, q [p 3], [p]."""
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
    """Distances of a position encoding along a line across the scene (CIPS-3D figure 7).

    Args:
        encode: points [p 3] -> codes [p c].
        half_width: x runs from -half_width to half_width, world units.
        y, z: position of the line, world units.
        num: number of points; not a power of two plus one, which would hit the zeros of a fixed
            encoding's sines.
        step: distance to the neighbor; None uses 2 sin(5 degrees) half_width, the distance of a and
            b in the paper.
        like: a tensor with the dtype and device of the encoding's input; None is float32 on the
            CPU.
    """
    if half_width <= 0 or num < 2:
        raise ValueError(
            f"half_width {half_width} and num {num}; a line needs a positive width and 2 or more "
            "points"
        )

    # the line
    step = 2 * math.sin(math.radians(5)) * half_width if step is None else step
    x = torch.linspace(-half_width, half_width, num, dtype=torch.float64)
    points = torch.stack([x, torch.full_like(x, y), torch.full_like(x, z)], dim=-1)
    points = points.float() if like is None else points.to(like)

    mirror = encoding_distance(encode, points, points * points.new_tensor([-1.0, 1.0, 1.0]))
    neighbor = encoding_distance(encode, points, points + points.new_tensor([step, 0.0, 0.0]))
    return EncodingCurve(x, mirror.cpu().double(), neighbor.cpu().double(), step)


def mirror_similarity(right: Tensor, left: Tensor) -> float:
    """Similarity of heads to their own mirrored views from the other side.

        1 - mean_k |R_k - F L_k|^2 / mean_{k != l} |R_k - F L_l|^2

    1 if the views are equal, 0 if they are no closer than the views of different heads.

    Args:
        right: views from yaw +a, [n 3 H W], n heads.
        left: views of the same heads from -a, not mirrored.

    Raises:
        ValueError: there are fewer than two heads, or all are alike.
    """
    if right.shape != left.shape or right.ndim != 4 or len(right) < 2:
        raise ValueError(
            f"views {list(right.shape)} and {list(left.shape)}; expected both [n 3 H W] with n > 1 "
            "heads"
        )
    own, others = mirror_distances(right, left).sum(0)
    if others <= 1e-12 * (exact(right).square().sum() + exact(left).square().sum()):
        raise ValueError("all heads are alike, so that similarity has no scale; use different z")
    return float(1 - own / others)


def mirror_distances(right: Tensor, left: Tensor) -> Tensor:
    """Of every head R_k: |R_k - F L_k|^2, and the mean of |R_k - F L_l|^2 over the others, l != k.

    One minus the ratio of their sums is `mirror_similarity`, of any heads that one sums over.

    Args:
        right, left: as of `mirror_similarity`.

    Returns:
        float64 [n 2].
    """
    r = exact(right).flatten(1)
    f = exact(left).flip(-1).flatten(1)
    own = (r - f).square().sum(1)
    every = len(r) * r.square().sum(1) + f.square().sum() - 2 * r @ f.sum(0)
    return torch.stack([own, (every - own) / (len(r) - 1)], dim=1)


def mirror_score(similarity: Tensor, frontal: float) -> Tensor:
    """(similarity - frontal) / (1 - frontal), [k]: 1 is perfectly mirrored, about 0 is turning.

    A head that turns differs from its mirror image at every yaw as much as it does from the front.
    NaN if the heads are symmetric from the front: turning and mirroring are then the same.

    Args:
        similarity: `mirror_similarity` of the views from +a and -a, for k yaws a > 0.
        frontal: the same at yaw 0.
    """
    if frontal > SYMMETRIC:
        return torch.full_like(similarity, torch.nan)
    return (similarity - frontal) / (1 - frontal)


@dataclass(frozen=True)
class MirrorSymmetry:
    """Mirror symmetry of a generator.

    Attributes:
        yaw: [k], a > 0, ascending, radians.
        similarity: [k], `mirror_similarity` of the views from +a and -a.
        frontal: `mirror_similarity` at yaw 0, which is due to the symmetry of the heads themselves.
        jump: squared change of the picture from the front to the first yaw (the larger of both
            sides), relative to the median of the other steps. About 1 if heads turn steadily, more
            if something changes sides.
    """

    yaw: Tensor
    similarity: Tensor
    frontal: float
    jump: float

    @property
    def score(self) -> Tensor:
        """`mirror_score` of every yaw, [k]."""
        return mirror_score(self.similarity, self.frontal)

    @property
    def mean(self) -> float:
        """Mean of the score over yaw."""
        return float(self.score.mean())


@torch.no_grad()
def symmetry_of_views(
    views: Callable[[float], Tensor], *, yaw: float = 0.5, num: int = 5
) -> MirrorSymmetry:
    """Mirror symmetry of n heads rendered by a function.

    Args:
        views: yaw -> pictures [n 3 H W]; called once for each of 2 num + 1 yaws.
        yaw: largest yaw, radians.
        num: number of yaws > 0, at equal steps.
    """
    if yaw <= 0 or num < 2:
        raise ValueError(f"yaw {yaw} and num {num}; use a yaw above 0 and 2 or more steps")
    yaws = [yaw * (k + 1) / num for k in range(num)]

    # from the front outwards, on both sides at once
    front = views(0.0)
    right, left = front, front
    similarities, steps = [], []
    for a in yaws:
        next_right, next_left = views(a), views(-a)
        similarities.append(mirror_similarity(next_right, next_left))
        steps.append((exact(next_right) - exact(right)).square().mean())
        steps.append((exact(next_left) - exact(left)).square().mean())
        right, left = next_right, next_left

    first = torch.stack(steps[:2]).max()
    others = torch.stack(steps[2:]).median()
    return MirrorSymmetry(
        yaw=torch.tensor(yaws, dtype=torch.float64),
        similarity=torch.tensor(similarities, dtype=torch.float64),
        frontal=mirror_similarity(front, front),
        jump=float(first / others) if others > 0 else torch.nan,
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
    """Mirror symmetry of a generator, from pictures at 2 num + 1 yaws, conditioned on the
    frontal camera.

    Args:
        generator: a generator with a camera, in evaluation mode.
        z: heads [n z_dim]; 8 or more for a score that is accurate to about 0.2.
        yaw: largest yaw, radians; beyond the yaws of the training data the result is arbitrary.
        num: number of yaws > 0, at equal steps.
        radius: distance of the cameras from the origin, world units.
        fov: field of view in degrees; None is 18.83.
        truncation: truncation of `generator.map`.
        resolution: resolution of `generator.render`.
        raw: measure the raw image (CIPS-3D: the auxiliary image) instead of the image.

    Raises:
        ValueError: the generator has no camera, or no raw image if `raw`.
    """
    name = type(generator).__name__
    if not generator.has_camera:
        raise ValueError(f"{name} has no camera to move; mirror symmetry needs a 3D generator")
    if raw and not generator.has_raw:
        raise ValueError(f"{name} has no raw image; set raw to False")

    def seen_from(angle: float) -> Camera:
        return Camera.from_angles(angle, 0.0, radius=radius, fov=fov).to(z)

    condition = generator.frontal_condition(seen_from(0.0), 1)
    scenes = [
        generator.represent(generator.map(one[None], condition, truncation=truncation)) for one in z
    ]

    def views(angle: float) -> Tensor:
        camera = seen_from(angle)
        pictures = []
        for scene in scenes:
            view = generator.render(scene, camera, resolution=resolution, raw=raw)
            picture = view.raw if raw else view.image
            assert picture is not None
            pictures.append(picture)
        return torch.cat(pictures).cpu()

    return symmetry_of_views(views, yaw=yaw, num=num)
