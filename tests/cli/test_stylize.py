"""The verbs `stylize` and `symmetry`, called as the command line calls them."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan3d.checkpoints.portable import load_generator, read_facts, save_pretrained
from gan3d.cli.options import call
from gan3d.cli.stylize import stylize_heads
from gan3d.cli.symmetry import measure_symmetry
from gan3d.generators import PiGAN, StyleGAN2

SMALL = {"img_resolution": 16, "num_steps": 4}


def pictures_in(path: Path) -> tuple[int, int]:
    """(rows, columns) of a sheet of small pictures: each is enlarged to 128 px, with a gap of 2 px;
    labels stand above and at the left.
    """
    width, height = Image.open(path).size
    rows, columns = (height + 2) // 130, (width + 2) // 130
    assert 10 < height + 2 - 130 * rows < 30, "room for a line of labels"
    assert 20 < width + 2 - 130 * columns < 100, "room for labels at the left"
    return rows, columns


@pytest.fixture
def files(tmp_path):
    """base.safetensors and target.safetensors of two models that differ everywhere."""
    torch.manual_seed(0)
    return [
        save_pretrained(tmp_path / f"{name}.safetensors", PiGAN(**PiGAN.tiny | SMALL))
        for name in ("base", "target")
    ]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(function, words) -> what it says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda function, *words: call(
        function, [str(word) for word in words], prog="gan3d", positional=True
    )


def test_stylize_writes_a_sheet_a_video_and_a_model(command, files, tmp_path):
    words = [
        "--num",
        2,
        "--yaws",
        "[-0.2, 0.1]",
        "--frames",
        2,
        "--gamma",
        0.25,
        "--device",
        "cpu",
        "--out",
        "new/mix",
    ]
    said = command(stylize_heads, *files, *words)
    assert said == "new/mix: PiGAN, 1 of 1 layers, gamma 0.25"
    assert pictures_in(tmp_path / "new/mix/sheet.png") == (2, 6)
    assert (tmp_path / "new/mix/orbit.mp4").read_bytes()[4:8] == b"ftyp"
    base, target, mixed = (
        load_generator(path) for path in (*files, tmp_path / "new/mix/stylized.safetensors")
    )
    name = "siren.final_layer.weight"
    expected = 0.75 * base.state_dict()[name] + 0.25 * target.state_dict()[name]
    torch.testing.assert_close(mixed.state_dict()[name], expected)
    facts = read_facts(tmp_path / "new/mix/stylized.safetensors")
    assert (facts["layers"], facts["gamma"], facts["mapping"]) == (["field"], 0.25, "base")


def test_a_target_of_another_resolution_is_shown_at_the_bases(command, files, tmp_path):
    target = load_generator(files[1])
    other = PiGAN(**PiGAN.tiny | SMALL | {"img_resolution": 8})
    other.load_state_dict(target.state_dict())
    save_pretrained(tmp_path / "other.safetensors", other)
    command(
        stylize_heads, files[0], "other.safetensors", "--num", 1, "--yaws", "[0.1]", "--frames", 0
    )
    assert pictures_in(tmp_path / "stylized/sheet.png") == (1, 3)


def test_one_yaw_without_brackets_is_told_how_to_write_it(command, files):
    with pytest.raises(ValueError, match=r'written as --yaws "\[0.3\]"'):
        command(stylize_heads, *files, "--yaws", 0.3)


def test_swapping_takes_layers_as_they_are(command, files, tmp_path):
    words = [
        "--mode",
        "swap",
        "--layers",
        "field",
        "--mapping",
        "target",
        "--num",
        1,
        "--frames",
        0,
        "--device",
        "cpu",
    ]
    command(stylize_heads, *files, *words)
    target, mixed = (
        load_generator(files[1]),
        load_generator(tmp_path / "stylized/stylized.safetensors"),
    )
    assert all(
        torch.equal(t, target.state_dict()[key])
        for key, t in mixed.state_dict().items()
        if "w_avg" not in key
    )
    assert not (tmp_path / "stylized/orbit.mp4").exists()


def test_what_makes_no_sense_is_refused(command, files, tmp_path):
    with pytest.raises(
        ValueError, match=r"--mode swap takes layers as they are, --gamma 0.5 mixes them"
    ):
        command(stylize_heads, *files, "--mode", "swap", "--gamma", 0.5)
    with pytest.raises(ValueError, match="got 1024, expected some of field"):
        command(stylize_heads, *files, "--layers", "field,1024", "--device", "cpu")
    with pytest.raises(ValueError, match=r"--yaws is empty; give one or more"):
        command(stylize_heads, *files, "--yaws", "[]")
    for option, value in (("--num", 0), ("--frames", -1)):
        with pytest.raises(ValueError, match=f"{option} {value} is too few"):
            command(stylize_heads, *files, option, value)
    with pytest.raises(ValueError, match=r"--layers ' , ' names none"):
        command(stylize_heads, *files, "--layers", " , ")
    with pytest.raises(ValueError, match=r"base.safetensors is a file; give the name of a folder"):
        command(stylize_heads, *files, "--out", files[0])
    with pytest.raises(ValueError, match="--steps 1 is too few; give 2 or more"):
        command(measure_symmetry, files[0], "--steps", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base.safetensors",
        "target.safetensors",
    ]
    flat = save_pretrained(tmp_path / "flat.safetensors", StyleGAN2(**StyleGAN2.tiny))
    with pytest.raises(ValueError, match="StyleGAN2, which has no camera"):
        command(stylize_heads, flat, files[1])
    with pytest.raises(ValueError, match="StyleGAN2, which has no camera"):
        command(measure_symmetry, flat)


def test_symmetry_writes_numbers_and_pictures(command, files, tmp_path):
    said = command(
        measure_symmetry, files[0], "--num", 2, "--steps", 2, "--device", "cpu", "--out", "sym"
    ).splitlines()
    assert [line.split(":")[0] for line in said[:3]] == ["yaw  0.25", "yaw  0.50", "encoding"]
    assert re.fullmatch(
        r"mirror symmetry -?[\d.]+ \(mirrored 1, steady about 0\), jump in front .*", said[3]
    )
    record = json.loads((tmp_path / "sym/symmetry.json").read_text())
    assert record["yaw"] == [0.25, 0.5]
    assert len(record["scores"]) == len(record["similarity"]) == 2
    assert record["score"] == pytest.approx(sum(record["scores"]) / 2)
    assert len(record["encoding"]["x"]) == len(record["encoding"]["mirror"]) == 101
    assert pictures_in(tmp_path / "sym/heads.png") == (2, 7)
    for name in ("symmetry.png", "encoding.png"):
        assert Image.open(tmp_path / "sym" / name).size == (768, 480)


def test_a_model_with_an_encoding_of_its_own_shows_that(command, files, tmp_path, monkeypatch):
    monkeypatch.setattr(
        PiGAN, "encoding", lambda self, scene, points: points.square(), raising=False
    )
    said = command(measure_symmetry, files[0], "--num", 2, "--steps", 2, "--device", "cpu")
    assert "encoding: the mirror image is nearer than the neighbor at 100% of the points" in said
