"""Our sphere poses beside the labels that GRAM's data sets return, flipped and not, in every golden
folder with any.

A file `pose_labels.safetensors` holds per data set what its pose file stores (`ffhq.angle`,
`cats.npy`), and the label (pitch, yaw) of the image and of the flipped image (`*.flip0`,
`*.flip1`); cases of more files have names in between.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.io import savemat
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data import PosedImages
from gan3d.data.gram_poses import cats_sphere_pose, ffhq_sphere_pose, mirrored_pose, write_gram

pytestmark = pytest.mark.golden_cases("gramhd", "pose_labels.safetensors")

STORED = {".angle": ("ffhq", 3, ffhq_sphere_pose), ".npy": ("cats", 2, cats_sphere_pose)}


def stored_poses(folder: Path) -> list[tuple[str, str, Tensor, Tensor, Tensor]]:
    """(kind, prefix, stored pose [n k], label [n 2], label of the flipped image [n 2]).

    Fails if a key is left over.
    """
    tensors = load_file(folder / "pose_labels.safetensors")
    found = []
    for key, stored in tensors.items():
        for ending, (kind, width, _) in STORED.items():
            if key.endswith(ending):
                prefix = key.removesuffix(ending)
                labels = (tensors[f"{prefix}.flip{flip}"].reshape(-1, 2) for flip in (0, 1))
                found.append((kind, prefix, stored.reshape(-1, width), *labels))
    assert found, f"no pose in {folder}"
    assert len(tensors) == 3 * len(found), f"keys that this test does not know: {sorted(tensors)}"
    return found


def test_sphere_poses_are_the_official_labels(folder, near):
    for kind, _, stored, plain, flipped in stored_poses(folder):
        convert = {name: function for name, _, function in STORED.values()}[kind]
        near(convert(stored), plain, 1e-6)
        near(mirrored_pose(convert(stored)), flipped, 1e-6)


def test_a_set_written_from_such_files_gives_them_back_mirrored_items_included(
    folder, near, tmp_path
):
    for number, (kind, _, stored, plain, flipped) in enumerate(stored_poses(folder)):
        source = tmp_path / f"{number}"
        (source / "poses").mkdir(parents=True)
        for k, pose in enumerate(stored.numpy()):
            Image.new("RGB", (4, 4), (k % 256, 0, 0)).save(source / f"{k:04d}.png")
            if kind == "ffhq":
                savemat(source / f"poses/{k:04d}.mat", {"angle": pose[None]})
            else:
                np.save(source / f"poses/{k:04d}_pose.npy", pose)
        write_gram(source, out=tmp_path / f"{number}.zip", resolution=4)
        images = PosedImages(tmp_path / f"{number}.zip", mirror=True)
        near(Camera.from_label(images.labels).sphere_pose(), torch.cat([plain, flipped]), 1e-5)
