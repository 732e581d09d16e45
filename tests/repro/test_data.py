"""Turned photographs, held-out twins and short messages (trials 06, 07, 08)."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from gan3d.camera import Camera
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.dataset import PosedImages
from gan3d.data.images import decode


def test_a_photograph_is_read_as_viewers_show_it():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))))
    read = decode(file.getvalue(), "photo.png").permute(1, 2, 0).numpy()
    assert (read == shown).all()


@pytest.mark.parametrize("stem", ["photo", "photo."])
def test_no_mirrored_copy_of_a_heldout_image_is_trained_on(tmp_path, stem):
    for k in range(20):
        for end in ("", "_mirror"):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{stem}{k:03d}{end}.png")
    data = PosedImagesModule(str(tmp_path), heldout=4, use_labels=False, num_workers=0)
    names = [name.replace("_mirror", "") for name in data.images.names]
    held = {names[item] for item in data.heldout_items}
    assert [names[item] for item in data.training_items if names[item] in held] == []
    assert len(data.training_items) >= 32


def test_the_message_about_a_dictionary_of_labels_is_short(tmp_path):
    path = tmp_path / "set.zip"
    label = Camera.from_angles(0.1, 0.2).label()[0].tolist()
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", png.getvalue())
        labels = {f"{k}.png": label for k in range(2000)}
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    with pytest.raises(ValueError, match=r"expected .\"labels\": ") as caught:
        PosedImages(path)
    assert len(str(caught.value)) < 500
