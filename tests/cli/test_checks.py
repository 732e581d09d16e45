"""Options are checked before the work: devices, numbers, places to write to."""

import tempfile
from pathlib import Path

import pytest
import torch

from gan3d.cli.checks import at_least, device_of, file_for, folder_for
from gan3d.cli.export import export_training
from gan3d.cli.messages import CommandError
from gan3d.cli.options import call


def test_a_device_is_one_that_is_there():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(
        CommandError, match=r"--device cud cannot be used: (.|\n)*there is: auto, cpu"
    ):
        device_of("cud")
    with pytest.raises(
        CommandError, match=r"--device cuda:99 cannot be used: (.|\n)*there is: auto, cpu"
    ):
        device_of("cuda:99")


def test_a_number_below_the_least_is_refused():
    at_least(2, "views", 2)
    with pytest.raises(CommandError, match=r"^--views 1 is too few; give 2 or more$"):
        at_least(2, "views", 1)


def test_a_file_has_one_of_the_endings_and_a_place(tmp_path):
    assert file_for(tmp_path / "new/deep/mesh.GLB", ".glb") == tmp_path / "new/deep/mesh.GLB"
    assert file_for(tmp_path / "any.thing") == tmp_path / "any.thing"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        CommandError, match=r"mesh.obj does not end in .glb or .ply; use for example mesh.glb"
    ):
        file_for(Path("mesh.obj"), ".glb", ".ply")
    (tmp_path / "a.glb").mkdir()
    with pytest.raises(CommandError, match=r"a.glb is a folder; give the name of a file"):
        file_for(tmp_path / "a.glb", ".glb")


def test_a_folder_may_be_there_but_not_as_a_file(tmp_path):
    assert folder_for(tmp_path) == tmp_path
    assert folder_for(tmp_path / "new/deep") == tmp_path / "new/deep"
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match=r"file is a file; give the name of a folder"):
        folder_for(tmp_path / "file")
    with pytest.raises(CommandError, match=r"file is a file, no folder; choose another place"):
        folder_for(tmp_path / "file/below")
    with pytest.raises(CommandError, match=r"file is a file, no folder; choose another place"):
        file_for(tmp_path / "file/below.png")


def test_a_place_that_can_not_be_written_is_refused(tmp_path, monkeypatch):
    def denied(dir):
        raise PermissionError(13, f"no permission in {dir.name}")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)  # whoever runs the tests may be root
    match = r"--out .*a.png: nothing can be written in .* \(no permission in here\); choose another"
    (tmp_path / "here").mkdir()
    with pytest.raises(CommandError, match=match):
        file_for(tmp_path / "here/new/a.png")


def test_a_verb_that_lacks_an_argument_is_not_sent_to_the_configs_of_training():
    with pytest.raises(CommandError, match="required: model") as refusal:
        call(export_training, [], prog="gan3d export training", positional=True)
    assert "--config" not in str(refusal.value)


def test_a_portable_file_is_called_one(tmp_path):
    with pytest.raises(CommandError, match=r"model.pt does not end in .safetensors"):
        export_training(tmp_path / "last.ckpt", tmp_path / "model.pt")
