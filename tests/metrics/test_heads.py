"""The signed measures on heads whose answers are known, in one table.

pytest tests/metrics/test_heads.py -s -k known
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.heads import head_camera, render_heads, sample_heads
from gan3d.generators import Rendering
from gan3d.metrics.heads import measure_heads
from gan3d.ops.grid_sample import grid_sample

NUM, SIDE, SEED = 8, 64, 31
WALL = 3.4  # depth of the background where a picture is bent over a relief
Views = Callable[[float], Rendering]


class Known:
    """Stands in for a generator: scenes of which every view is known, by the yaw of the camera."""

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
        yaw, _ = camera.yaw_pitch()
        return self.views(float(yaw[0]))


def at(yaw: float) -> Camera:
    return head_camera(torch.full((NUM,), yaw), torch.zeros(NUM))


@pytest.fixture(scope="module")
def true_views() -> Views:
    """Heads as they are."""
    known: dict[float, Rendering] = {}

    def views(yaw: float) -> Rendering:
        yaw = round(yaw, 4)
        if yaw not in known:
            seen = render_heads(sample_heads(SEED, range(NUM)), at(yaw), SIDE)
            known[yaw] = Rendering(seen.image, depth=seen.depth, opacity=seen.mask)
        return known[yaw]

    return views


def bent(front: Rendering, depth: Tensor) -> Views:
    """The frontal pictures on another relief, a depth map of the frontal view [b 1 h w]."""

    def views(yaw: float) -> Rendering:
        if yaw == 0:
            return Rendering(front.image, depth=depth, opacity=torch.ones_like(depth))
        camera = at(yaw)
        rays = camera.rays(SIDE)
        nearest = torch.full(rays.cosines.shape, torch.inf)
        color = torch.zeros(*rays.cosines.shape[:2], 3)
        for along in torch.linspace(2.1, 3.9, 110):
            uv, z = at(0.0).project(rays.origins + rays.directions * (along / rays.cosines))
            channels = torch.cat([front.image, depth], dim=1)
            grid = (2 * uv - 1).unflatten(1, (SIDE, SIDE)).clamp(1 / SIDE - 1, 1 - 1 / SIDE)
            seen = grid_sample(channels, grid).flatten(2).mT  # b (h w) 4
            behind = (z >= seen[..., 3:]) & nearest.isinf()
            nearest = torch.where(behind, along, nearest)
            color = torch.where(behind, seen[..., :3], color)
        image = color.mT.unflatten(2, (SIDE, SIDE))
        return Rendering(image, depth=nearest.mT.unflatten(2, (SIDE, SIDE)))

    return views


def mirrored_depth(depth: Tensor) -> Tensor:
    """What was near is far: the depth reflected at the mean of each head."""
    seen = depth.isfinite()
    where = {"dim": (1, 2, 3), "keepdim": True}
    middle = torch.where(seen, depth, 0).sum(**where) / seen.sum(**where)
    return 2 * middle - depth


def walled(depth: Tensor) -> Tensor:
    return torch.where(depth.isfinite(), depth, WALL)


@pytest.fixture(scope="module")
def answers(true_views) -> dict[str, dict[str, float]]:
    front = true_views(0.0)
    plane = torch.full_like(front.depth, 2.7)

    def mirrored(yaw):
        view = true_views(yaw)
        return Rendering(view.image.flip(3), depth=view.depth.flip(3), opacity=view.opacity.flip(3))

    def other(yaw):
        view, turn = true_views(yaw), round(yaw / 0.25)
        return Rendering(view.image.roll(turn, 0), depth=view.depth, opacity=view.opacity)

    known: dict[str, Views] = {
        "true heads": true_views,
        "true relief, frontal picture": bent(front, walled(front.depth)),
        "hollow heads": bent(front, walled(mirrored_depth(front.depth))),
        "billboards": bent(front, plane),
        "mirrored heads": mirrored,
        "heads that do not turn": lambda yaw: front,
        "another head at every yaw": other,
    }
    return {
        name: measure_heads(Known(views), [torch.zeros(NUM, 1)]) for name, views in known.items()
    }


# What the table must show: (from, to) of each value; where there is none, it is not the measure's.
RIGHT, FLAT, HOLLOW = (0.9, 1.25), (-0.05, 0.05), (-1.25, -0.9)
ALL, NONE = (1.0, 1.0), (0.0, 0.0)
TRUE = {
    "face_slope": RIGHT,
    "face_convex": ALL,
    "body_slope": RIGHT,
    "body_convex": ALL,
    "background_behind": (0.25, 0.4),
}
EXPECTED = {
    "true heads": TRUE | {"turn": (0.9, 1.1), "identity": (0.7, 0.95)},
    "true relief, frontal picture": TRUE | {"turn": (0.9, 1.4)},
    "hollow heads": {
        "face_slope": HOLLOW,
        "face_convex": NONE,
        "body_slope": HOLLOW,
        "body_convex": NONE,
        "background_behind": (0.2, 0.35),
        "turn": (-0.5, 0.5),
    },
    "billboards": {
        "face_slope": FLAT,
        "face_convex": NONE,
        "body_slope": FLAT,
        "body_convex": NONE,
        "background_behind": FLAT,
        "turn": (-0.2, 0.2),
    },
    "mirrored heads": TRUE | {"turn": (-1.1, -0.9), "identity": (0.7, 0.95)},
    "heads that do not turn": TRUE | {"turn": (-1e-6, 1e-6), "identity": (1 - 1e-6, 1 + 1e-6)},
    "another head at every yaw": TRUE | {"turn": (0.9, 1.1), "identity": (-0.3, 0.3)},
}


def test_known_answers(answers):
    names = [*TRUE, "turn", "identity"]
    print("\n" + " " * 29 + " ".join(f"{name:>17}" for name in names))
    for what, values in answers.items():
        print(f"{what:<29}" + " ".join(f"{values[name]:17.2f}" for name in names))
    assert answers.keys() == EXPECTED.keys()
    for what, expected in EXPECTED.items():
        for name, (low, high) in expected.items():
            assert low <= answers[what][name] <= high, f"{name} of {what}"


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
    flat = Known(lambda yaw: Rendering(true_views(yaw).image))
    with pytest.raises(ValueError, match="Known shows no depth"):
        measure_heads(flat, [torch.zeros(NUM, 1)])
    assert "turn" in measure_heads(flat, [torch.zeros(NUM, 1)], relief=False)
    flat.has_camera = False
    with pytest.raises(ValueError, match="Known has no camera to move"):
        measure_heads(flat, [torch.zeros(NUM, 1)])
