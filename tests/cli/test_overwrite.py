"""No verb overwrites a result unasked, and each refuses before its work begins."""

import pytest

from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import VERBS
from gan3d.generators import EG3D, StyleGAN2

# What each verb writes, and the words that ask for it; all else is missing or unreadable, so that a
# verb that begins to work fails in other words.
CASES = {
    ("data", "heads"): (["--out", "here.zip", "--num", "1"], "here.zip"),
    ("data", "gram"): (["images.zip", "--out", "here.zip"], "here.zip"),
    ("report",): (["run"], "run/report.html"),
    ("dashboard",): (["run"], "dashboard.html"),
    ("measure",): (["model.safetensors", "--data", "images.zip"], "model.metrics.json"),
    ("bench", "eval"): (
        ["model.safetensors", "--suite", "quick"],
        "runs/bench/quick/model.json",
    ),
    ("bench", "table"): (["model.json", "--out", "here.md"], "here.md"),
    ("edit",): (["model.safetensors"], "edits.png"),
    ("epi",): (["model.safetensors"], "epi.png"),
    ("invert",): (["model.safetensors", "model.safetensors"], "inverted/result.png"),
    ("mesh",): (["model.safetensors"], "mesh.glb"),
    ("sample",): (["model.safetensors", "--sheet", "true"], "samples/sheet.png"),
    ("video",): (["model.safetensors"], "video.mp4"),
    ("stylize",): (["model.safetensors", "model.safetensors"], "stylized/sheet.png"),
    ("symmetry",): (["model.safetensors"], "symmetry/symmetry.json"),
    ("export", "manifolds"): (["model.safetensors"], "manifolds.glb"),
    ("export", "training"): (["model.ckpt"], "model.safetensors"),
}
for method in ("eg3d", "stylegan2", "stylegan3", "cips3d", "pigan", "gram"):
    CASES["import", method] = (["model.pkl"], "model.safetensors")
    ending = "pt" if method in ("eg3d", "stylegan2", "stylegan3") else "pth"
    CASES["export", method] = (["model.safetensors"], f"model.{ending}")
WRITES_NOTHING = {("configs",), ("models",), ("reproject",), ("view",), ("bench", "suites")}
GOES_ON = {("bench", "run")}  # in its own folder, as fit does


def test_every_verb_is_here():
    assert {verb.words for verb in VERBS} == CASES.keys() | WRITES_NOTHING | GOES_ON


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_result_that_is_there_is_refused_first(cli, tmp_path, words):
    arguments, result = CASES[words]
    for name in ("model.safetensors", "model.pkl", "model.ckpt", "model.json", "images.zip"):
        (tmp_path / name).write_text("unreadable")
    path = tmp_path / result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    code, _, said = cli(*words, *arguments)
    assert code == 2
    assert "exists already" in said, said
    assert "--overwrite true" in said
    assert path.read_text() == "mine"
    _, _, said = cli(*words, *arguments, "--overwrite", "true", *_ending(words))
    assert "exists already" not in said


def _ending(words):
    """Ends the work of a verb that has nothing to fail at."""
    return ["--resolution", "1"] if words == ("data", "heads") else []


def test_a_second_measurement_does_not_erase_the_first(cli, tmp_path, posed_zip):
    save_pretrained(tmp_path / "g.safetensors", StyleGAN2(**StyleGAN2.tiny).eval())
    measure = ["measure", "g.safetensors", "--features", "small", "--data", posed_zip, "--num", 8]
    measure += ["--num_workers", 0, "--metrics"]
    assert cli(*measure, "fid")[0] == 0
    first = (tmp_path / "g.metrics.json").read_text()
    assert "small/frechet" in first
    code, _, said = cli(*measure, "kid")
    assert code == 2
    assert "--overwrite true" in said
    assert (tmp_path / "g.metrics.json").read_text() == first
    assert cli(*measure, "kid", "--overwrite", "true")[0] == 0
    assert "small/kernel" in (tmp_path / "g.metrics.json").read_text()


def test_a_picture_is_replaced_only_if_asked_for(cli, tmp_path):
    save_pretrained(tmp_path / "g.safetensors", EG3D(**EG3D.tiny).eval())
    words = ["epi", "g.safetensors", "--frames", 2, "--device", "cpu"]
    assert cli(*words)[0] == 0
    first = (tmp_path / "epi.png").read_bytes()
    assert cli(*words, "--seed", 1)[0] == 2
    assert (tmp_path / "epi.png").read_bytes() == first
    assert cli(*words, "--seed", 1, "--overwrite", "true")[0] == 0
    assert (tmp_path / "epi.png").read_bytes() != first
