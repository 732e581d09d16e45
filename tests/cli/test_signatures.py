"""Verbs answer before torch is imported: help, wrong values, missing files."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from gan3d.cli import VERBS
from gan3d.cli.checks import check_values
from gan3d.cli.messages import CommandError
from gan3d.cli.signatures import stand_in

# What is refused at once, and what is said of it.
REFUSALS = {
    "epi nothing.ckpt": "there is no model nothing.ckpt",
    "epi here.ckpt --seed -1": "--seed -1 is out of range; give a number 0 or more",
    "epi here.ckpt --fov 200": "--fov 200.0 is out of range; give a number between 0 and 180",
    "epi here.ckpt --truncation 7": "--truncation 7.0 is out of range; give a number from -2 to 2",
    "epi here.ckpt --radius 0": "--radius 0.0 is out of range; give a number above 0",
    "epi here.ckpt --frames 1": "--frames 1 is too few; give 2 or more",
    "epi here.ckpt --out a.gif": "--out a.gif does not end in .png",
    "epi here.ckpt --device gpu": "--device gpu is not a device",
    "sample here.ckpt --seeds 1-": "'1-' is no seed; give whole numbers",
    "video here.ckpt --path dolli": "did you mean dolly?",
    "video here.ckpt --grid 4": "--grid 4 is no grid",
    "video here.ckpt --beside there.ckpt": "there is no model there.ckpt",
    "sample here.ckpt --layers normal": "did you mean normals?",
    "mesh here.ckpt --voxels some": "--voxels: 'some' is not of type int",
    "mesh her.ckpt": "did you mean here.ckpt?",
    "reproject here.ckpt --num 0": "--num 0 is too few; give 1 or more",
    "stylize here.ckpt there.ckpt": "there is no model there.ckpt",
    "symmetry here.ckpt --out here.ckpt": "--out here.ckpt is a file",
    "measure here.ckpt --metrics fdi": "there is no metric fdi",
    "measure here.ckpt --metrics fid": "give --data FOLDER_OR_ZIP",
    "measure here.ckpt --data nowhere.zip": "data nowhere.zip: there is no such file or folder",
    "measure here.ckpt --batch_size 0": "--batch_size 0 is too few; give 1 or more",
    "data heads --num 0": "--num 0 is out of range; give a number 1 or more",
    "data gram nowhere": "images nowhere: there is no such file or folder",
    "report runs/none": "run_dir runs/none: there is no such file or folder",
    "import eg3d here.pkl": "did you mean here.ckpt?",
    "import gram here.ckpt --discriminator d.pth": "discriminator d.pth: there is no such file",
    "export training here.ckpt --out a.pt": "a.pt does not end in .safetensors",
    "export cips3d here.ckpt --out here.ckpt/a.pth": "here.ckpt is a file, no folder",
}


def heavy_after(commands: list[str], folder: Path) -> tuple[list[int], str, list[str]]:
    """(exit codes, what was said, heavy packages that were imported) of some commands."""
    program = (
        "import sys; from gan3d.cli import main\n"
        f"print([main(words.split()) for words in {commands!r}])\n"
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )
    *_, codes, heavy = done.stdout.splitlines()
    return eval(codes), done.stderr, eval(heavy)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb.words))
def test_a_stand_in_has_the_signature_and_the_docstring_of_its_function(verb):
    module, _, name = verb.target.partition(":")
    function = getattr(importlib.import_module(module), name)
    signature = inspect.signature(function, eval_str=True)
    found = stand_in(verb.target)
    assert inspect.signature(found).parameters == signature.parameters
    assert found.__doc__ == function.__doc__


def test_what_can_be_refused_without_torch_is_refused_without_it(tmp_path):
    (tmp_path / "here.ckpt").touch()
    codes, said, heavy = heavy_after(list(REFUSALS), tmp_path)
    assert heavy == []
    for (command, expected), code in zip(REFUSALS.items(), codes, strict=True):
        assert code == 2, command
        assert expected in said, command
    assert said.count("gan3d: error:") == len(REFUSALS)


def test_the_help_of_every_verb_needs_no_torch(tmp_path):
    commands = [f"{' '.join(verb.words)} --help" for verb in VERBS]
    codes, said, heavy = heavy_after(commands, tmp_path)
    assert heavy == []
    assert codes == [0] * len(VERBS)
    assert said == ""


def test_a_stand_in_returns_its_arguments_as_its_checks_leave_them(tmp_path):
    epi = stand_in("gan3d.cli.consistency:write_epi_of")
    given = epi(model="a", out=tmp_path / "a.png", frames=7)
    assert (given["model"], given["out"], given["frames"]) == ("a", tmp_path / "a.png", 7)
    assert set(given) == set(inspect.signature(epi).parameters)
    with pytest.raises(CommandError, match="--frames 1 is too few"):
        epi(model="a", frames=1)


def test_values_that_every_verb_takes_are_accepted(tmp_path):
    (tmp_path / "a.safetensors").touch()
    given = {"model": str(tmp_path / "a.safetensors"), "seed": 0, "truncation": -0.7, "fov": None}
    check_values(given | {"data": tmp_path, "out": tmp_path / "new/x.png", "device": "cuda:1"})
    check_values({"model": "user/name"})  # of the hub: seen when it is asked
