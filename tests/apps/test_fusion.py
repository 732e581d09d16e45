"""Depth fusion of analytic balls: geometry, orientation and colors of the mesh."""

import math
import struct

import numpy as np
import pytest
import torch
from torch import nn

from gan3d.apps.fusion import Volume, fuse, fuse_views, sample_depth, view_grid, write_ply
from gan3d.apps.glb import Mesh
from gan3d.apps.views import render_scene
from gan3d.camera import Camera
from gan3d.generators import GENERATORS, Generator, Rendering

CENTER, RADIUS = (0.02, -0.03, 0.05), 0.3


class PaintedBall(Generator):
    """A ball off the origin with the color p / 0.4 at p; rays that miss it have NaN depth."""

    z_dim = w_dim = 3
    num_ws, img_resolution = 1, 64

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return z[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        assert not torch.is_grad_enabled()
        assert not self.dropout.training
        side = resolution or 64
        rays = camera.rays(side)
        origins = rays.origins - representation[:, None]
        along = -(origins * rays.directions).sum(-1)
        inside = RADIUS**2 - (origins.square().sum(-1) - along**2)
        distance = along - inside.clamp(min=0).sqrt()
        hit = (inside > 0).reshape(-1, 1, side, side)
        points = rays.origins + rays.directions * distance[..., None]
        image = (points / 0.4).clamp(-1, 1).mT.unflatten(-1, (side, side))
        depth = (distance[..., None] * rays.cosines).reshape(-1, 1, side, side)
        return Rendering(image, depth=torch.where(hit, depth, torch.nan), opacity=hit.float())


GENERATORS.pop("PaintedBall")  # for these tests only: tests that walk the registry must not see it


def edge_uses(faces: np.ndarray) -> np.ndarray:
    """Whether each directed edge is also used in the other direction."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forwards = {tuple(edge) for edge in directed.tolist()}
    backwards = {tuple(edge) for edge in directed[:, ::-1].tolist()}
    assert len(forwards) == len(directed)
    return np.array([edge in backwards for edge in forwards])


@pytest.fixture(scope="module")
def ball() -> Mesh:
    cameras = view_grid(8, 5, yaw=math.pi * 7 / 8, pitch=1.2, fov=18.0)
    return fuse(PaintedBall(), torch.tensor([CENTER]), cameras, voxels=32)


def test_a_ball_seen_from_all_sides_is_a_closed_sphere_within_a_voxel(ball):
    distance = np.linalg.norm(ball.vertices - np.array(CENTER), axis=1) * 32  # voxels
    assert np.abs(distance - RADIUS * 32).max() < 0.75
    assert np.abs(distance - RADIUS * 32).mean() < 0.25
    assert edge_uses(ball.faces).all()
    assert len(ball.vertices) - len(ball.faces) / 2 == 2  # Euler: V - E + F with 2 E = 3 F
    assert len(np.unique(ball.faces)) == len(ball.vertices)


def test_triangles_face_outwards_and_enclose_the_volume_of_the_ball(ball):
    a, b, c = (ball.vertices[ball.faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.cross(b - a, c - a)
    assert ((normals * ((a + b + c) / 3 - np.array(CENTER))).sum(axis=1) >= 0).all()
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.06)


def test_vertices_have_the_colors_of_the_views(ball):
    expected = np.clip(ball.vertices / 0.4, -1, 1)
    assert np.abs(ball.colors / 127.5 - 1 - expected).max() < 0.08


def test_views_that_are_there_already_are_fused_to_the_same_surface(ball):
    cameras = view_grid(8, 5, yaw=math.pi * 7 / 8, pitch=1.2, fov=18.0)
    views = render_scene(PaintedBall(), torch.tensor([CENTER]), cameras)
    again = fuse_views(views, cameras, extent=1.0, voxels=32)
    np.testing.assert_array_equal(again.vertices, ball.vertices)
    np.testing.assert_array_equal(again.colors, ball.colors)


def test_a_finer_volume_is_nearer_to_the_ball(ball):
    cameras = view_grid(8, 5, yaw=math.pi * 7 / 8, pitch=1.2, fov=18.0)
    fine = fuse(PaintedBall(), torch.tensor([CENTER]), cameras, voxels=48)

    def error(mesh: Mesh) -> float:
        distance = np.linalg.norm(mesh.vertices - np.array(CENTER), axis=1)
        return np.abs(distance - RADIUS).mean()

    assert error(fine) < 0.8 * error(ball)


def test_the_mesh_is_open_where_no_view_sees_the_surface():
    """From the front, only the front: no vertex is behind the rim of the ball."""
    camera = Camera.from_angles(0.0, 0.0, fov=18.0)
    mesh = fuse(PaintedBall(), torch.tensor([CENTER]), camera, voxels=32)
    assert mesh.vertices[:, 2].min() > CENTER[2] - 2 / 32
    assert mesh.vertices[:, 2].max() == pytest.approx(CENTER[2] + RADIUS, abs=0.5 / 32)
    assert not edge_uses(mesh.faces).all()


def test_the_cube_defaults_to_the_scene_of_the_generator():
    generator = PaintedBall()
    cameras = view_grid(3, 1, fov=18.0)
    generator.scene_extent = 0.4  # smaller than the ball
    small = fuse(generator, torch.tensor([CENTER]), cameras, voxels=16)
    assert np.abs(small.vertices).max() <= 0.2
    large = fuse(generator, torch.tensor([CENTER]), cameras, voxels=16, extent=1.0)
    assert np.abs(large.vertices).max() > 0.3


def test_views_are_weighted_by_opacity():
    """Walls at z = 0 and z = 0.1 of opacity 0.9 and 0.6, seen by one camera: the mean of D."""
    camera = Camera.from_angles(0.0, 0.0, fov=30.0)
    volume = Volume(1.0, 10, truncation=4.0)
    for wall_z, opacity, gray in ((0.0, 0.9, 1.0), (0.1, 0.6, -1.0)):
        depth = torch.full((1, 1, 8, 8), 2.7 - wall_z)
        image = torch.full((1, 3, 8, 8), gray)
        view = Rendering(image, depth=depth, opacity=torch.full_like(depth, opacity))
        volume.integrate(view, camera)

    # colors; the last voxel is more than tau in front of the first wall
    torch.testing.assert_close(volume.color[5, 5, 5], torch.full((3,), 0.2))
    torch.testing.assert_close(volume.color[5, 5, 9], torch.full((3,), -1.0))

    # weights and distances; the first voxel is more than tau behind both walls
    torch.testing.assert_close(volume.weight[5, 5, 5], torch.tensor(1.5))
    voxel_z = 0.05
    mean = (0.9 * (voxel_z - 0.0) + 0.6 * (voxel_z - 0.1)) / 1.5 / 0.4
    torch.testing.assert_close(volume.distance[5, 5, 5], torch.tensor(mean))
    assert volume.distance[5, 5, 9].item() == pytest.approx((0.9 * 1 + 0.6 * 0.35 / 0.4) / 1.5)
    assert volume.weight[5, 5, 0].item() == 0

    # the surface is the weighted mean of the walls and faces the camera
    mesh = volume.mesh()
    np.testing.assert_allclose(mesh.vertices[:, 2], 0.04, atol=1e-6)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    assert (normals[:, 2] >= 0).all()
    assert (normals[:, 2] > 0).any()


def test_the_rim_of_an_object_in_front_of_a_wall_has_its_color():
    """A red square far in front of a red wall: no voxel between the two depths has a color."""
    volume = Volume(1.0, 24)
    depth = torch.full((1, 1, 16, 16), 2.7 + 0.3)
    depth[..., 5:11, 5:11] = 2.7 - 0.2
    image = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)
    volume.integrate(Rendering(image, depth=depth), Camera.from_angles(0.0, 0.0, fov=20.0))
    mesh = volume.mesh()
    assert (mesh.vertices[:, 2] > 0.1).any()
    assert (mesh.vertices[:, 2] < -0.2).any()
    red = np.uint8([[255, 0, 0]]).repeat(len(mesh.vertices), axis=0)
    np.testing.assert_array_equal(mesh.colors, red)


@pytest.mark.parametrize("faint", [0.5, 0.0])
def test_faint_pixels_have_no_depth(faint):
    volume = Volume(1.0, 8)
    depth = torch.full((1, 1, 4, 4), 2.7)
    view = Rendering(torch.zeros(1, 3, 4, 4), depth=depth, opacity=torch.full_like(depth, faint))
    volume.integrate(view, Camera.from_angles(0.0, 0.0, fov=30.0))
    assert not volume.weight.any()
    message = r"no surface in the cube of side 1.0 \(0% of it was seen\)"
    with pytest.raises(ValueError, match=message):
        volume.mesh()


def test_depth_between_pixels_is_bilinear_on_a_surface_and_does_not_bridge_a_step():
    depth = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    seen = torch.ones(2, 2)
    uv = torch.tensor([[0.5, 0.5], [0.25, 0.25], [0.35, 0.5], [1.2, 0.5], [0.01, 0.01]])
    values, weights = sample_depth(depth, seen, uv, reach=10.0)
    torch.testing.assert_close(values[[0, 1, 2, 4]], torch.tensor([2.5, 1.0, 2.2, 1.0]))
    assert weights.tolist() == [1, 1, 1, 0, 1]
    step = torch.tensor([[1.0, 5.0], [1.2, 5.2]])
    values, _ = sample_depth(step, seen, torch.tensor([[0.45, 0.5], [0.55, 0.5]]), reach=1.0)
    torch.testing.assert_close(values, torch.tensor([1.1, 5.1]))
    seen[0, 0] = 0
    values, weights = sample_depth(depth, seen, torch.tensor([[0.3, 0.3], [0.6, 0.3]]), reach=10.0)
    assert weights.tolist() == [0, 1]
    assert 2.0 < values[1].item() < 4.0


def test_a_grid_of_views_spans_the_given_angles():
    cameras = view_grid(3, 2, yaw=0.4, pitch=0.2, radius=1.0, fov=12.0)
    yaw, pitch = cameras.yaw_pitch()
    torch.testing.assert_close(yaw, torch.tensor([-0.4, 0.0, 0.4] * 2))
    torch.testing.assert_close(pitch, torch.tensor([-0.2] * 3 + [0.2] * 3))
    torch.testing.assert_close(view_grid(1, 1).origins, torch.tensor([[0.0, 0.0, 2.7]]))


def test_what_cannot_be_fused_is_refused():
    camera = Camera.from_angles(0.0, 0.0)
    volume = Volume(1.0, 4)
    with pytest.raises(ValueError, match="got no depth"):
        volume.integrate(Rendering(torch.zeros(1, 3, 4, 4)), camera)
    two = Rendering(torch.zeros(2, 3, 4, 4), depth=torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="2 images and 1 cameras"):
        volume.integrate(two, camera)
    for wrong in ((0.0, 8, 4.0), (1.0, 1, 4.0), (1.0, 8, 0.5)):
        with pytest.raises(ValueError, match="use for example"):
            Volume(*wrong)


def test_a_ply_stores_the_mesh_exactly(tmp_path, ball):
    data = write_ply(tmp_path / "ball.ply", ball).read_bytes()
    header, _, body = data.partition(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(ball.vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {color}" for color in ("red", "green", "blue")),
        f"element face {len(ball.faces)}",
        "property list uchar int vertex_indices",
    ]
    assert len(body) == 15 * len(ball.vertices) + 13 * len(ball.faces)
    *position, red, green, blue = struct.unpack_from("<3f3B", body, 15 * 7)
    np.testing.assert_array_equal(np.float32(position), ball.vertices[7])
    assert [red, green, blue] == ball.colors[7].tolist()
    assert struct.unpack_from("<B3i", body, 15 * len(ball.vertices) + 13 * 5) == (3, *ball.faces[5])
    plain = Mesh(ball.vertices, ball.faces)
    assert b"uchar red" not in write_ply(tmp_path / "plain.ply", plain).read_bytes()
    texture = np.zeros((2, 2, 4), np.uint8)
    textured = Mesh(ball.vertices, ball.faces, uv=ball.vertices[:, :2], texture=texture)
    with pytest.raises(ValueError, match="a PLY cannot hold"):
        write_ply(tmp_path / "no.ply", textured)
