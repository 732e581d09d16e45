"""`gan3d invert`, called as the command line calls it."""

import pytest
import torch
from PIL import Image

import gan3d
from gan3d.apps.inversion import Inversion
from gan3d.checkpoints.portable import read_facts, save_pretrained
from gan3d.cli import main
from gan3d.generators import EG3D, StyleGAN2
from gan3d.metrics.mobilenet import weights_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """heads.safetensors, and pictures of it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    facts = {"radius": 2.7, "fov": 18.0}
    save_pretrained("heads.safetensors", EG3D(**EG3D.tiny).eval(), facts=facts)
    assert main(["sample", "heads.safetensors", "--seeds", "1-2", "--out", "seen"]) == 0
    return tmp_path


WORDS = ["invert", "heads.safetensors", "seen/seed0001.png", "--steps", "60", "--frames", "2"]


def test_a_picture_becomes_a_model_that_other_verbs_take(folder, capsys):
    assert main([*WORDS, "--yaw", "0.1"]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "seed0001.png: PSNR " in said.out
    assert "perceptual distance: Laplacian pyramid" in said.err
    out = folder / "inverted"
    assert sorted(path.name for path in out.iterdir()) == [
        "inverted.safetensors",
        "orbit.mp4",
        "result.png",
    ]
    facts = read_facts(out / "inverted.safetensors")
    assert (facts["fov"], facts["space"]) == (18.0, "w")
    assert Image.open(out / "result.png").text["space"] == "w"
    model = gan3d.from_pretrained(out / "inverted.safetensors")
    views = gan3d.sample(model, [0, 5]).image
    assert torch.equal(views[0], views[1])
    assert main(["sample", "inverted/inverted.safetensors", "--seeds", "0", "--out", "again"]) == 0


def test_it_goes_on_where_it_was_stopped(folder, capsys, monkeypatch):
    run = Inversion.run

    def stopping(self):
        for step in run(self):
            yield step
            if step == 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(Inversion, "run", stopping)
    assert main(WORDS) == 130
    assert {path.name for path in (folder / "inverted").iterdir()} == {"state.pt", "progress.png"}

    # other options are another inversion
    assert main([*WORDS, "--seed", "3"]) == 2
    assert "is of another inversion" in capsys.readouterr().err

    monkeypatch.setattr(Inversion, "run", run)
    assert main(WORDS) == 0
    assert "goes on after 25 steps" in capsys.readouterr().err
    assert main([*WORDS, "--out", "whole"]) == 0
    stopped, whole = (
        read_facts(folder / place / "inverted.safetensors") for place in ("inverted", "whole")
    )
    assert stopped == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "picture nothing.png: there is no such file"),
        (["seen/seed0001.png", "--yaw", "0,1,2"], "--yaw has 3 angles for 1 pictures"),
        (["seen/seed0001.png", "--masks", "a.png"], "--masks a.png: there is no such file"),
        (["small.png"], "small.png has 8 px, EG3D shows 32 px"),
        (["wide.png"], "wide.png"),
    ],
)
def test_wrong_input_is_named(folder, words, message, capsys):
    Image.new("RGB", (8, 8)).save("small.png")
    Image.new("RGB", (64, 32)).save("wide.png")
    assert main(["invert", "heads.safetensors", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "inverted").exists()


def test_a_2d_model_takes_no_angles(folder, capsys):
    save_pretrained("flat.safetensors", StyleGAN2(**StyleGAN2.tiny).eval())
    assert main(["invert", "flat.safetensors", "seen/seed0001.png", "--yaw", "0.2"]) == 2
    assert "a 2D model: leave out --yaw and --pitch" in capsys.readouterr().err


def test_two_perceptual_distances_are_refused_and_the_one_in_use_is_said(folder, capsys):
    (folder / "vgg16.pt").touch()
    assert main([*WORDS, "--lpips", "vgg16.pt", "--features", "mobilenet"]) == 2
    assert "give one of them" in capsys.readouterr().err
    if not is_installed():
        pytest.skip("the weights of MobileNetV2 are absent")
    assert main([*WORDS, "--features", "mobilenet", "--steps", "2"]) == 0
    assert "distance: Laplacian pyramid and MobileNetV2" in capsys.readouterr().err


def is_installed() -> bool:
    try:
        weights_file()
    except ValueError:
        return False
    return True
