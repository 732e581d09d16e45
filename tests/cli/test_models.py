"""The MODEL of a verb: a file, a run folder or a name, for every verb that takes one."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch

from gan3d.cli import VERBS, main
from gan3d.cli.messages import CommandError
from gan3d.cli.models import beside, load_with_view
from gan3d.generators import StyleGAN2

OF_A_MODEL = {
    "edit", "epi", "invert", "measure", "mesh", "reproject", "sample", "stylize", "symmetry",
    "video", "export manifolds", "export training",
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", sorted(OF_A_MODEL))
def test_the_verbs_of_a_trained_model_take_it_by_name(words):
    (verb,) = (verb for verb in VERBS if " ".join(verb.words) == words)
    module, _, name = verb.target.partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    first = next(iter(signature.parameters.values()))
    assert (first.name, first.annotation) in (("model", "str"), ("base", "str"))


def test_a_verb_takes_the_folder_of_a_run(run, capsys):
    words = ["epi", "runs/heads", "--frames", "2", "--device", "cpu"]
    assert main(words) == 0, capsys.readouterr().err
    assert Path("epi.png").exists()


@pytest.mark.parametrize("verb", ["epi", "measure", "export training"])
def test_a_misspelt_run_is_refused_with_the_nearest(run, capsys, verb):
    assert main([*verb.split(), "runs/haeds", *["--metrics", "ppl"] * (verb == "measure")]) == 2
    said = capsys.readouterr().err
    assert "there is no model runs/haeds" in said
    assert "did you mean runs/heads?" in said


def test_measures_of_a_run_lie_beside_its_checkpoint(run, posed_zip, capsys):
    words = ["measure", "runs/heads", "--features", "small", "--metrics", "fid", "--num", "8"]
    words += ["--data", str(posed_zip), "--num_workers", "0", "--device", "cpu"]
    assert main(words) == 0, capsys.readouterr().err
    assert (run / "checkpoints" / "kimg-000002.500.metrics.json").exists()


def test_what_is_said_of_somebody_elses_file_goes_into_the_present_folder(tmp_path):
    (tmp_path / "mine.ckpt").touch()
    assert beside("mine.ckpt", Path("mine.ckpt"), ".json") == Path("mine.json")
    cached = Path("/cache/of/the/hub/model.safetensors")
    assert beside("user/heads", cached, ".json") == Path("heads.json")


def test_a_model_without_a_camera_is_refused_and_views_are_locked(run, tmp_path):
    assert load_with_view("runs/heads", "cpu")[0].lock_view
    torch.manual_seed(0)
    StyleGAN2(**StyleGAN2.tiny).save_pretrained("flat")
    with pytest.raises(CommandError, match="flat holds StyleGAN2, which has no camera"):
        load_with_view("flat", "cpu")
