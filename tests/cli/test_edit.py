"""`gan3d edit`, called as the command line calls it."""

import numpy as np
import pytest
import torch
from PIL import Image

import gan3d
from gan3d.apps.pictures import to_uint8
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import edit, main
from gan3d.generators import StyleGAN2


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_pretrained("flat.safetensors", StyleGAN2(**StyleGAN2.tiny).eval())
    return tmp_path


def test_a_row_per_seed_and_direction_a_column_per_strength(elsewhere, capsys):
    words = ["--directions", "pca1,sefa2", "--seeds", "3,5", "--strengths", "-1,0,1"]
    assert main(["edit", "flat.safetensors", *words]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "edits.png: 12 scenes\n"
    picture = Image.open("edits.png")
    assert (picture.text["directions"], picture.text["strengths"]) == ("pca1,sefa2", "-1,0,1")
    pixels = np.asarray(picture)
    own = to_uint8(gan3d.sample(gan3d.from_pretrained("flat.safetensors"), [3, 5]).image)
    # From the right and from below: 0 stands in the middle, pictures have 128 px and gaps of 2.
    side = own.shape[1]
    step, rows = 128 // side, [slice(pixels.shape[0] - 130 * k + 2, None) for k in range(1, 5)]
    middle = slice(-130 - 128, -130)
    cells = [pixels[row][:128, middle][::step, ::step] for row in rows]
    assert all(np.array_equal(cells[k], own[1]) for k in (0, 1))
    assert all(np.array_equal(cells[k], own[0]) for k in (2, 3))
    assert not np.array_equal(pixels[rows[0]][:128, -128:][::step, ::step], own[1])


def test_labels_give_directions_and_the_edited_scene_is_a_model(elsewhere, capsys):
    """The label is the brightness of the pictures, so the direction makes them brighter."""
    generator = gan3d.from_pretrained("flat.safetensors")
    bright = gan3d.sample(generator, range(60)).image.mean(dim=(1, 2, 3))
    lines = [f"{seed},{float(value)}" for seed, value in enumerate(bright)]
    (elsewhere / "labels.csv").write_text("seed,bright\n" + "\n".join(lines))
    words = ["--directions", "bright", "--labels", "labels.csv", "--strengths", "-2,2"]
    words += ["--save", "lit.safetensors", "--video", "lit.gif", "--frames", "4"]
    assert main(["edit", "flat.safetensors", *words]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "of its variance follows from the latents" in said
    lit = gan3d.sample(gan3d.from_pretrained("lit.safetensors"), [0, 7]).image
    assert torch.equal(lit[0], lit[1])
    assert lit[0].mean() > bright[0] + bright.std() / 2
    assert Image.open("lit.gif").n_frames == 4


def test_attributes_of_heads_are_read_and_turns_are_said(elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(edit, "READ", 48)
    words = ["--directions", "skin_tone", "--strengths", "-2,2", "--seeds", "1"]
    assert main(["edit", "eg3d_heads32", *words]) == 0
    said = capsys.readouterr()
    assert "skin_tone: " in said.out
    assert "skin_tone: the head turns by " in said.out
    assert "reads the attributes of 48 scenes" in said.err
    network = gan3d.metrics.HeadNet.load()
    column = gan3d.data.heads.ATTRIBUTE_NAMES.index("skin_tone")
    pixels = np.asarray(Image.open("edits.png"))
    cells = [pixels[-128:, -258:-130], pixels[-128:, -128:]]
    images = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        low, high = network(images).attributes[:, column]
    assert high > low + 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--directions", "glases"], "did you mean glasses"),
        (["--directions", "sefa0"], "there is no direction 'sefa0'"),
        (["--directions", "pca1", "--strengths", "1,x"], "--strengths 1,x: 'x' is no number"),
        (["--directions", "age", "--labels", "bad.csv"], "bad.csv, line 3: age is 'old'"),
        (["--directions", "age", "--labels", "none.csv"], "none.csv has no column seed"),
        (["--directions", "height", "--labels", "good.csv"], "a column of --labels: age"),
        (["--seeds", "0-999"], "a picture of 15000 scenes is too large"),
        (["--directions", "pca9999"], "pca9999 is not there"),
        (["--yaw", "0.3"], "a 2D model: leave out --yaw and --pitch"),
    ],
)
def test_wrong_input_is_named(words, message, elsewhere, capsys):
    (elsewhere / "bad.csv").write_text("seed,age\n1,20\n2,old\n")
    (elsewhere / "good.csv").write_text("seed,age\n1,20\n2,30\n")
    (elsewhere / "none.csv").write_text("age\n20\n")
    assert main(["edit", "flat.safetensors", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (elsewhere / "edits.png").exists()
