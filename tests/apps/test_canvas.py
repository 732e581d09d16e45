"""Where a browser's camera stands, and where pictures stand on its canvas."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gan3d.apps.canvas import canvas_fov, client_camera, on_canvas
from gan3d.camera import Camera


def quaternion(camera: Camera) -> list[float]:
    x, y, z, w = Rotation.from_matrix(camera.cam2world[0, :3, :3].double().numpy()).as_quat()
    return [w, x, y, z]


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.7, -0.4), (-2.5, 1.2)])
def test_a_browsers_camera_is_ours_axis_by_axis(yaw, pitch):
    ours = Camera.from_angles(yaw, pitch, radius=1.7, fov=25.0)
    found = client_camera(quaternion(ours), ours.origins[0].tolist(), 25.0)
    assert torch.allclose(found.cam2world, ours.cam2world, atol=1e-6)
    assert torch.allclose(found.intrinsics, ours.intrinsics)
    assert found.dtype == torch.float32


def test_viser_s_frontal_camera_is_our_frontal_one():
    # As viser 1.1 reports a camera at (0, 0, 2.7) that looks at the origin, up +y.
    found = client_camera([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.7], 18.83)
    assert torch.allclose(found.cam2world, Camera.from_angles(0.0, 0.0).cam2world, atol=1e-6)


def test_a_picture_as_high_as_the_canvas_has_its_field_of_view():
    assert canvas_fov(30.0, 1, 1.6) == pytest.approx(math.radians(30))
    # Two squares on a canvas of 3 : 2 are 3/4 as high as it is.
    wider = 2 * math.atan(math.tan(math.radians(15)) / 0.75)
    assert canvas_fov(30.0, 2, 1.5) == pytest.approx(wider)


@pytest.mark.parametrize(("num", "aspect"), [(1, 1.7), (1, 0.6), (2, 1.5), (3, 4.0)])
def test_pictures_stand_in_the_middle_of_a_canvas_of_the_browsers_shape(num, aspect):
    gray = [np.full((side, side, 3), 7, dtype=np.uint8) for side in (32, 300, 8)[:num]]
    canvas = on_canvas(gray, aspect)
    height, width = canvas.shape[:2]
    assert width / height == pytest.approx(aspect, abs=0.01)
    rows, columns = np.nonzero((canvas == 7).all(-1))
    side = 300 if num > 1 else 256  # small pictures are enlarged
    assert len(rows) == num * side**2
    assert abs(rows.min() + rows.max() + 1 - height) <= 1
    assert abs(columns.min() + columns.max() + 1 - width) <= 1
    assert (canvas[0, 0] == 255).all() or side * num == width
