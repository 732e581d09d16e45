"""A set is known again: as a copy, as a folder, and as another one when it changed."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.dataset import PosedImages
from gan3d.data.fingerprint import changes, fingerprint


def of(path: Path, **options) -> dict:
    return fingerprint(PosedImages(path, **options))


@pytest.fixture
def was(posed_zip) -> dict:
    return of(posed_zip)


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy in which `change(name, content)` gives the content of each file."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in reversed(old.namelist()):
            new.writestr(name, change(name, old.read(name)))
    return target


def test_copies_folders_and_mirrored_ones_are_the_same_set(was, posed_zip, tmp_path):
    assert changes(was, was) == []
    copy = rewritten(posed_zip, tmp_path / "copy.zip", lambda name, content: content)
    with zipfile.ZipFile(posed_zip) as archive:
        archive.extractall(tmp_path / "folder")
    os.utime(tmp_path / "folder" / "dataset.json", (0, 0))
    for same in (of(copy), of(tmp_path / "folder"), of(posed_zip, mirror=True)):
        assert changes(was, same) == []
    json.dumps(was)  # plain values


def test_what_changed_is_said(was, posed_zip, posed_zips, tmp_path):
    fewer = posed_zips(tmp_path / "fewer.zip", num=20)
    assert changes(was, of(fewer))[0] == "24 images -> 20"

    def other_picture(name: str, content: bytes) -> bytes:
        # of the same size: a PNG's last chunk is followed by what readers ignore
        return content[:-1] + b"x" if name.endswith("7.png") else content

    other = of(rewritten(posed_zip, tmp_path / "other.zip", other_picture))
    assert changes(was, other) == ["other pictures under the same names"]

    def other_camera(name: str, content: bytes) -> bytes:
        if name != "dataset.json":
            return content
        labels = json.loads(content)["labels"]
        labels[0][1], labels[1][1] = labels[1][1], labels[0][1]
        return json.dumps({"labels": labels}).encode()

    other = of(rewritten(posed_zip, tmp_path / "cameras.zip", other_camera))
    assert changes(was, other) == ["other camera labels"]


def test_only_images_in_use_count(posed_zip):
    assert of(posed_zip, max_items=10)["images"] == 10
    assert changes(of(posed_zip), of(posed_zip, max_items=10))[0] == "24 images -> 10"


def test_nothing_is_read_but_the_directory_of_a_zip(posed_zip, monkeypatch):
    images = PosedImages(posed_zip)

    def read(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr(type(images.archive), "read", read)
    assert fingerprint(images)["images"] == 24


def test_what_was_held_out_stays_held_out_and_nothing_else_when_the_set_changes(
    posed_zips, tmp_path
):
    many, few = (posed_zips(tmp_path / f"{n}.zip", num=n) for n in (24, 20))
    first = PosedImagesModule(str(many), heldout=6, num_workers=0)
    held = [first.images.names[item] for item in first.heldout_items]
    trained = {first.images.names[item] for item in first.training_items}
    second = PosedImagesModule(str(few), heldout=6, num_workers=0)
    second.heldout_names = held
    names = second.images.names
    assert {names[item] for item in second.heldout_items} == set(held) & set(names)
    assert not {names[item] for item in second.training_items} & set(held)
    assert not {names[item] for item in second.heldout_items} & trained
