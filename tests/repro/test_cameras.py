"""Cameras of other conventions are refused, and the cure exists (trials 04, 19)."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import gan3d
from gan3d.camera import Camera, flip_camera_axes
from gan3d.data.dataset import PosedImages

GOOD = Camera.from_angles(torch.linspace(-0.6, 0.6, 7), 0.2)
PIXELS = GOOD.intrinsics.clone()
PIXELS[:, :2] *= 512
NDC = GOOD.intrinsics.clone()
NDC[:, :2, 2] = 0
CASES = {
    "OpenGL axes": Camera(flip_camera_axes(GOOD.cam2world), GOOD.intrinsics),
    "world2cam": Camera(torch.linalg.inv(GOOD.cam2world), GOOD.intrinsics),
    "intrinsics in pixels": Camera(GOOD.cam2world, PIXELS),
    "principal point": Camera(GOOD.cam2world, NDC),
    "radius 270": Camera(
        Camera.from_angles(torch.linspace(-0.6, 0.6, 7), 0.2, radius=270.0).cam2world,
        GOOD.intrinsics,
    ),
}


def archive_of(camera: Camera, folder: Path) -> Path:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    labels = [[f"{k}.png", row] for k, row in enumerate(camera.label().tolist())]
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, _ in labels:
            archive.writestr(name, png.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return folder / "set.zip"


@pytest.mark.parametrize("name", CASES)
def test_labels_of_another_convention_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"set.zip: dataset.json: .*0.png.*{name}"):
        PosedImages(archive_of(CASES[name], tmp_path))


def test_the_reader_accepts_the_right_ones(tmp_path):
    assert len(PosedImages(archive_of(GOOD, tmp_path))) == 7


def test_every_cure_that_the_documents_name_exists():
    text = (Path(gan3d.__file__).parents[2] / "docs" / "data.md").read_text()
    assert "Camera.from_opengl" in text
    for name in ("from_opengl", "from_world2cam", "scale"):
        assert hasattr(Camera, name)
    assert hasattr(gan3d.camera, "intrinsics_from_pixels")
