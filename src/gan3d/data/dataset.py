"""Images with camera labels in EG3D's layout (specs/eg3d.md 13), and the batches made of them.

Layout: a folder or zip of square images and, at its root, `dataset.json`:

    {"labels": [["00000/img00000000.png", [25 numbers]], ...]}

Convention: the 25 numbers are a label of `gan3d.camera` (cam2world row by row, then intrinsics). An
*item* is a position in the set: the images sorted by file name, followed by their mirrored twins.
An *image index* counts the images that a run has seen (gan3d.randomness).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gan3d.camera import LABEL_DIM, Camera, check_labels, check_views
from gan3d.data.archive import Archive, DataError, open_archive
from gan3d.data.images import EXTENSIONS, ResizeFilter, decode, decode_array

LABEL_FILE = "dataset.json"
# Folders in which the procedural heads store one file per image; these are not images of the set.
COMPANIONS = ("depth/", "mask/")


class Batch:
    """Images as the networks see them.

        image = x / 127.5 - 1,   mask = x / 255   of the 8-bit levels x

    Images and masks travel as they are stored, a quarter of the bytes, and become floats where they
    are read, on whatever device the batch then is: read them once.

    Args:
        image: [b 3 H W], uint8 levels, or floats in [-1, 1], which stay as they are.
        camera: b cameras, or None if the set is used without labels.
        index: int64 [b], the image index of the run in training, the position among the held-out
            images in evaluation; it stays on the host, which names draws by it.
        mask: coverage of the foreground, [b 1 H W], uint8 levels or floats in [0, 1]; None if no
            masks are used.

    Attributes:
        pixels: the images as they were given.
        coverage: the masks as they were given, or None.
    """

    # Not a dataclass: Lightning's precision plugins convert the fields of dataclasses.

    def __init__(
        self, image: Tensor, camera: Camera | None, index: Tensor, mask: Tensor | None = None
    ):
        self.pixels = image
        self.coverage = mask
        self.camera = camera
        self.index = index

    @property
    def image(self) -> Tensor:
        """The images, [b 3 H W] in [-1, 1], float32 where they are stored as levels."""
        if self.pixels.dtype != torch.uint8:
            return self.pixels
        return _quotient(self.pixels, 127.5).sub_(1)

    @property
    def mask(self) -> Tensor | None:
        """Coverage of the foreground, [b 1 H W] in [0, 1], or None if no masks are used."""
        if self.coverage is None or self.coverage.dtype != torch.uint8:
            return self.coverage
        return _quotient(self.coverage, 255)

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """A copy on `device`, all but the index; asynchronous if the memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """A copy in pinned memory, for `DataLoader(pin_memory=True)`."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        camera = self.camera
        if camera is not None:
            camera = Camera(move(camera.cam2world), move(camera.intrinsics))
        mask = None if self.coverage is None else move(self.coverage)
        return Batch(move(self.pixels), camera, self.index, mask)


def _quotient(levels: Tensor, divisor: float) -> Tensor:
    """levels / divisor in float32, the same on every device.

    The divisor is a tensor: by a plain number CUDA multiplies with the rounded inverse.
    """
    return levels.float().div_(torch.full((), divisor, device=levels.device))


class PosedImages(Dataset):
    """Square images and their camera labels, read lazily from a folder or a zip.

    All labels are read and checked on construction, pixels item by item. Works in forked and
    spawned data workers.

    Args:
        path: folder or zip.
        resolution: side to shrink to in pixels, a power of two; None keeps the original size, which
            must then be a power of two.
        resize_filter: Pillow's filter of that name, antialiased.
        mirror: append every image flipped left-right, *with the mirrored camera*.
        use_labels: False ignores `dataset.json`.
        use_masks: whether to read the mask of every image, uint8 [H W], from
            `mask/<name>.npy`, or gray, from `mask/<name>.png`.
        max_items: number of images to keep, drawn with `seed` as in EG3D's reader, before
            mirroring; None keeps all.
        seed: seed of `max_items`.

    Attributes:
        resolution: side of the returned images in pixels.
        num_images: number of files used; item num_images + i is the mirrored twin of item i.
        names: file name of every item.
        native: side of the stored images in pixels.
        labels: float32 [n 25], mirrored items included, or None.
        label_std: population standard deviation over all labels of the file, float32 [25], or None.

    Raises:
        DataError: archive, labels or first image are invalid; on indexing, if that image is
            invalid.
    """

    # unlike eg3d: its reader flips the pixels and keeps the camera, so the label of a mirrored
    # image is wrong.

    def __init__(
        self,
        path: str | Path,
        *,
        resolution: int | None = None,
        resize_filter: ResizeFilter = "lanczos",
        mirror: bool = False,
        use_labels: bool = True,
        use_masks: bool = False,
        max_items: int | None = None,
        seed: int = 0,
    ):
        self.archive = open_archive(path)
        self.use_masks = use_masks
        self.resize_filter = resize_filter
        self.mirror = mirror

        # all files and labels
        names = _image_names(self.archive)
        labels = read_labels(self.archive, names) if use_labels else None
        self.label_std = None if labels is None else labels.std(dim=0, unbiased=False)

        # the items: a subset, then its mirrored twins
        kept = _subset(len(names), max_items, seed)
        self.num_images = len(kept)
        self.names = [names[item] for item in kept] * (2 if mirror else 1)
        self.labels = None if labels is None else labels[kept]
        if self.labels is not None and mirror:
            self.labels = torch.cat([self.labels, Camera.from_label(self.labels).mirror().label()])

        # the size of the images
        self.native = decode(*self._file(0)).shape[-1]
        self.resolution = _checked_resolution(resolution, self.native, self.archive)
        self[0]  # raises if the first image cannot be shrunk to `resolution`
        if use_masks:
            self._masks = {name for name in self.archive.names if name.startswith("mask/")}
            self.mask(0)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor | None]:
        """Returns (image uint8 [3 H W], label float32 [25] or None) of item 0 ... n-1."""
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of a set of {len(self)}; use 0 to {len(self) - 1}")
        image = decode(
            *self._file(item),
            native=self.native,
            resolution=self.resolution,
            resize_filter=self.resize_filter,
        )
        if item >= self.num_images:
            image = image.flip(-1)
        return image, None if self.labels is None else self.labels[item]

    def mask(self, item: int) -> Tensor | None:
        """Coverage of the foreground in an image, uint8 [1 H W], or None without `use_masks`."""
        if not self.use_masks:
            return None
        stem = f"mask/{self.names[item].rpartition('.')[0]}"
        name = next((stem + end for end in (".npy", ".png") if stem + end in self._masks), None)
        if name is None:
            raise DataError(
                f"{self.archive.path}: {self.names[item]} has no mask; expected {stem}.npy: add "
                "it, or set --data.use_masks false"
            )
        read = decode_array if name.endswith(".npy") else decode
        mask = read(
            self.archive.read(name),
            f"{self.archive.path}: {name}",
            native=self.native,
            resolution=self.resolution,
            resize_filter=self.resize_filter,
        )[:1]
        return mask.flip(-1) if item >= self.num_images else mask

    def _file(self, item: int) -> tuple[bytes, str]:
        return self.archive.read(self.names[item]), f"{self.archive.path}: {self.names[item]}"


class Items(Protocol):
    """A map from index to item: a list, an array or an `EndlessOrder`."""

    def __getitem__(self, index: int, /) -> int: ...


@dataclass(frozen=True)
class Sample:
    """Index, image uint8 [3 H W], and label [25] and mask uint8 [1 H W] where they are used."""

    index: int
    image: Tensor
    label: Tensor | None
    mask: Tensor | None = None


class ImageSequence(Dataset):
    """Images in another order: index -> (index, image, label, mask) of item `items[index]`."""

    def __init__(self, images: PosedImages, items: Items):
        self.images = images
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        return Sample(index, *self.images[item], self.images.mask(item))


def collate(samples: Sequence[Sample]) -> Batch:
    """Collates samples: images and masks as they are, labels as a Camera."""
    labels = [s.label for s in samples if s.label is not None]
    masks = [s.mask for s in samples if s.mask is not None]
    return Batch(
        torch.stack([s.image for s in samples]),
        Camera.from_label(torch.stack(labels)) if labels else None,
        torch.tensor([s.index for s in samples]),
        torch.stack(masks) if masks else None,
    )


def read_labels(archive: Archive, names: Sequence[str]) -> Tensor:
    """Reads the camera labels of the images `names` from `dataset.json`, float32 [n 25].

    Raises:
        DataError: a label is missing, superfluous, duplicate, malformed, not a camera, or a camera
            that does not see the scene; the message names the first such label.
    """
    where = f"{archive.path}: {LABEL_FILE}"
    labels = dict(_checked_entries(_load_json(archive), where))

    # one label per image, one image per label
    images = set(names)
    unlabeled = [name for name in names if name not in labels]
    strays = [name for name in labels if name not in images]
    if unlabeled or strays:
        if unlabeled:
            first = f"no label for {unlabeled[0]}"
        else:
            first = f"a label for {strays[0]}, which is not among the images"
        raise DataError(
            f"{where} has {len(labels)} labels for {len(names)} images: {first} "
            f"({len(unlabeled)} images without label, {len(strays)} labels without image); add the "
            "missing labels and remove the others"
        )

    stacked = torch.from_numpy(np.array([labels[name] for name in names], dtype=np.float64)).float()
    try:
        check_labels(stacked, names)
        check_views(stacked, names)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return stacked


def _load_json(archive: Archive) -> list[Any]:
    where = f"{archive.path}: {LABEL_FILE}"
    advice = "set use_labels to false for a model without cameras"
    if LABEL_FILE not in archive.names:
        raise DataError(
            f"{archive.path}: there is no {LABEL_FILE} at its root, so no camera labels; {advice}"
        )
    try:
        # parse_int: an integer of 400 digits becomes infinite instead of raising later on.
        content = json.loads(archive.read(LABEL_FILE), parse_int=float)
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); write it again") from error

    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not labels:
        present = isinstance(content, dict) and "labels" in content
        got = f'"labels" is {_short(labels)}' if present else 'no "labels"'
        raise DataError(
            f'{where}: {got}, expected {{"labels": [["name.png", [25 numbers]], ...]}}; {advice}'
        )
    return labels


def _checked_entries(entries: list[Any], where: str) -> list[tuple[str, list[float]]]:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, list) or not entry or not isinstance(entry[0], str):
            raise DataError(
                f'{where}: entry {number} is {_short(entry)}, expected ["name.png", [25 numbers]]'
            )
        name = entry[0]
        if len(entry) > 2:
            raise DataError(
                f"{where}: the entry of {name} has {len(entry)} parts, expected the name and one "
                f"list of {LABEL_DIM} numbers: cam2world 4x4 row by row, then intrinsics 3x3"
            )
        label = entry[1] if len(entry) == 2 else None
        if name in seen:
            raise DataError(f"{where}: {name} has two labels; remove one")
        seen.add(name)
        if not isinstance(label, list) or not all(isinstance(value, float) for value in label):
            raise DataError(
                f"{where}: the label of {name} is {_short(label)}, expected a list of {LABEL_DIM} "
                "numbers"
            )
        if len(label) != LABEL_DIM:
            raise DataError(
                f"{where}: the label of {name} has {len(label)} numbers, expected {LABEL_DIM}"
            )
    return [(name, label) for name, label in entries]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _image_names(archive: Archive) -> list[str]:
    images = [name for name in archive.names if name.lower().endswith(EXTENSIONS)]
    names = [name for name in images if not name.startswith(COMPANIONS)]
    if not names:
        raise DataError(
            f"{archive.path}: no images in it ({len(archive.names)} other files); expected "
            f"{', '.join(EXTENSIONS)}"
        )
    return names


def _subset(num_items: int, max_items: int | None, seed: int) -> np.ndarray:
    """Items to keep: shuffled by RandomState(seed), cut off, sorted (specs/eg3d.md 13)."""
    items = np.arange(num_items)
    if max_items is None:
        return items
    if max_items < 1:
        raise ValueError(f"max_items {max_items} keeps nothing; use 1 or more, or null for all")
    np.random.RandomState(seed % 2**32).shuffle(items)
    return np.sort(items[:max_items])


def _checked_resolution(resolution: int | None, native: int, archive: Archive) -> int:
    if resolution is None:
        if not _power_of_two(native):
            raise DataError(
                f"{archive.path}: images of {native} px, not a power of two; set resolution to "
                f"{2 ** (native.bit_length() - 1)}"
            )
        return native
    if not _power_of_two(resolution):
        raise ValueError(
            f"resolution {resolution} is not a power of two; use 64, 128, 256, 512, ..."
        )
    return resolution


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
