"""Shared fixtures: a small posed data set on disk."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.camera import Camera


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="rewrite what tests compare: docs, the surface"
    )


def write_posed_zip(path: Path, num: int = 24, resolution: int = 32, seed: int = 0) -> Path:
    """A zip in EG3D's layout: smooth random pictures whose brightness leans with the camera's
    yaw.
    """
    rng = np.random.default_rng(seed)
    yaw, pitch = (
        torch.from_numpy(rng.normal(0, 0.3, num)),
        torch.from_numpy(rng.normal(0, 0.15, num)),
    )
    labels = Camera.from_angles(yaw.float(), pitch.float()).label()
    entries = []
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num):
            small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            buffer = BytesIO()
            small.resize((resolution, resolution), Image.Resampling.BICUBIC).save(
                buffer, format="PNG"
            )
            name = f"00000/img{i:08d}.png"
            archive.writestr(name, buffer.getvalue())
            entries.append([name, [float(v) for v in labels[i]]])
        archive.writestr("dataset.json", json.dumps({"labels": entries}))
    return path


@pytest.fixture(scope="session")
def posed_zip(tmp_path_factory) -> Path:
    return write_posed_zip(tmp_path_factory.mktemp("data") / "posed32.zip")
