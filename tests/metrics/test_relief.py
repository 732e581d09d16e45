"""The signed relief on surfaces with known slopes."""

import pytest
import torch

from gan3d.camera import Camera
from gan3d.data.heads import head_camera
from gan3d.metrics.relief import (
    FAR,
    HeadRelief,
    background_behind,
    check_frontal,
    mean_head,
    relief_slope,
)


def front(num: int = 1) -> Camera:
    return head_camera(torch.zeros(num), torch.zeros(num))


def reliefs(*factors: float, side: int = 64) -> torch.Tensor:
    """The mean head with its relief multiplied, at the distance of the real one."""
    head = mean_head(side)
    relief = torch.where(head.depth > 0, head.depth, 1.0) - 0.95
    return 2.7 * torch.stack([0.95 + factor * relief for factor in factors])[:, None]


@pytest.mark.parametrize("side", [16, 32, 63, 64, 100])
@pytest.mark.parametrize("region", ["face", "body"])
def test_the_slope_is_the_factor_of_the_relief(side, region):
    slope = relief_slope(reliefs(1, 0.5, 0, -1, side=side), None, front(4), region)
    torch.testing.assert_close(slope, torch.tensor([1, 0.5, 0, -1]).double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", [16, 32])
def test_pixels_on_the_edge_of_a_region_do_not_count(side):
    """A wall behind the head lies in them, too."""
    for region in ("face", "body"):
        depth = torch.where(getattr(mean_head(64), region) > 0, reliefs(1), 3.4)
        small = torch.nn.functional.adaptive_avg_pool2d(depth, side)
        assert relief_slope(small, None, front(), region).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("radius", [0.7, 2.7])
def test_a_world_of_another_scale_and_a_head_that_is_nearer_have_the_same_slope(radius):
    depth = reliefs(0.5) * radius / 2.7
    camera = front()
    cam2world = camera.cam2world.clone()
    cam2world[:, :3, 3] *= radius / 2.7
    camera = Camera(cam2world, camera.intrinsics)
    for shift in (0.0, 0.1):
        assert relief_slope(depth + shift, None, camera, "face").item() == pytest.approx(0.5)
    behind = torch.where(mean_head(64).background > 0, depth + 0.1 * radius, depth)
    difference = background_behind(behind, None, camera) - background_behind(depth, None, camera)
    assert difference.item() == pytest.approx(0.1, rel=1e-5)


def test_each_region_has_a_slope_of_its_own():
    mask = mean_head(64).face > 0
    depth = torch.where(mask, reliefs(-1), reliefs(3))
    face, body = (relief_slope(depth, None, front(), region) for region in ("face", "body"))
    assert face.item() == pytest.approx(-1)
    assert body.item() > 0.5


def test_only_what_is_opaque_is_a_surface():
    depth, faint = reliefs(1), torch.ones(1, 1, 64, 64)
    faint[..., :32] = 0.5  # not above 0.5
    junk = torch.where(faint > 0.5, depth, 9.0)
    half = relief_slope(junk, faint, front(), "face")
    assert half.item() == pytest.approx(1)
    faint[..., :34] = 0.5  # less than half of the face is left
    assert relief_slope(junk, faint, front(), "face").item() == 0
    endless = torch.where(faint > 0.5, depth, torch.inf)
    assert relief_slope(endless, None, front(), "face").item() == 0


def test_the_background_is_behind_the_face_or_in_front_of_it():
    head = mean_head(64)
    face = float(head.depth[head.face > 0].mean())
    for distance, expected in ((3.0 / 2.7, 3.0 / 2.7 - face), (0.8, 0.8 - face)):
        depth = torch.where(head.background > 0, 2.7 * distance, reliefs(1))
        assert background_behind(depth, None, front()).item() == pytest.approx(expected, abs=1e-6)
    empty = torch.where(head.background > 0, torch.inf, reliefs(1))
    assert background_behind(empty, None, front()).item() == pytest.approx(FAR - face, abs=1e-6)
    assert background_behind(empty, torch.zeros(1, 1, 64, 64), front()).item() == 0


def test_the_metric_is_the_mean_over_all_heads_whatever_the_batches():
    depth = reliefs(1, 0.4, -0.1, 0.0)
    whole, parts = HeadRelief(), HeadRelief()
    whole.update(depth, None, front(4))
    for k in range(4):
        parts.update(depth[k : k + 1], None, front())
    values = whole.compute()
    assert values["face_slope"].item() == pytest.approx(0.325)
    assert values["face_convex"].item() == values["body_convex"].item() == 0.5  # a plane is not
    for name, value in parts.compute().items():
        torch.testing.assert_close(value, values[name])
    with pytest.raises(ValueError, match="no heads yet"):
        HeadRelief().compute()


def test_another_camera_is_refused():
    depth = reliefs(1)
    with pytest.raises(ValueError, match="in front of the head"):
        relief_slope(depth, None, head_camera(torch.tensor([0.3]), torch.zeros(1)), "face")
    with pytest.raises(ValueError, match="in front of the head"):
        check_frontal(Camera.from_angles(3.1416, 0.0, fov=18.83))
    zoomed = Camera.from_angles(0.0, 0.0, radius=2.7, focal=4.26)
    with pytest.raises(ValueError, match=r"focal length is 4.260 .* expected 3.015"):
        background_behind(depth, None, zoomed)
    with pytest.raises(ValueError, match=r"expected depth \[b 1 h w\]"):
        relief_slope(depth[0], None, front(), "body")
