"""glTF binaries, read back strictly by the specification."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gan3d.apps.glb import Mesh, write_glb

gltf = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gltf.py"))))


def square(name: str = "square", z: float = 0.0, **more) -> Mesh:
    vertices = np.array([[-1, -1, z], [2, -1, z], [2, 1, z], [-1, 1, z]], dtype=np.float64)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), name=name, **more)


def texture(alpha: int = 255, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    pixels[..., 3] = alpha
    return pixels


UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=np.float32)


def test_a_textured_mesh_keeps_its_arrays_and_pixels(tmp_path):
    mesh = square(uv=UV, texture=texture(100))
    content, binary = gltf.read_glb(write_glb(tmp_path / "a.glb", [mesh]))
    (primitive,) = content["meshes"][0]["primitives"]
    position = gltf.array(content, binary, primitive["attributes"]["POSITION"])
    assert np.array_equal(position, square().vertices)
    assert np.array_equal(gltf.array(content, binary, primitive["attributes"]["TEXCOORD_0"]), UV)
    assert gltf.array(content, binary, primitive["indices"]).ravel().tolist() == [0, 1, 2, 0, 2, 3]
    bounds = content["accessors"][primitive["attributes"]["POSITION"]]
    assert (bounds["min"], bounds["max"]) == ([-1.0, -1.0, 0.0], [2.0, 1.0, 0.0])
    material = content["materials"][primitive["material"]]
    assert (material["alphaMode"], material["doubleSided"]) == ("BLEND", True)
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    assert content["extensionsUsed"] == ["KHR_materials_unlit"]
    chosen = content["textures"][material["pbrMetallicRoughness"]["baseColorTexture"]["index"]]
    assert np.array_equal(gltf.picture(content, binary, chosen["source"]), texture(100))
    linear_clamped = {"magFilter": 9729, "minFilter": 9729, "wrapS": 33071, "wrapT": 33071}
    assert content["samplers"][chosen["sampler"]] == linear_clamped


def test_buffer_views_have_the_target_of_their_use(tmp_path):
    content, _ = gltf.read_glb(write_glb(tmp_path / "a.glb", [square(uv=UV, texture=texture())]))
    attributes = content["meshes"][0]["primitives"][0]
    expected = {accessor["bufferView"]: 34962 for accessor in content["accessors"]}
    expected[content["accessors"][attributes["indices"]]["bufferView"]] = 34963
    views = enumerate(content["bufferViews"])
    assert {k: view["target"] for k, view in views if "target" in view} == expected


def test_several_meshes_keep_their_order_and_their_textures(tmp_path):
    meshes = [square(f"m{k}", z=-k, uv=UV, texture=texture(9, seed=k)) for k in range(3)]
    content, binary = gltf.read_glb(write_glb(tmp_path / "a.glb", meshes))
    assert content["scenes"][content["scene"]]["nodes"] == [0, 1, 2]
    for k, node in enumerate(content["nodes"]):
        assert node == {"name": f"m{k}", "mesh": k}
        primitive = content["meshes"][k]["primitives"][0]
        assert gltf.array(content, binary, primitive["attributes"]["POSITION"])[0, 2] == -k
        material = content["materials"][primitive["material"]]
        index = material["pbrMetallicRoughness"]["baseColorTexture"]["index"]
        source = content["textures"][index]["source"]
        assert np.array_equal(gltf.picture(content, binary, source), texture(9, seed=k))


def test_colors_of_vertices_are_stored_as_linear_light(tmp_path):
    colors = np.array([[0, 0, 0], [255, 255, 255], [188, 10, 255], [1, 2, 3]], dtype=np.uint8)
    content, binary = gltf.read_glb(write_glb(tmp_path / "a.glb", [square(colors=colors)]))
    attributes = content["meshes"][0]["primitives"][0]["attributes"]
    stored = gltf.array(content, binary, attributes["COLOR_0"])
    assert stored[0].tolist() == [0, 0, 0]
    assert stored[1].tolist() == [1, 1, 1]
    assert stored[2, 0] == pytest.approx(0.5029, abs=1e-4)  # sRGB 188 is half the light
    assert stored[2, 1] == pytest.approx(10 / 255 / 12.92)
    assert content["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    assert "images" not in content


def test_a_plain_mesh_is_lit_and_an_opaque_texture_is_not_blended(tmp_path):
    meshes = [square(), square(uv=UV, texture=texture(255))]
    content, _ = gltf.read_glb(write_glb(tmp_path / "a.glb", meshes))
    assert "extensions" not in content["materials"][0]
    assert "alphaMode" not in content["materials"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": np.zeros((3, 3), np.uint8)}, r"colors uint8 \[3, 3\]"),
        ({"colors": np.zeros((4, 3))}, r"colors float64 \[4, 3\]"),
        ({"uv": UV}, "one of uv and texture"),
        ({"uv": UV, "texture": np.zeros((4, 4, 3), np.uint8)}, r"texture uint8 \[4, 4, 3\]"),
    ],
)
def test_arrays_of_another_shape_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        square(**arguments)


def test_meshes_that_gltf_cannot_store_are_refused_and_the_old_file_is_kept(tmp_path):
    path = tmp_path / "a.glb"
    path.write_text("old")
    broken = square()
    broken.vertices[2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        write_glb(path, [broken])
    with pytest.raises(ValueError, match="no triangles"):
        write_glb(path, [Mesh(np.zeros((3, 3)), np.zeros((0, 3), int))])
    with pytest.raises(ValueError, match="no mesh"):
        write_glb(path, [])
    with pytest.raises(ValueError, match="faces of vertices 0 to 4, but it has 4"):
        Mesh(np.zeros((4, 3)), np.array([[0, 1, 4]]))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.glb"]
