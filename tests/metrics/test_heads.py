"""All measures of heads whose answers are known, in one table.

pytest tests/metrics/test_heads.py -s -k known

A row is a kind of head, whose every view is known; a column is a measure. The quick part has
neither the fields that are fitted to many views nor the rows that differ in few values.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gan3d.camera import Camera
from gan3d.data.heads import head_camera, render_heads, sample_heads
from gan3d.generators import Rendering
from gan3d.metrics.alarms import flatness
from gan3d.metrics.epipolar import EpipolarLines
from gan3d.metrics.heads import measure_heads
from gan3d.metrics.readings import AttributeDrift, ConditioningDrift, DepthError, PoseError
from gan3d.metrics.refit import Reconstruction, SelfConsistency
from gan3d.metrics.reprojection import Reprojection
from gan3d.metrics.symmetry import symmetry_of_views
from gan3d.metrics.views import measure_views
from gan3d.ops.grid_sample import grid_sample

NUM, SIDE, SEED = 5, 64, 31
MOST = 1000  # names of heads
FEW = 2  # of these heads, for the measures of many views
WALL = 3.4  # depth of the background where a picture is bent over a relief
Views = Callable[..., Rendering]  # of the yaw of the camera, and its pitch


class Known:
    """Stands in for a generator: scenes of which every view is known, by the camera's angles."""

    has_camera = True

    def __init__(self, views: Views):
        self.views = views

    def map(self, z, camera, *, truncation=1.0):
        yaw, pitch = camera.yaw_pitch()
        assert yaw.abs().max() < 1e-6
        assert pitch.abs().max() < 1e-6, "not conditioned on the frontal camera"
        return z

    def represent(self, ws):
        return ws

    def render(self, scene, camera, *, resolution=None, raw=True):
        yaw, pitch = camera.yaw_pitch()
        return self.views(float(yaw[0]), float(pitch[0]))


def at(num: int, yaw: float, pitch: float = 0.0) -> Camera:
    return head_camera(torch.full((num,), yaw), torch.full((num,), pitch))


def true_heads(num: int, first: int = 0) -> Views:
    """Heads as they are, `num` from the one that is called `first`."""
    known: dict[tuple[float, float], Rendering] = {}

    def views(yaw: float, pitch: float = 0.0) -> Rendering:
        angles = round(yaw, 4), round(pitch, 4)
        if angles not in known:
            heads = sample_heads(SEED, range(first, first + num))
            seen = render_heads(heads, at(num, *angles), SIDE, 1)
            known[angles] = Rendering(seen.image, depth=seen.depth, opacity=seen.mask)
        return known[angles]

    return views


@pytest.fixture(scope="module")
def true_views() -> Views:
    return true_heads(NUM)


def bent(front: Rendering, depth: Tensor, opacity: Tensor | None = None) -> Views:
    """The frontal pictures on another relief, a depth map of the frontal view [b 1 h w]; opaque
    everywhere, or where the frontal view is.
    """
    opacity = torch.ones_like(depth) if opacity is None else opacity
    num = len(depth)

    def views(yaw: float, pitch: float = 0.0) -> Rendering:
        return seen_from(round(yaw, 4), round(pitch, 4))

    @cache
    def seen_from(yaw: float, pitch: float) -> Rendering:
        if yaw == pitch == 0:
            return Rendering(front.image, depth=depth, opacity=opacity)
        camera = at(num, yaw, pitch)
        rays = camera.rays(SIDE)
        nearest = torch.full(rays.cosines.shape, torch.inf)
        color = torch.zeros(*rays.cosines.shape[:2], 4)  # and opacity
        for along in torch.linspace(2.1, 3.9, 110):
            uv, z = at(num, 0.0).project(rays.origins + rays.directions * (along / rays.cosines))
            channels = torch.cat([front.image, opacity, depth], dim=1)
            grid = (2 * uv - 1).unflatten(1, (SIDE, SIDE)).clamp(1 / SIDE - 1, 1 - 1 / SIDE)
            seen = grid_sample(channels, grid).flatten(2).mT  # b (h w) 5
            behind = (z >= seen[..., 4:]) & nearest.isinf()
            nearest = torch.where(behind, along, nearest)
            color = torch.where(behind, seen[..., :4], color)
        image, alpha = color.mT.unflatten(2, (SIDE, SIDE)).split([3, 1], dim=1)
        return Rendering(image, depth=nearest.mT.unflatten(2, (SIDE, SIDE)), opacity=alpha)

    return views


def middle(depth: Tensor) -> Tensor:
    """The mean depth of each head."""
    seen = depth.isfinite()
    where = {"dim": (1, 2, 3), "keepdim": True}
    return torch.where(seen, depth, 0).sum(**where) / seen.sum(**where)


def mirrored_depth(depth: Tensor) -> Tensor:
    """What was near is far: the depth reflected at the mean of each head."""
    return 2 * middle(depth) - depth


def halved(depth: Tensor) -> Tensor:
    """Half the relief about the mean of each head."""
    return (depth + middle(depth)) / 2


def walled(depth: Tensor) -> Tensor:
    return torch.where(depth.isfinite(), depth, WALL)


def mirrored(views: Views) -> Views:
    """Every view flipped, with the camera as it was."""

    def flipped(yaw: float, pitch: float = 0.0) -> Rendering:
        view = views(yaw, pitch)
        return Rendering(view.image.flip(3), depth=view.depth.flip(3), opacity=view.opacity.flip(3))

    return flipped


def sides_mirrored(views: Views) -> Views:
    """From the left, the mirror images of the views from the right."""

    def shown(yaw: float, pitch: float = 0.0) -> Rendering:
        return views(yaw, pitch) if yaw >= 0 else mirrored(views)(-yaw, pitch)

    return shown


def sticking(views: Views) -> Views:
    """The layout of the heads as it is, the detail of the frontal picture."""
    fixed = views(0.0, 0.0).image
    fixed = fixed - soft(fixed)

    def stuck(yaw: float, pitch: float = 0.0) -> Rendering:
        view = views(yaw, pitch)
        return Rendering(soft(view.image) + fixed, depth=view.depth, opacity=view.opacity)

    return stuck


def soft(image: Tensor) -> Tensor:
    """The mean over 7 x 7 pixels."""
    padded = functional.pad(image, (3, 3, 3, 3), mode="replicate")
    return functional.avg_pool2d(padded, 7, stride=1)


def kinds_of_heads(num: int) -> dict[str, Views]:
    """The rows of the table, of the same heads."""
    true = true_heads(num)
    front = true(0.0, 0.0)
    plane = torch.full_like(front.depth, 2.7)

    def cut_out(depth: Tensor) -> Views:
        return bent(front, walled(depth), front.opacity)

    def other(yaw: float, pitch: float = 0.0) -> Rendering:
        turn, view = round(yaw / 0.25), true(yaw, pitch)
        image = true_heads(num, num * turn % MOST)(yaw, pitch).image
        return Rendering(image, depth=view.depth, opacity=view.opacity)

    return {
        "true heads": true,
        "true relief, frontal picture": cut_out(front.depth),
        "half relief": cut_out(halved(front.depth)),
        "hollow heads": cut_out(mirrored_depth(front.depth)),
        "billboards": cut_out(plane),
        "billboards, whole picture": bent(front, plane),
        "detail that sticks": sticking(true),
        "mirrored heads": mirrored(true),
        "mirrored sides": sides_mirrored(true),
        "heads that do not turn": lambda yaw, pitch=0.0: front,
        "another head at every yaw": other,
        "2D model": lambda yaw, pitch=0.0: Rendering(front.image),
    }


@pytest.fixture(scope="module")
def known() -> dict[int, dict[str, Views]]:
    """Every kind of NUM heads, and of FEW."""
    return {num: kinds_of_heads(num) for num in (NUM, FEW)}


def measured(known: dict[int, dict[str, Views]], what: str, fields: bool) -> dict[str, float]:
    """What the measures say of a kind of head."""
    many, few = known[NUM][what], known[FEW][what]
    front = many(0.0)
    deep = front.depth is not None
    values = measure_heads(Known(many), [torch.zeros(NUM, 1)], relief=deep)
    values["mirror"] = symmetry_of_views(lambda yaw: many(yaw).image, yaw=0.5, num=2).mean
    metrics = [EpipolarLines(9, 0.08), PoseError(), AttributeDrift()]
    if deep:
        values["flatness"] = float(flatness(front.depth, front.opacity, at(NUM, 0.0)).mean()) / 2.7
        metrics += [DepthError(), Reprojection((-0.4, 0.0, 0.4))]
    if fields:
        metrics += [Reconstruction(), SelfConsistency()]
    return values | measure_views(Known(few), [torch.zeros(FEW, 1)], metrics)


# What the table must show: (from, to) of each value. What is not there is not the measure's to say.
RIGHT, FLAT, HOLLOW = (0.9, 1.25), (-0.05, 0.05), (-1.25, -0.9)
HALF = (0.4, 0.65)
ALL, NONE = (1.0, 1.0), (0.0, 0.0)
TRUE = {
    "face_slope": RIGHT,
    "face_convex": ALL,
    "body_slope": RIGHT,
    "body_convex": ALL,
    "background_behind": (0.25, 0.4),
}
EXPECTED = {
    "true heads": TRUE
    | {
        "flatness": (0.014, 0.03),
        "turn": (0.9, 1.1),
        "identity": (0.7, 0.95),
        "mirror": (-0.2, 0.2),
        "epi_straight": (0.7, 0.85),
        "epi_parallax": (0.15, 0.25),
        "pose_error": (0, 0.005),
        "drift": (0.04, 0.1),
        "depth_error": (0, 0.1),
        "reprojection_psnr": (27, 29),
        "reprojection_share": (0.76, 0.82),
        "reconstruction_psnr": (27.5, 30),
        "self_psnr": (28.8, 31),
    },
    "true relief, frontal picture": TRUE
    | {
        "flatness": (0.014, 0.03),
        "turn": (0.9, 1.4),
        "epi_straight": (0.85, 0.97),
        "epi_parallax": (0.19, 0.25),
        "pose_error": (0, 0.01),
        "depth_error": (0.3, 0.65),
        "reprojection_psnr": (50, 80),
        "reconstruction_psnr": (29.5, 32),
        "self_psnr": (28, 30),
    },
    "half relief": TRUE
    | {
        "face_slope": HALF,
        "body_slope": HALF,
        "flatness": (0.006, 0.015),
        "turn": (0.4, 0.9),
        "epi_parallax": (0.14, 0.19),
        "depth_error": (0.65, 0.9),
        "reprojection_psnr": (50, 80),
        "reconstruction_psnr": (29.5, 32),
        "self_psnr": (28, 30.5),
    },
    "hollow heads": {
        "face_slope": HOLLOW,
        "face_convex": NONE,
        "body_slope": HOLLOW,
        "body_convex": NONE,
        "background_behind": (0.2, 0.35),
        "flatness": (0.014, 0.03),
        "turn": (-0.5, 0.5),
        "epi_parallax": (0.03, 0.1),
        "pose_error": (0.03, 0.1),
        "depth_error": (2, 4),
        "reprojection_psnr": (50, 80),
        "reconstruction_psnr": (27.5, 30),
        "self_psnr": (25.5, 27.5),
    },
    "billboards": {
        "face_slope": FLAT,
        "face_convex": NONE,
        "body_slope": FLAT,
        "body_convex": NONE,
        "background_behind": (0.2, 0.3),
        "flatness": (-1e-6, 1e-6),
        "turn": (-0.2, 0.2),
        "epi_straight": (0.99, 1),
        "epi_parallax": (-0.04, 0.01),
        "pose_error": (0.04, 0.1),
        "depth_error": (1, 2),
        "reprojection_psnr": (50, 80),
        "reprojection_share": (0.85, 1),
        "reconstruction_psnr": (29, 32),
        "self_psnr": (28.5, 31),
    },
    "billboards, whole picture": {
        "face_slope": FLAT,
        "face_convex": NONE,
        "body_slope": FLAT,
        "body_convex": NONE,
        "background_behind": FLAT,
        "flatness": (-1e-6, 1e-6),
        "turn": (-0.2, 0.2),
    },
    "detail that sticks": TRUE
    | {
        "turn": (0.3, 0.6),
        "epi_straight": (0.97, 1),
        "epi_parallax": (-0.03, 0.05),
        "pose_error": (0.01, 0.05),
        "reprojection_psnr": (15, 22),
        "reconstruction_psnr": (26, 28),
        "self_psnr": (26, 28),
    },
    "mirrored heads": TRUE
    | {
        "turn": (-1.1, -0.9),
        "identity": (0.7, 0.95),
        "mirror": (-0.2, 0.2),
        "epi_parallax": (-0.25, -0.15),
        "pose_error": (0.15, 0.3),
        "depth_error": (0, 0.1),
        "reprojection_psnr": (10, 20),
        "reconstruction_psnr": (23, 25.5),
        "self_psnr": (19, 22.5),
    },
    "mirrored sides": TRUE
    | {
        "turn": (0.9, 1.1),
        "mirror": (1 - 1e-6, 1 + 1e-6),
        "pose_error": (0, 0.005),
    },
    "heads that do not turn": TRUE
    | {
        "turn": (-1e-6, 1e-6),
        "identity": (1 - 1e-6, 1 + 1e-6),
        "mirror": (-1e-6, 1e-6),
    },
    "another head at every yaw": TRUE | {"turn": (0.9, 1.1), "identity": (-0.3, 0.3)},
    "2D model": {
        "turn": (-1e-6, 1e-6),
        "identity": (1 - 1e-6, 1 + 1e-6),
        "mirror": (-1e-6, 1e-6),
        "epi_straight": (1 - 1e-6, 1 + 1e-6),
        "epi_parallax": (-1e-6, 1e-6),
        "pose_error": (0.05, 0.1),
        "drift": (0, 1e-6),
        "reconstruction_psnr": (27.5, 30),
        "self_psnr": (27, 28.5),
    },
}
COLUMNS = tuple(EXPECTED["true heads"])
FITTED = {"reconstruction_psnr", "self_psnr"}  # about a minute a row
QUICK = ("true heads", "half relief", "hollow heads", "billboards", "detail that sticks")
QUICK += ("mirrored heads", "2D model")


def row_of_the_table(known: dict[int, dict[str, Views]], what: str, fields: bool) -> list[str]:
    """Prints a row, and returns what is not as expected; without fields, all but theirs."""
    values = measured(known, what, fields)
    cells = (f"{values[name]:17.3f}" if name in values else f"{'-':>17}" for name in COLUMNS)
    print(f"\n{what:<29}" + " ".join(cells), end="", flush=True)
    expected = {name: span for name, span in EXPECTED[what].items() if fields or name not in FITTED}
    return [
        f"{name} of {what}: {values[name]:.4g}, expected {low} to {high}"
        for name, (low, high) in expected.items()
        if not low <= values[name] <= high
    ]


def test_known_answers(known):
    print("\n" + " " * 29 + " ".join(f"{name:>17}" for name in COLUMNS), end="")
    wrong = [wrong for what in QUICK for wrong in row_of_the_table(known, what, fields=False)]
    assert known[NUM].keys() == EXPECTED.keys()
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("what", list(EXPECTED))
def test_known_answers_in_full(known, what):
    assert not row_of_the_table(known, what, fields=EXPECTED[what].keys() >= FITTED)


def test_only_what_is_asked_for_is_measured(true_views):
    heads = [torch.zeros(NUM, 1)]
    assert set(measure_heads(Known(true_views), heads, turn=False)) == set(TRUE)
    assert set(measure_heads(Known(true_views), heads, relief=False)) == {"turn", "identity"}


def test_truncation_resolution_and_every_batch_reach_the_generator(true_views):
    asked = []

    class Asked(Known):
        def map(self, z, camera, *, truncation=1.0):
            asked.append((len(z), len(camera), truncation))
            return super().map(z, camera)

        def render(self, scene, camera, *, resolution=None, raw=True):
            asked.append((len(scene), len(camera), resolution, raw))
            return super().render(scene, camera)

    heads = [torch.zeros(NUM, 1)] * 2
    measure_heads(Asked(true_views), heads, truncation=0.7, resolution=48, turn=False)
    assert asked == [(NUM, NUM, 0.7), (NUM, NUM, 48, False)] * 2


def test_what_has_no_camera_or_no_depth_is_refused(true_views):
    flat = Known(lambda yaw, pitch: Rendering(true_views(yaw, pitch).image))
    with pytest.raises(ValueError, match="Known shows no depth"):
        measure_heads(flat, [torch.zeros(NUM, 1)])
    assert "turn" in measure_heads(flat, [torch.zeros(NUM, 1)], relief=False)
    flat.has_camera = False
    with pytest.raises(ValueError, match="Known has no camera to move"):
        measure_heads(flat, [torch.zeros(NUM, 1)])


def test_the_conditioning_camera_counts_only_where_it_changes_the_head(true_views):
    class Conditioned(Known):
        """Another head for every conditioning camera."""

        def map(self, z, camera, *, truncation=1.0):
            return round(float(camera.yaw_pitch()[0][0]) / 0.25)

        def render(self, scene, camera, *, resolution=None, raw=True):
            return Rendering(super().render(scene, camera).image.roll(scene, 0))

    class Free(Conditioned):
        def map(self, z, camera, *, truncation=1.0):
            return 0

    found = {
        kind.__name__: measure_views(kind(true_views), [torch.zeros(NUM, 1)], [ConditioningDrift()])
        for kind in (Conditioned, Free)
    }
    assert found["Free"]["conditioning_drift"] == 0
    assert found["Conditioned"]["conditioning_drift"] > 0.25
