"""Colors of meshes: rendered back with embree, they are the pictures they came from."""

import math

import numpy as np
import pytest
import torch

from gan3d.apps.extraction import scene_mesh
from gan3d.apps.fusion import view_grid
from gan3d.apps.glb import Mesh
from gan3d.apps.meshes import write_obj
from gan3d.apps.texture import colored, depth_of, texels_of, textured
from gan3d.apps.views import render_scene
from gan3d.camera import Camera
from gan3d.generators import Rendering

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


def cameras_around() -> Camera:
    return view_grid(7, 3, yaw=1.2, pitch=0.5, fov=18.0)


def render_back(mesh: Mesh, camera: Camera, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(colors [side side 3] as in images, whether the mesh is there [side side]), by embree."""
    shape = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    rays = camera.rays(side)
    points, ray, face = shape.ray.intersects_location(
        rays.origins[0].numpy(), rays.directions[0].numpy(), multiple_hits=False
    )
    shares = trimesh.triangles.points_to_barycentric(shape.triangles[face], points)[..., None]
    if mesh.texture is None:
        found = (shares * mesh.colors[mesh.faces[face]]).sum(1)
    else:
        uv = (shares * mesh.uv[mesh.faces[face]]).sum(1)
        size = mesh.texture.shape[0]
        column, row = np.clip((uv * size).astype(int), 0, size - 1).T
        found = mesh.texture[row, column, :3]
    picture, there = np.zeros((side * side, 3)), np.zeros(side * side, bool)
    picture[ray], there[ray] = found / 127.5 - 1, True
    return picture.reshape(side, side, 3), there.reshape(side, side)


def psnr(mesh: Mesh, views: Rendering, cameras: Camera) -> float:
    """Of all views, over the pixels that are opaque and where the mesh is; range 2."""
    errors = []
    for k, camera in enumerate(cameras):
        side = views.image.shape[-1]
        found, there = render_back(mesh, camera, side)
        opaque = (views.opacity[k, 0] > 0.5).numpy()
        assert (there[opaque]).mean() > 0.9
        meant = views.image[k].permute(1, 2, 0).numpy()
        errors.append(((found - meant) ** 2)[there & (views.opacity[k, 0] > 0.99).numpy()])
    return 10 * math.log10(4 / np.concatenate(errors).mean())


@pytest.mark.parametrize("source", ["density", "depth"])
def test_a_textured_mesh_looks_like_the_pictures_it_came_from(egg, source):
    cameras = cameras_around()
    options = {"source": source, "voxels": 40, "num_faces": 1500, "texture": 256}
    mesh = scene_mesh(egg, torch.zeros(1, 1), cameras, **options)
    views = render_scene(egg, torch.zeros(1, 1), cameras)
    assert mesh.texture.shape == (256, 256, 4)
    assert psnr(mesh, views, cameras) > 26
    # not mirrored: red grows with x, green with y, blue with z, on the mesh as in the scene
    flat = scene_mesh(egg, torch.zeros(1, 1), cameras, **options | {"texture": 0})
    assert flat.texture is None
    expected = np.clip(flat.vertices / 0.4, -1, 1)
    assert np.abs(flat.colors / 127.5 - 1 - expected).mean() < 0.1
    if source == "density":
        shape = trimesh.Trimesh(flat.vertices, flat.faces)
        assert shape.is_watertight
        assert shape.volume > 0


def test_auto_is_the_density_where_there_is_a_field_and_the_depth_elsewhere(egg):
    words = {"voxels": 16, "num_faces": 0, "texture": 0}
    names = []
    for has_field in (True, False):
        type(egg).has_field = has_field
        try:
            names.append(scene_mesh(egg, torch.zeros(1, 1), cameras_around(), **words).name)
        finally:
            type(egg).has_field = True
    assert names == ["density", "fused"]


def quad(z: float, half: float) -> Mesh:
    """A square that faces +z."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    vertices = np.concatenate([corners, np.full((4, 1), z)], axis=1).astype(np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]))


def test_what_another_part_hides_does_not_take_its_color():
    """A red square before a larger blue one, seen from three sides: the blue one stays blue."""
    front, back = quad(0.3, 0.1), quad(0.0, 0.3)
    mesh = Mesh(
        np.concatenate([front.vertices, back.vertices]),
        np.concatenate([front.faces, back.faces + 4]),
    )
    cameras = view_grid(3, 1, yaw=0.5, fov=20.0)
    images = []
    for camera in cameras:
        first, second = (depth_of(part, camera, 128) for part in (front, back))
        red, blue = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])
        nearer = torch.from_numpy(first <= second)[..., None]
        images.append(torch.where(nearer, red, blue).permute(2, 0, 1))
    views = Rendering(torch.stack(images))
    painted = textured(mesh, views, cameras, size=256)
    for camera in cameras:
        found, there = render_back(painted, camera, 64)
        first = depth_of(front, camera, 64)
        is_front = np.isfinite(first)
        around = [np.roll(is_front, step, axis) for step in (-2, 2) for axis in (0, 1)]
        inner = there & np.all(around, axis=0)
        assert inner.sum() > 50
        assert (found[inner][:, 0] > 0.7).mean() > 0.9
        outer = there & ~is_front & ~np.any(around, axis=0)
        assert outer.sum() > 500
        assert (found[outer][:, 2] > 0.7).mean() > 0.9


def test_transparent_pixels_give_no_color():
    mesh = quad(0.0, 0.2)
    cameras = view_grid(2, 1, yaw=0.2, fov=20.0)
    images = torch.stack([torch.full((3, 16, 16), value) for value in (-1.0, 1.0)])
    opacity = torch.ones(2, 1, 16, 16)
    opacity[0] = 0.5
    assert (colored(mesh, Rendering(images, opacity=opacity), cameras).colors == 255).all()
    gray = colored(mesh, Rendering(images, opacity=0 * opacity), cameras).colors
    assert (gray == 128).all()


def test_the_depth_of_a_mesh_is_that_of_its_nearest_triangle():
    camera = Camera.from_angles(0.0, 0.0, fov=20.0)
    both = Mesh(
        np.concatenate([quad(0.0, 0.3).vertices, quad(0.2, 0.1).vertices]),
        np.concatenate([quad(0.0, 0.3).faces, quad(0.2, 0.1).faces + 4]),
    )
    depth = depth_of(both, camera, 64)
    assert depth[32, 32] == pytest.approx(2.5, abs=1e-5)
    assert depth[32, 20] == pytest.approx(2.7, abs=1e-5)
    assert np.isinf(depth[0, 0])


def test_texels_of_a_triangle_are_those_whose_centers_lie_in_it_or_nearly():
    corners = np.array([[[1.0, 1.0], [9.0, 1.0], [1.0, 9.0]]])
    texels, face, shares = texels_of(corners, 12)
    assert (face == 0).all()
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares >= 0).all()
    found = np.zeros((12, 12), bool)
    found[texels[:, 1], texels[:, 0]] = True
    column, row = np.meshgrid(np.arange(12) + 0.5, np.arange(12) + 0.5)
    inside = (column > 1) & (row > 1) & (column + row < 10)
    near = (column > 0.4) & (row > 0.4) & (column + row < 10.8)
    assert found[inside].all()
    assert not found[~near].any()
    center = (texels == [3, 2]).all(1)
    np.testing.assert_allclose((shares[center] @ corners[0])[0], [3.5, 2.5])


def test_an_obj_is_read_back_with_its_texture_the_right_way_up(tmp_path):
    mesh = quad(0.0, 0.2)
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[:2, :, 1:3] = 0  # the upper half is red
    uv = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])  # v runs downwards
    painted = Mesh(mesh.vertices, mesh.faces, uv=uv, texture=texture)
    write_obj(tmp_path / "head.obj", painted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.mtl", "head.obj", "head.png"]
    read = trimesh.load(tmp_path / "head.obj", process=False, force="mesh")
    assert len(read.faces) == 2
    colors = read.visual.to_color().vertex_colors
    upper = read.vertices[:, 1] > 0
    assert (colors[upper][:, :3] == [255, 0, 0]).all()
    assert (colors[~upper][:, :3] == 255).all()


def test_an_obj_keeps_the_colors_of_vertices(tmp_path):
    mesh = quad(0.0, 0.2)
    colors = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]])
    write_obj(tmp_path / "a.obj", Mesh(mesh.vertices, mesh.faces, colors=colors))
    read = trimesh.load(tmp_path / "a.obj", process=False, force="mesh")
    assert np.array_equal(read.visual.vertex_colors[:, :3], colors)
    assert [path.name for path in tmp_path.iterdir()] == ["a.obj"]
