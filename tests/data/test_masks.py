"""Masks of real images travel with them, from the archive to the micro-batch."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.data import DataError, PosedImages
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.heads import write_heads
from gan3d.training.micro_batches import micro_batches


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "heads.zip"
    write_heads(path, num=6, resolution=16, workers=1)
    return path


def test_a_mask_covers_the_head_of_its_image(heads):
    images = PosedImages(heads, use_masks=True, mirror=True)
    masks = [images.mask(item) for item in range(6)]
    assert all(mask.shape == (1, 16, 16) and mask.dtype == torch.uint8 for mask in masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 6
    for mask in masks:  # a head stands in the lower middle, and the upper corners are empty
        assert mask[0, 8:12, 6:10].float().mean() > 200
        assert mask[0, 0, 0] == mask[0, 0, -1] == 0
    for item in range(6):  # the twin's mask is mirrored with it
        assert torch.equal(images.mask(item + 6), masks[item].flip(-1))
        assert torch.equal(images[item + 6][0], images[item][0].flip(-1))


def test_a_set_with_masks_as_pictures_is_still_read(heads, tmp_path):
    path = tmp_path / "old.zip"
    with zipfile.ZipFile(heads) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name.startswith("mask/"):
                stream = io.BytesIO()
                Image.fromarray(np.load(io.BytesIO(data))).save(stream, "PNG")
                name, data = name.replace(".npy", ".png"), stream.getvalue()
            copy.writestr(name, data)
    new, old = PosedImages(heads, use_masks=True), PosedImages(path, use_masks=True)
    assert old.names == new.names
    assert all(torch.equal(old.mask(item), new.mask(item)) for item in range(6))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.zeros((16, 16)), r"float64 \[16, 16\], expected uint8 \[16, 16\]"),
        (np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\], expected uint8 \[16, 16\]"),
        (None, "not a readable array"),
    ],
)
def test_a_wrong_mask_is_named(heads, tmp_path, levels, message):
    path = tmp_path / "wrong.zip"
    stream = io.BytesIO()
    if levels is not None:
        np.save(stream, levels)
    with zipfile.ZipFile(heads) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            wrong = name == "mask/00000/img00000000.npy"
            copy.writestr(name, stream.getvalue() if wrong else source.read(name))
    with pytest.raises(DataError, match=r"img00000000\.npy: " + message):
        PosedImages(path, use_masks=True)


def test_masks_are_shrunk_with_their_images(heads):
    small = PosedImages(heads, use_masks=True, resolution=8)
    assert small.mask(0).shape == (1, 8, 8)


def test_batches_carry_masks_in_the_order_of_their_images(heads):
    data = PosedImagesModule(path=str(heads), batch_size=4, num_workers=0, use_masks=True)
    batch = next(iter(data.train_dataloader()))
    assert batch.mask.shape == (4, 1, 16, 16)
    assert 0 <= batch.mask.min() < batch.mask.max() <= 1
    parts = micro_batches(batch, 4, group_size=2, dtype=torch.float64)
    order = [batch.index.tolist().index(index) for index in parts[0].indices]
    assert order != [0, 1, 2, 3]  # groups are strided
    assert torch.equal(parts[0].mask, batch.mask[order].double())
    assert torch.equal(batch.to("cpu").mask, batch.mask)


def test_without_masks_nothing_is_read(heads):
    data = PosedImagesModule(path=str(heads), batch_size=4, num_workers=0)
    assert next(iter(data.train_dataloader())).mask is None
    assert PosedImages(heads).mask(0) is None


def test_a_missing_mask_is_named(heads, tmp_path):
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(heads) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            if not name.startswith("mask/"):
                copy.writestr(name, source.read(name))
    with pytest.raises(DataError, match=r"has no mask; expected mask/00000/img00000000\.npy: add"):
        PosedImages(path, use_masks=True)
