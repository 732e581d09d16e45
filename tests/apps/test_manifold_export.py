"""Surfaces exported to a .glb: a viewer draws the composition of the surfaces."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gan3d.apps.manifold_export import export_manifolds, surface_mesh
from gan3d.generators.contract import SurfaceLayer

gltf = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gltf.py"))))
EXTENT = 0.12


def bowl(name: str, z: float, *, size: int = 9, seed: int = 0, invalid=()) -> SurfaceLayer:
    """A curved surface at z over the square -+EXTENT, with a smooth texture; rows run with y."""
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x * EXTENT, y * EXTENT, z - 0.02 * (x**2 + y**2)], dim=-1)
    valid = torch.ones(size, size, dtype=torch.bool)
    for index in invalid:
        valid[index] = False
        points[index] = math.nan
    coarse = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    texture = F.interpolate(coarse, size=(16, 16), mode="bilinear")[0]
    texture[:3] = 2 * texture[:3] - 1
    return SurfaceLayer(name, points, valid, torch.stack([x, y], dim=-1), texture)


def det(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def drawn(path: Path, xy: np.ndarray) -> np.ndarray:
    """Colors at (x, y) [p 2] that a viewer draws along -z: nodes in order, blended over another."""
    content, binary = gltf.read_glb(path)
    shown = np.zeros((len(xy), 3))
    for node in content["nodes"]:
        # triangles, counterclockwise seen from +z
        (primitive,) = content["meshes"][node["mesh"]]["primitives"]
        attributes = {k: gltf.array(content, binary, v) for k, v in primitive["attributes"].items()}
        faces = gltf.array(content, binary, primitive["indices"]).reshape(-1, 3)
        position = attributes["POSITION"][:, :2].astype(np.float64)
        a, b, c = (position[faces[:, k]][:, None] for k in range(3))
        area = det(b - a, c - a)
        assert (area > 0).all()

        # barycentric coordinates in the first triangle that contains a point
        areas = (det(b - xy, c - xy), det(c - xy, a - xy), det(a - xy, b - xy))
        share = np.stack(areas, axis=-1) / area[..., None]
        hit = (share >= -1e-9).all(axis=-1)  # t p
        first = hit.argmax(axis=0)
        share = share[first, np.arange(len(xy))]
        uv = (attributes["TEXCOORD_0"][faces[first]] * share[..., None]).sum(axis=1)

        # texels, by a linear filter clamped to the edge
        surface = content["materials"][primitive["material"]]["pbrMetallicRoughness"]
        source = content["textures"][surface["baseColorTexture"]["index"]]["source"]
        pixels = torch.from_numpy(gltf.picture(content, binary, source) / 255.0).permute(2, 0, 1)
        texel = sampled(pixels, torch.from_numpy(2 * uv - 1)).numpy()
        alpha = texel[:, 3:] * hit.any(axis=0)[:, None]
        shown = alpha * texel[:, :3] + (1 - alpha) * shown
    return shown


def sampled(texture: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Values [p c] of a texture [c h w] at grid positions [p 2]."""
    values = F.grid_sample(
        texture[None], grid[None, None], padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T


def composed(layers: list[SurfaceLayer], xy: np.ndarray) -> np.ndarray:
    """C = sum_i alpha_i c_i prod (1 - alpha_j) from the textures, nearest layer first."""
    light, color = torch.ones(len(xy), 1), torch.zeros(len(xy), 3)
    grid = torch.from_numpy(xy / EXTENT).float()
    for layer in layers:
        values = sampled(layer.texture, grid)
        rgb, alpha = (values[:, :3] + 1) / 2, values[:, 3:]
        color = color + light * alpha * rgb
        light = light * (1 - alpha)
    return color.numpy()


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-EXTENT, EXTENT, (200, 2)) * 0.98


def test_a_viewer_draws_the_composition_of_the_surfaces(tmp_path, points):
    layers = [bowl(f"s{k}", 0.1 - 0.03 * k, seed=k) for k in range(4)]
    shuffled = [layers[k] for k in (2, 0, 3, 1)]
    path = tmp_path / "m.glb"
    assert export_manifolds(path, shuffled) == ["s3", "s2", "s1", "s0"]
    np.testing.assert_allclose(drawn(path, points), composed(layers, points), atol=1 / 255)
    content, _ = gltf.read_glb(path)
    for material in content["materials"]:
        assert material["alphaMode"] == "BLEND"
        assert material["extensions"] == {"KHR_materials_unlit": {}}


def test_rows_of_a_lattice_and_of_its_texture_have_the_same_direction(tmp_path):
    """Texture row 0 is at grid y = -1, here the bottom of the world: red below, blue above."""
    layer = bowl("a", 0.0)
    layer.texture[:] = torch.tensor([1.0, -1, -1, 1])[:, None, None]
    layer.texture[:3, 8:] = torch.tensor([-1.0, -1, 1])[:, None, None]
    export_manifolds(tmp_path / "m.glb", [layer])
    shown = drawn(tmp_path / "m.glb", np.array([[0.01, -0.08], [0.01, 0.08]]))
    np.testing.assert_allclose(shown, [[1, 0, 0], [0, 0, 1]])


def test_triangles_are_in_cells_with_four_valid_corners_only():
    layer = bowl("a", 0.0, size=5, invalid=[(0, 0), (2, 3)])
    mesh = surface_mesh(layer)
    assert len(mesh.faces) == 2 * (16 - 1 - 4)
    assert np.isfinite(mesh.vertices).all()
    # (2, 4) is not used either: both of its cells have the invalid corner (2, 3)
    assert len(mesh.vertices) == 25 - 2 - 1
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)
    distance = np.linalg.norm(mesh.vertices[:, :2] - np.array([EXTENT, EXTENT]), axis=1)
    corner = mesh.vertices[distance.argmin()]
    np.testing.assert_allclose(corner, [EXTENT, EXTENT, -0.04], atol=1e-7)


def test_a_surface_without_a_complete_cell_is_left_out(tmp_path):
    gone = bowl("gone", 0.1, size=3, invalid=[(1, 1)])
    assert surface_mesh(gone) is None
    assert export_manifolds(tmp_path / "m.glb", [gone, bowl("there", 0.0)]) == ["there"]
    with pytest.raises(ValueError, match="none of 1 surfaces has a cell"):
        export_manifolds(tmp_path / "m.glb", [gone])


def test_a_warped_background_shows_its_texture_to_a_fraction_of_a_texel(tmp_path):
    """GRAM-HD's g (specs/gramhd.md 7.2): a regular lattice in u, at x = g(u), is exact there."""

    def g(u):
        far = torch.sign(u) * (0.24 * torch.tan(u.abs() - 0.5) + 0.12)
        return torch.where(u.abs() <= 0.5, 0.24 * u, far)

    def inverse(x):
        far = torch.sign(x) * (torch.atan((x.abs() - 0.12) / 0.24) + 0.5)
        return torch.where(x.abs() <= 0.12, x / 0.24, far)

    v, u = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    points = torch.stack([g(u), g(v), torch.full_like(u, -0.12)], dim=-1)
    ramp = torch.linspace(-1, 1, 512)
    across, down = ramp.expand(512, 512), ramp[:, None].expand(512, 512)
    texture = torch.stack([across, down, *torch.ones(2, 512, 512)])
    valid = torch.ones(65, 65, dtype=torch.bool)
    layer = SurfaceLayer("background", points, valid, torch.stack([u, v], -1), texture)
    export_manifolds(tmp_path / "m.glb", [layer])
    xy = np.random.default_rng(0).uniform(-0.25, 0.25, (300, 2))
    shown = drawn(tmp_path / "m.glb", xy)
    expected = (inverse(torch.from_numpy(xy)).numpy() + 1) / 2
    assert np.abs(shown[:, :2] - expected).max() < 1.5 / 512 + 1 / 255
    assert gltf.read_glb(tmp_path / "m.glb")[0]["materials"][0].get("alphaMode") is None  # opaque


def test_colors_beyond_the_range_are_clamped():
    layer = bowl("a", 0.0)
    layer.texture[:] = torch.tensor([1.7, -3.0, 0.0, 0.5])[:, None, None]
    assert surface_mesh(layer).texture[0, 0].tolist() == [255, 0, 128, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(9, 8, 3)}, r"points \[9, 8, 3\]"),
        ({"grid": torch.zeros(9, 9, 3)}, r"grid \[9, 9, 3\]"),
        ({"texture": torch.zeros(3, 16, 16)}, r"texture \[3, 16, 16\]"),
        ({"valid": torch.ones(9, 9)}, r"valid torch.float32"),
    ],
)
def test_a_malformed_layer_is_named(change, message):
    with pytest.raises(ValueError, match=rf"layer 'a' has .*{message}"):
        surface_mesh(bowl("a", 0.0)._replace(**change))


def test_a_generator_without_surfaces_is_refused_with_an_alternative(balls):
    with pytest.raises(ValueError, match=r"Balls has no surfaces .* gan3d mesh"):
        balls.surfaces(None)
