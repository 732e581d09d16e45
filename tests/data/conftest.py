"""Small posed data sets on disk, and ways to damage them."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.camera import Camera


@dataclass
class PosedFolder:
    """A folder in EG3D's layout that a test may change before it is read."""

    path: Path
    names: list[str]
    pixels: np.ndarray  # n H W 3
    labels: list[list]

    def write_json(self, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.path / "dataset.json").write_text(text)

    def write_labels(self) -> None:
        # In descending order, to catch a reader that relies on the order of the file.
        entries = [[name, label] for name, label in zip(self.names, self.labels)]
        self.write_json({"labels": entries[::-1]})

    def zip(self, compression: int = zipfile.ZIP_STORED) -> Path:
        target = self.path.with_suffix(".zip")
        with zipfile.ZipFile(target, "w", compression) as archive:
            for file in sorted(self.path.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(self.path).as_posix())
        return target


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def make_folder(tmp_path):
    def make(num: int = 5, resolution: int = 8, seed: int = 0, folder: str = "set") -> PosedFolder:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (num, resolution, resolution, 3), dtype=np.uint8)
        yaw, pitch = torch.from_numpy(rng.normal(0, 0.3, (2, num)))
        labels = Camera.from_angles(yaw, pitch, focal=4.26).label().float().tolist()
        names = [f"{i // 3:05d}/img{i:08d}.png" for i in range(num)]
        path = tmp_path / folder
        for name, image in zip(names, pixels):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(png(image))
        posed = PosedFolder(path, names, pixels, labels)
        posed.write_labels()
        return posed

    return make
