"""No copy of a held-out image is trained on, whatever its name."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.camera import Camera
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.twins import MAX_ALIKE, original


def leaks(path, pairs: list[tuple[str, str]], **options) -> list[str]:
    """Training images whose copy is held out."""
    data = PosedImagesModule(str(path), heldout=3, num_workers=0, **options)
    twin = dict(pairs) | {b: a for a, b in pairs}
    held = {twin[data.images.names[item]] for item in data.heldout_items}
    kept = [data.images.names[item] for item in data.training_items]
    assert kept, "nothing is left to train on"
    return sorted(held & set(kept))


def with_copies(posed, name_of, *, flip: bool = True, kind: str = "png") -> list[tuple[str, str]]:
    """Adds a copy of every image, mirrored with its camera or as it is."""
    pairs = []
    for name, pixels, label in list(zip(posed.names, posed.pixels, posed.labels)):
        copy = name_of(name)
        (posed.path / copy).parent.mkdir(parents=True, exist_ok=True)
        if flip:
            camera = Camera.from_label(torch.tensor([label])).mirror()
            label = camera.label()[0].tolist()
            Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(posed.path / copy, kind)
        else:
            shutil.copy(posed.path / name, posed.path / copy)
        posed.names.append(copy)
        posed.labels.append(label)
        pairs.append((name, copy))
    posed.write_labels()
    return pairs


NAMES = {
    "EG3D's tool": lambda name: name.replace(".png", "_mirror.png"),
    "another extension": lambda name: name.replace(".png", "-flipped.jpg"),
    "another folder": lambda name: f"mirrored/{name}",
    "before the name": lambda name: name.replace("img", "hflip_img"),
}


@pytest.mark.parametrize("way", NAMES)
def test_mirrored_copies_are_known_by_their_names_without_labels(make_folder, way):
    posed = make_folder(num=10)
    pairs = with_copies(posed, NAMES[way])
    assert leaks(posed.path, pairs, use_labels=False) == []
    assert leaks(posed.zip(), pairs, use_labels=False) == []


def test_names_with_several_dots_lose_the_word_and_the_last_extension_only():
    assert original("a/photo.008_mirror.png") == original("a/photo.008.png") == "a/photo.008"
    assert original("a/photo.008.png") != original("a/photo.009.png")
    assert original("kickflip.png") == "kickflip"
    assert original("mirror.png") == "mirror"
    assert original("flipped/b.jpg") == "b"


def test_mirrored_copies_under_any_name_are_known_by_camera_and_pixels(make_folder):
    posed = make_folder(num=10)
    pairs = with_copies(posed, lambda name: f"z{posed.names.index(name):03d}.png")
    assert leaks(posed.path, pairs) == []
    # without labels they are not: docs/data.md says so
    assert leaks(posed.path, pairs, use_labels=False) != []


def test_copies_under_any_name_are_known_by_their_bytes(make_folder):
    posed = make_folder(num=10)
    pairs = with_copies(posed, lambda name: f"z{posed.names.index(name):03d}.png", flip=False)
    assert leaks(posed.path, pairs, use_labels=False) == []
    assert leaks(posed.zip(), pairs, use_labels=False) == []


def test_other_images_from_the_same_camera_stay_in_training(make_folder):
    posed = make_folder(num=12)
    posed.labels = [posed.labels[k // 2] for k in range(12)]
    posed.write_labels()
    data = PosedImagesModule(str(posed.path), heldout=3)
    assert len(data.training_items) == 9


def test_a_picture_that_many_share_is_no_copy(make_folder):
    posed = make_folder(num=MAX_ALIKE + 4)
    for name in posed.names[1:]:
        shutil.copy(posed.path / posed.names[0], posed.path / name)
    data = PosedImagesModule(str(posed.path), heldout=3, use_labels=False)
    assert len(data.training_items) == MAX_ALIKE + 1


def test_a_set_of_copies_alone_is_refused(make_folder):
    posed = make_folder(num=3)
    with_copies(posed, NAMES["EG3D's tool"])
    with pytest.raises(ValueError, match=r"heldout 5 leaves no image to train on.*hold out fewer"):
        PosedImagesModule(str(posed.path), heldout=5).setup()
