"""Pictures of a mesh: where its corners stand, what hides what, and its colors."""

import numpy as np
import pytest
import torch

from gan3d.apps.glb import Mesh
from gan3d.apps.turntable import picture_of, turntable
from gan3d.camera import Camera, orbit

RED, BLUE = (250, 0, 0), (0, 0, 250)


def square(z: float, half: float, color) -> Mesh:
    """A square that faces +z."""
    corners = [(-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z)]
    faces = np.array([(0, 1, 2), (0, 2, 3)])
    return Mesh(np.array(corners, np.float32), faces, np.tile(np.uint8(color), (4, 1)))


def joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]),
        np.concatenate([mesh.colors for mesh in meshes]),
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_the_nearest_triangle_is_seen_from_each_side(swapped):
    parts = [square(0.1, 0.1, RED), square(-0.1, 0.2, BLUE)]
    mesh = joined(*(reversed(parts) if swapped else parts))
    front, back = (
        picture_of(mesh, Camera.from_angles(yaw, 0.0, radius=2.0, fov=20.0), 64)
        for yaw in (0.0, torch.pi)
    )
    assert front[32, 32].tolist() == list(RED)
    assert back[32, 32].tolist() == list(BLUE)
    assert (front == BLUE).all(-1).any()
    assert not (back == RED).all(-1).any()
    assert front[0, 0].tolist() == [255, 255, 255]


def test_a_square_has_its_size_and_place():
    mesh = square(0.0, 0.1, RED)
    mesh.vertices[:, :2] += np.float32((0.1, 0.2))
    camera = Camera.from_angles(0.0, 0.0, radius=2.0, fov=30.0)
    shown = (picture_of(mesh, camera, 256) == RED).all(-1)
    rows, columns = np.nonzero(shown)
    center = torch.tensor([[[0.1, 0.2, 0.0]]])
    u, v = camera.project(center)[0][0, 0].tolist()
    assert columns.mean() + 0.5 == pytest.approx(256 * u, abs=0.6)
    assert rows.mean() + 0.5 == pytest.approx(256 * v, abs=0.6)
    side = 0.2 / 2 * float(camera.focal) * 256
    assert shown.sum() == pytest.approx(side**2, rel=0.05)


def test_textures_and_plain_meshes_have_their_colors():
    plain = square(0.0, 0.2, RED)
    texture = np.zeros((4, 4, 4), np.uint8)
    texture[:2] = (250, 0, 0, 255)  # the upper half
    texture[2:] = (0, 0, 250, 255)
    uv = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)  # v runs down
    painted = Mesh(plain.vertices, plain.faces, uv=uv, texture=texture)
    camera = Camera.from_angles(0.0, 0.0, radius=2.0, fov=20.0)
    shown = picture_of(painted, camera, 64)
    assert shown[24, 32].tolist() == list(RED)
    assert shown[40, 32].tolist() == list(BLUE)
    gray = picture_of(Mesh(plain.vertices, plain.faces), camera, 64)
    assert gray[32, 32].tolist() == [128, 128, 128]


def test_a_turntable_has_a_picture_for_each_camera():
    frames = list(turntable(square(0.0, 0.2, RED), orbit(4, full_circle=True), side=32))
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 4
    assert (frames[0][16, 16] == RED).all()
