"""Depth fusion of analytic balls: the mesh is closed, where the ball is, turned outwards and
colored as its views.
"""

import math
import struct

import numpy as np
import pytest
import torch
from torch import nn

from gan3d.apps.fusion import Volume, fuse, marching_tetrahedra, sample_depth, view_grid, write_ply
from gan3d.apps.glb import Mesh
from gan3d.camera import Camera
from gan3d.generators import GENERATORS, Generator, Rendering

CENTRE, RADIUS = (0.02, -0.03, 0.05), 0.3


class PaintedBall(Generator):
    """A ball off the origin with the color p / 0.4 at p; the depth of what it misses is
    nonsense.
    """

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


GENERATORS.pop("PaintedBall")  # of these tests only: no registry-walking test shall see it


def edge_uses(faces: np.ndarray) -> np.ndarray:
    """How often every directed edge is used the other way round."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forwards, backwards = (
        {tuple(e) for e in d} for d in (directed.tolist(), directed[:, ::-1].tolist())
    )
    assert len(forwards) == len(directed)
    return np.array([edge in backwards for edge in forwards])


@pytest.fixture(scope="module")
def ball() -> Mesh:
    cameras = view_grid(8, 5, yaw=math.pi * 7 / 8, pitch=1.2, fov=18.0)
    return fuse(PaintedBall(), torch.tensor([CENTRE]), cameras, voxels=32)


def test_a_ball_seen_from_all_sides_is_a_closed_sphere_within_a_voxel(ball):
    distance = np.linalg.norm(ball.vertices - np.array(CENTRE), axis=1) * 32  # voxels
    assert np.abs(distance - RADIUS * 32).max() < 0.75
    assert np.abs(distance - RADIUS * 32).mean() < 0.25
    assert edge_uses(ball.faces).all()
    assert len(ball.vertices) - len(ball.faces) / 2 == 2  # Euler: V - E + F with 2 E = 3 F
    assert len(np.unique(ball.faces)) == len(ball.vertices)


def test_triangles_look_outwards_and_hold_the_volume_of_the_ball(ball):
    a, b, c = (ball.vertices[ball.faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.cross(b - a, c - a)
    assert ((normals * ((a + b + c) / 3 - np.array(CENTRE))).sum(axis=1) >= 0).all()
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.06)


def test_vertices_have_the_colors_of_the_views(ball):
    expected = np.clip(ball.vertices / 0.4, -1, 1)
    assert np.abs(ball.colors / 127.5 - 1 - expected).max() < 0.08


def test_a_finer_volume_is_nearer_to_the_ball(ball):
    cameras = view_grid(8, 5, yaw=math.pi * 7 / 8, pitch=1.2, fov=18.0)
    fine = fuse(PaintedBall(), torch.tensor([CENTRE]), cameras, voxels=48)
    errors = [
        np.abs(np.linalg.norm(mesh.vertices - np.array(CENTRE), axis=1) - RADIUS)
        for mesh in (ball, fine)
    ]
    assert errors[1].mean() < 0.8 * errors[0].mean()


def test_what_no_view_sees_stays_open():
    """From the front alone, only the front: no vertex lies behind the ball's rim."""
    mesh = fuse(
        PaintedBall(), torch.tensor([CENTRE]), Camera.from_angles(0.0, 0.0, fov=18.0), voxels=32
    )
    assert mesh.vertices[:, 2].min() > CENTRE[2] - 2 / 32
    assert mesh.vertices[:, 2].max() == pytest.approx(CENTRE[2] + RADIUS, abs=0.5 / 32)
    assert not edge_uses(mesh.faces).all()


def test_the_cube_defaults_to_the_scene_of_the_generator():
    generator, cameras = PaintedBall(), view_grid(3, 1, fov=18.0)
    generator.scene_extent = 0.4  # smaller than the ball
    mesh = fuse(generator, torch.tensor([CENTRE]), cameras, voxels=16)
    assert np.abs(mesh.vertices).max() <= 0.2
    assert (
        np.abs(
            fuse(generator, torch.tensor([CENTRE]), cameras, voxels=16, extent=1.0).vertices
        ).max()
        > 0.3
    )


def test_opacity_weighs_the_views():
    """Two walls at z = 0 and z = 0.1 seen by the same camera, three times as opaque the first: the
    mean of their D.
    """
    camera, volume = Camera.from_angles(0.0, 0.0, fov=30.0), Volume(1.0, 10, truncation=4.0)
    for place, opacity, shade in ((0.0, 0.9, 1.0), (0.1, 0.6, -1.0)):
        depth, image = torch.full((1, 1, 8, 8), 2.7 - place), torch.full((1, 3, 8, 8), shade)
        volume.integrate(
            Rendering(image, depth=depth, opacity=torch.full_like(depth, opacity)), camera
        )
    torch.testing.assert_close(volume.color[5, 5, 5], torch.full((3,), 0.2))
    torch.testing.assert_close(
        volume.color[5, 5, 9], torch.full((3,), -1.0)
    )  # more than tau before the first wall
    torch.testing.assert_close(volume.weight[5, 5, 5], torch.tensor(1.5))
    voxel_z = 0.05
    mean = (0.9 * (voxel_z - 0.0) + 0.6 * (voxel_z - 0.1)) / 1.5 / 0.4
    torch.testing.assert_close(volume.distance[5, 5, 5], torch.tensor(mean))
    assert volume.distance[5, 5, 9].item() == pytest.approx((0.9 * 1 + 0.6 * 0.35 / 0.4) / 1.5)
    assert volume.weight[5, 5, 0].item() == 0  # more than tau behind both
    mesh = volume.mesh()
    np.testing.assert_allclose(mesh.vertices[:, 2], 0.04, atol=1e-6)  # their weighted mean
    normals = np.cross(
        *(mesh.vertices[mesh.faces[:, k]] - mesh.vertices[mesh.faces[:, 0]] for k in (1, 2))
    )
    assert (normals[:, 2] >= 0).all()
    assert (normals[:, 2] > 0).any()


def test_the_rim_of_what_stands_before_a_wall_has_its_color():
    """One view of a red square far in front of a red wall: between the two depths no voxel has a
    color.
    """
    volume, depth = Volume(1.0, 24), torch.full((1, 1, 16, 16), 2.7 + 0.3)
    depth[..., 5:11, 5:11] = 2.7 - 0.2
    image = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16)
    volume.integrate(Rendering(image, depth=depth), Camera.from_angles(0.0, 0.0, fov=20.0))
    mesh = volume.mesh()
    assert (mesh.vertices[:, 2] > 0.1).any()
    assert (mesh.vertices[:, 2] < -0.2).any()
    np.testing.assert_array_equal(
        mesh.colors, np.uint8([[255, 0, 0]]).repeat(len(mesh.vertices), axis=0)
    )


@pytest.mark.parametrize("faint", [0.5, 0.0])
def test_faint_pixels_have_no_depth(faint):
    volume, depth = Volume(1.0, 8), torch.full((1, 1, 4, 4), 2.7)
    volume.integrate(
        Rendering(torch.zeros(1, 3, 4, 4), depth=depth, opacity=torch.full_like(depth, faint)),
        Camera.from_angles(0.0, 0.0, fov=30.0),
    )
    assert not volume.weight.any()
    with pytest.raises(
        ValueError, match=r"no surface in the cube of side 1.0 \(0% of it was seen\)"
    ):
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


def test_a_plane_through_the_grid_is_cut_exactly():
    x, y, z = np.meshgrid(np.arange(5.0), np.arange(4.0), np.arange(6.0), indexing="ij")
    values = x * 0.3 + y * 0.2 + z - 2.6  # linear, so every vertex solves it
    edges, share, faces = marching_tetrahedra(values, np.ones(values.shape, bool))
    ends = np.stack(np.unravel_index(edges, values.shape), axis=-1)
    points = ends[:, 0] + share[:, None] * (ends[:, 1] - ends[:, 0])
    np.testing.assert_allclose(points @ [0.3, 0.2, 1.0], 2.6, atol=1e-12)
    normals = np.cross(
        points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]]
    )
    np.testing.assert_allclose(
        normals.sum(axis=0) / 2, 12 * np.array([0.3, 0.2, 1.0]), atol=1e-9
    )  # projects to 4 x 3


def test_random_signs_make_a_closed_surface_inside_the_grid():
    """Every case of the table, in every position; the border is outside, so nothing may be open
    there.
    """
    values = np.random.default_rng(0).normal(size=(9, 8, 7))
    for axis in range(3):
        np.moveaxis(values, axis, 0)[[0, -1]] = 1.0
    _, _, faces = marching_tetrahedra(values, np.ones(values.shape, bool))
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = (np.unique(d, axis=0, return_counts=True) for d in (directed, directed[:, ::-1]))
    assert np.array_equal(there[0], back[0])
    assert np.array_equal(there[1], back[1])


def test_cells_with_an_unseen_corner_are_left_out():
    values = np.where(np.arange(4) < 2, -1.0, 1.0)[:, None, None] * np.ones((4, 5, 5))
    valid = np.ones(values.shape, bool)
    whole = marching_tetrahedra(values, valid)[2]
    valid[2, 0, 0] = False
    assert len(whole) - len(marching_tetrahedra(values, valid)[2]) == len(whole) / 16
    assert len(marching_tetrahedra(values, np.zeros_like(valid))[2]) == 0


def test_a_grid_of_views_spans_what_it_should():
    cameras = view_grid(3, 2, yaw=0.4, pitch=0.2, radius=1.0, fov=12.0)
    yaw, pitch = cameras.yaw_pitch()
    torch.testing.assert_close(yaw, torch.tensor([-0.4, 0.0, 0.4] * 2))
    torch.testing.assert_close(pitch, torch.tensor([-0.2] * 3 + [0.2] * 3))
    torch.testing.assert_close(view_grid(1, 1).origins, torch.tensor([[0.0, 0.0, 2.7]]))


def test_what_can_not_be_fused_is_refused():
    camera, volume = Camera.from_angles(0.0, 0.0), Volume(1.0, 4)
    with pytest.raises(ValueError, match="got no depth"):
        volume.integrate(Rendering(torch.zeros(1, 3, 4, 4)), camera)
    two = Rendering(torch.zeros(2, 3, 4, 4), depth=torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="2 images and 1 cameras"):
        volume.integrate(two, camera)
    for wrong in ((0.0, 8, 4.0), (1.0, 1, 4.0), (1.0, 8, 0.5)):
        with pytest.raises(ValueError, match="use for example"):
            Volume(*wrong)


def test_a_ply_holds_the_mesh_bit_by_bit(tmp_path, ball):
    data = write_ply(tmp_path / "ball.ply", ball).read_bytes()
    header, _, body = data.partition(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply", "format binary_little_endian 1.0", f"element vertex {len(ball.vertices)}", "property float x",
        "property float y", "property float z", "property uchar red", "property uchar green", "property uchar blue",
        f"element face {len(ball.faces)}", "property list uchar int vertex_indices",
    ]  # fmt: skip
    assert len(body) == 15 * len(ball.vertices) + 13 * len(ball.faces)
    *place, red, green, blue = struct.unpack_from("<3f3B", body, 15 * 7)
    np.testing.assert_array_equal(np.float32(place), ball.vertices[7])
    assert [red, green, blue] == ball.colors[7].tolist()
    assert struct.unpack_from("<B3i", body, 15 * len(ball.vertices) + 13 * 5) == (3, *ball.faces[5])
    plain = Mesh(ball.vertices, ball.faces)
    assert b"uchar red" not in write_ply(tmp_path / "plain.ply", plain).read_bytes()
    textured = Mesh(
        ball.vertices, ball.faces, uv=ball.vertices[:, :2], texture=np.zeros((2, 2, 4), np.uint8)
    )
    with pytest.raises(ValueError, match="a PLY can not hold"):
        write_ply(tmp_path / "no.ply", textured)
