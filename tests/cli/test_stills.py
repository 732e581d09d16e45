"""The verb `sample`: the pictures are those of Python, and say how they were made."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

import gan3d
from gan3d.apps.pictures import LAYERS, to_uint8
from gan3d.camera import Camera
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import choices
from gan3d.cli.options import with_values
from gan3d.generators import EG3D, GENERATORS, PiGAN, StyleGAN2


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    facts = {"radius": 2.75, "fov": 14.0}
    return save_pretrained(tmp_path / "g.safetensors", EG3D(**EG3D.tiny).eval(), facts=facts)


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_seed_gives_the_same_picture_as_in_python(cli, model, tmp_path):
    words = ["sample", model, "--seeds", "2-3", "--yaw", "-0.4", "--pitch", "0.1"]
    code, said, error = cli(*words, "--truncation", "0.7", "--out", "heads")
    assert code == 0, error
    assert said == "heads: 2 pictures\n"
    camera = Camera.from_angles(-0.4, 0.1, radius=2.75, fov=14.0)
    views = gan3d.sample(gan3d.from_pretrained(model), [2, 3], camera, 0.7)
    for seed, expected in zip((2, 3), to_uint8(views.image), strict=True):
        assert np.array_equal(picture(tmp_path / f"heads/seed{seed:04d}.png"), expected)


def test_view_dependent_colors_are_those_of_python_too(cli, tmp_path):
    torch.manual_seed(0)
    path = save_pretrained(tmp_path / "pigan.safetensors", PiGAN(**PiGAN.tiny).eval())
    assert cli("sample", path, "--seeds", "1", "--yaw", "0.5")[0] == 0
    camera = Camera.from_angles(0.5, 0.0)
    expected = to_uint8(gan3d.sample(gan3d.from_pretrained(path), [1], camera).image)[0]
    assert np.array_equal(picture(tmp_path / "samples/seed0001.png"), expected)


def test_a_picture_says_which_model_seed_and_camera_made_it(cli, model, tmp_path):
    assert cli("sample", model, "--seeds", 5, "--yaw", 0.3, "--truncation", 0.7)[0] == 0
    with Image.open(tmp_path / "samples/seed0005.png") as image:
        text = image.text
    assert text == {
        "Software": f"gan3d {gan3d.__version__}",
        "generator": "EG3D",
        "model": str(model),
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "seed": "5",
        "layer": "image",
        "truncation": "0.7",
        "yaw": "0.3",
        "pitch": "0",
        "radius": "2.75",
        "fov": "14",
    }


def test_several_yaws_and_layers_are_several_files_enlarged_if_asked(cli, model, tmp_path):
    words = ["--seeds", "0", "--yaw", "-0.5,0", "--layers", "image,raw", "--scale", 3]
    assert cli("sample", model, *words)[0] == 0
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [
        f"seed0000_yaw{yaw}_{layer}.png"
        for yaw in ("+0.000", "-0.500")
        for layer in ("image", "raw")
    ]
    large = picture(tmp_path / "samples" / names[0])
    assert large.shape == (96, 96, 3)
    assert np.array_equal(large, large[1::3, 1::3].repeat(3, 0).repeat(3, 1))


def test_a_sheet_has_a_row_per_layer_and_a_column_per_seed_and_yaw(cli, model, tmp_path):
    words = ["--seeds", "0-5", "--yaw", "-0.5,0,0.5", "--layers", ",".join(LAYERS)]
    code, said, error = cli("sample", model, *words, "--sheet", "true")
    assert code == 0, error
    assert said == "samples/sheet.png: 90 pictures\n"
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["sheet.png"]
    sheet = picture(tmp_path / "samples/sheet.png")
    # Three lines of two seeds, as the yaws of a seed stay together; labels around them.
    height, width, _ = sheet.shape
    assert 3 * 5 * 130 < height < 3 * (5 * 130 + 30)
    assert 6 * 130 < width < 6 * 130 + 80
    turned = Camera.from_angles(0.5, 0.0, radius=2.75, fov=14.0)
    last = to_uint8(gan3d.sample(gan3d.from_pretrained(model), [5], turned).image)[0]
    bottom = height - 5 * 130 + 2
    assert np.array_equal(sheet[bottom : bottom + 128 : 4, -128::4], last)


def test_a_picture_that_is_there_is_not_replaced_unasked(cli, model, tmp_path):
    words = ["sample", model, "--seeds", "0-1"]
    assert cli(*words)[0] == 0
    code, _, error = cli(*words, "--truncation", 0.5)
    assert code == 2
    assert "seed0000.png exists already (and 1 more)" in error
    assert cli(*words, "--overwrite", "true")[0] == 0


def test_a_2d_model_has_images_and_takes_no_camera(cli, tmp_path):
    path = save_pretrained(tmp_path / "flat.safetensors", StyleGAN2(**StyleGAN2.tiny).eval())
    assert cli("sample", path, "--seeds", 1)[0] == 0
    with Image.open(tmp_path / "samples/seed0001.png") as image:
        assert "yaw" not in image.text
    for words, said in {
        ("--yaw", "0.3"): "StyleGAN2, a 2D model: leave out --yaw and --pitch",
        ("--fov", "20"): "StyleGAN2, a 2D model: leave out --fov",
        ("--layers", "image,depth"): "StyleGAN2, which has no layer depth; it has image",
    }.items():
        code, _, error = cli("sample", path, "--out", "other", *words)
        assert code == 2
        assert said in error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "a"], "'a' is no seed; give whole numbers from 0 on"),
        (["--seeds", "-3"], "'-3' is no seed"),
        (["--seeds", "5-2"], "5-2 runs backwards; did you mean 2-5?"),
        (["--seeds", "0-99999"], "are more than 10000 seeds"),
        (["--seeds", "1,,2"], "'' is no seed"),
        (["--yaw", "left"], "'left' is no angle; give radians"),
        (["--yaw", "30"], "'30' is no angle; give radians, from -6.3 to 6.3"),
        (["--layers", "dept"], "there is no layer 'dept'\n  did you mean depth?"),
        (["--layers", "depth,depth"], "names a layer twice"),
        (["--scale", "0"], "--scale 0 is out of range"),
        (["--seeds", "0-1999", "--sheet", "true"], "a sheet of 2000 pictures is too large"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(cli, model, words, said):
    code, _, error = cli("sample", model, *words)
    assert code == 2
    assert said in error


def test_the_command_line_names_the_layers_that_there_are():
    assert choices.LAYERS == LAYERS


def test_a_value_that_begins_with_a_minus_sign_belongs_to_its_option():
    assert with_values(["m", "--yaw", "-0.5,0", "-.1"]) == ["m", "--yaw=-0.5,0", "-.1"]
    assert with_values(["--num", "2", "--a=1", "-h"]) == ["--num", "2", "--a=1", "-h"]


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_is_drawn_by_every_layer_that_it_has(cli, tmp_path, name):
    torch.manual_seed(0)
    generator = GENERATORS[name](**GENERATORS[name].tiny).eval()
    path = save_pretrained(tmp_path / "g.safetensors", generator)
    layers = ["image", *["raw"] * generator.has_raw]
    layers += ["depth", "normals", "opacity"] * generator.has_camera
    place = [0.5 * sum(generator.ray_limits)] if generator.ray_limits else [2.7]
    camera = ["--radius", *place] if generator.has_camera else []
    words = ["--seeds", "0,1", "--layers", ",".join(layers), *camera, "--sheet", "true"]
    code, said, error = cli("sample", path, *words)
    assert code == 0, error
    assert said == f"samples/sheet.png: {2 * len(layers)} pictures\n"
