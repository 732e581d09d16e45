"""Marching cubes, and the surface of a density whose shape is known."""

import numpy as np
import pytest
import torch

from gan3d.apps.fusion import view_grid
from gan3d.apps.glb import Mesh
from gan3d.apps.isosurface import (
    density_grid,
    density_surface,
    marching_cubes,
    surface_level,
)
from gan3d.apps.meshes import is_closed, largest_piece, simplified
from gan3d.apps.views import render_scene
from gan3d.camera import Camera

fast_simplification = pytest.importorskip("fast_simplification")
trimesh = pytest.importorskip("trimesh")


def test_a_plane_through_the_grid_is_cut_exactly():
    x, y, z = np.meshgrid(np.arange(5.0), np.arange(4.0), np.arange(6.0), indexing="ij")
    values = x * 0.3 + y * 0.2 + z - 2.6  # linear: interpolation along edges is exact
    points, faces = marching_cubes(values)
    np.testing.assert_allclose(points @ [0.3, 0.2, 1.0], 2.6, atol=1e-5)
    # area vector of a plane whose projection along z is 4 x 3
    a, b, c = (points[faces[:, k]] for k in range(3))
    area = np.cross(b - a, c - a).sum(axis=0) / 2
    np.testing.assert_allclose(area, 12 * np.array([0.3, 0.2, 1.0]), atol=1e-4)


def test_random_signs_make_a_closed_surface_inside_the_grid():
    """Every case of the table in every position; the border is outside, so the mesh is closed."""
    values = np.random.default_rng(0).normal(size=(9, 8, 7))
    for axis in range(3):
        np.moveaxis(values, axis, 0)[[0, -1]] = 1.0
    _, faces = marching_cubes(values)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = (np.unique(d, axis=0, return_counts=True) for d in (directed, directed[:, ::-1]))
    assert np.array_equal(there[0], back[0])
    assert np.array_equal(there[1], back[1])


def test_cells_with_an_unseen_corner_are_left_out():
    values = np.where(np.arange(4) < 2, -1.0, 1.0)[:, None, None] * np.ones((4, 5, 5))
    valid = np.ones(values.shape, bool)
    _, complete = marching_cubes(values, valid)
    assert len(complete) == 2 * 16
    for corner in ((2, 0, 0), (1, 4, 4), (1, 0, 4)):
        valid[:] = True
        valid[corner] = False
        points, partial = marching_cubes(values, valid)
        assert len(complete) - len(partial) == len(complete) / 16
        assert not (np.abs(points - corner).max(axis=1) < 0.9).any()
    _, nothing = marching_cubes(values, np.zeros_like(valid))
    assert len(nothing) == 0
    assert len(marching_cubes(np.ones((3, 3, 3)))[1]) == 0


def views_of(generator):
    cameras = view_grid(5, 3, yaw=1.2, pitch=0.6, fov=18.0)
    return render_scene(generator, torch.zeros(1, 1), cameras), cameras


def test_the_surface_of_a_density_is_closed_lies_where_it_is_shown_and_faces_outwards(egg):
    views, cameras = views_of(egg)
    mesh = density_surface(egg, torch.zeros(1, 1), views, cameras, voxels=40)
    shape = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert shape.is_watertight
    assert shape.volume == pytest.approx(egg.volume, rel=0.12)  # positive: outwards
    found = egg.radius_at(torch.from_numpy(mesh.vertices)).numpy()
    assert np.abs(found - 1).max() < 0.12


def test_the_level_tells_opaque_pixels_from_others_and_lies_near_their_depth(egg):
    views, cameras = views_of(egg)
    level = surface_level(egg, torch.zeros(1, 1), views, cameras)
    assert -8 < level < 8  # of a density that falls from 12 to -12 across the surface
    for shift in (20.0, -7.0):
        egg.shift = shift  # another network gives other numbers for the same scene
        moved = surface_level(egg, torch.zeros(1, 1), views, cameras)
        assert moved == pytest.approx(level + shift, abs=1e-3)


def test_what_no_camera_sees_is_outside(egg):
    front = Camera.from_angles(0.0, 0.0, fov=8.0)  # sees less than the egg is wide
    grid = density_grid(egg, torch.zeros(1, 1), front, 1.0, 16)
    assert np.isinf(grid[[0, -1]]).all()
    assert np.isfinite(grid[8, 8]).all()
    views = render_scene(egg, torch.zeros(1, 1), front)
    mesh = density_surface(egg, torch.zeros(1, 1), views, front, voxels=32, level=0.0)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight
    assert np.abs(mesh.vertices[:, 0]).max() < 0.24


def test_a_scene_that_shows_nothing_has_no_level(egg):
    views, cameras = views_of(egg)
    views.opacity.zero_()
    with pytest.raises(ValueError, match="no pixel is more than half opaque"):
        density_surface(egg, torch.zeros(1, 1), views, cameras, voxels=8)


def test_a_level_above_all_density_is_refused(egg):
    views, cameras = views_of(egg)
    with pytest.raises(ValueError, match="no density above 99 in the cube of side 1; give an"):
        density_surface(egg, torch.zeros(1, 1), views, cameras, voxels=8, level=99.0)


def test_the_largest_piece_is_kept_whole_and_small_ones_go():
    large, small = trimesh.creation.icosphere(2, 1.0), trimesh.creation.box((0.1, 0.1, 0.1))
    small.apply_translation([3, 0, 0])
    both = trimesh.util.concatenate([small, large])
    piece = largest_piece(mesh_of(both))
    assert len(piece.faces) == len(large.faces)
    assert np.abs(piece.vertices).max() <= 1
    assert trimesh.Trimesh(piece.vertices, piece.faces).is_watertight


def test_a_simplified_mesh_has_fewer_triangles_and_is_still_a_closed_sphere():
    ball = mesh_of(trimesh.creation.icosphere(4, 1.0))
    small = simplified(ball, 500)
    assert len(small.faces) <= 500
    shape = trimesh.Trimesh(small.vertices, small.faces)
    assert shape.is_watertight
    assert shape.volume == pytest.approx(4 / 3 * np.pi, rel=0.02)
    assert simplified(small, 500) is small


def test_a_surface_that_haste_would_pinch_stays_closed(monkeypatch):
    """The first try is given a triangle less, so that it is open."""
    done, simplify = [], fast_simplification.simplify

    def hasty(*arrays, agg, **options):
        done.append(agg)
        vertices, faces = simplify(*arrays, agg=7, **options)
        return vertices, faces[1:] if len(done) == 1 else faces

    monkeypatch.setattr(fast_simplification, "simplify", hasty)
    small = simplified(mesh_of(trimesh.creation.icosphere(3, 1.0)), 500)
    assert done == [7, 5]
    assert is_closed(small.faces)
    assert not is_closed(small.faces[1:])
    assert not is_closed(np.concatenate([small.faces, small.faces[:1]]))


def test_a_surface_that_no_try_keeps_closed_is_simplified_all_the_same(monkeypatch):
    simplify = fast_simplification.simplify

    def pinching(*arrays, **options):
        vertices, faces = simplify(*arrays, **options)
        return vertices, faces[1:]

    monkeypatch.setattr(fast_simplification, "simplify", pinching)
    assert len(simplified(mesh_of(trimesh.creation.icosphere(3, 1.0)), 500).faces) < 500


def mesh_of(shape):
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces))
