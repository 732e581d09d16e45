"""Copies and mirrored copies of held-out images, which must not be trained on.

An image is a twin of another one if

    1. its file name is, but for the extension and a word such as `mirror` or `flipped`;
    2. its file is the same, byte by byte;
    3. its camera is the same or the mirrored one, and so are its pixels.

A camera or a content that more than `MAX_ALIKE` images share says nothing (a camera rig, blank
pictures). What is not recognized: a mirrored copy under an unrelated name in a set without labels,
and an identical file in a folder where more than `MAX_SIZED` files have its size (bitmaps).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from torch import Tensor

from gan3d.camera import Camera
from gan3d.data.archive import Archive
from gan3d.data.dataset import PosedImages

MAX_ALIKE = 8
MAX_SIZED = 1000
SAME_PIXELS = 3.0  # largest mean difference of two copies, of 255: JPEG compresses each anew

_WORD = r"(?:mirror(?:ed)?|h?flip(?:ped)?)"
_ENDING = re.compile(rf"[-_. ]{_WORD}$", re.IGNORECASE)
_BEGINNING = re.compile(rf"^{_WORD}[-_. ]", re.IGNORECASE)
_WHOLE = re.compile(rf"^{_WORD}$", re.IGNORECASE)


def twins(images: PosedImages, heldout: Iterable[int]) -> set[int]:
    """Items that show a held-out image, mirrored or not; the held-out items among them.

    Args:
        images: the set.
        heldout: items held out, below `images.num_images`.
    """
    num = images.num_images
    names = images.names[:num]
    held = set(heldout)
    by_name = [original(name) for name in names]
    found = held | _sharing(by_name, held)
    found |= _same_files(images.archive, names, held)
    if images.labels is not None:
        found |= _same_views(images, images.labels[:num], held)
    if images.mirror:
        found |= {item + num for item in found}
    return found


def original(name: str) -> str:
    """The name of a file without its extension and without a word for mirrored copies.

    EG3D's tool names the mirrored copy of a/b.png a/b_mirror.png.
    """
    *folders, file = name.split("/")
    stem = file.rpartition(".")[0]
    parts = [part for part in folders if not _WHOLE.match(part)] + [stem]
    return "/".join(_BEGINNING.sub("", _ENDING.sub("", part)) for part in parts)


def _sharing(keys: Sequence[Hashable], held: set[int], most: int | None = None) -> set[int]:
    """Positions whose key is that of a held one; keys shared by more than `most` do not count."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    shared = [groups[keys[position]] for position in held]
    return {member for group in shared if most is None or len(group) <= most for member in group}


def _same_files(archive: Archive, names: Sequence[str], held: set[int]) -> set[int]:
    """Positions of files with the content of a held one."""
    stamps = [archive.stamp(name) for name in names]
    candidates = _sharing(stamps, held, MAX_SIZED) - held
    group = sorted(candidates | (held & _sharing(stamps, candidates)))
    content = [hashlib.sha256(archive.read(names[position])).digest() for position in group]
    held_in_group = {k for k, position in enumerate(group) if position in held}
    return {group[k] for k in _sharing(content, held_in_group, MAX_ALIKE)}


def _same_views(images: PosedImages, labels: Tensor, held: set[int]) -> set[int]:
    """Positions of images with camera and pixels of a held one, mirrored or not."""
    poses = _rounded(labels)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position, pose in enumerate(poses):
        groups[pose].append(position)
    found = set()
    chosen = sorted(held)
    mirrored = _rounded(Camera.from_label(labels[chosen]).mirror().label())
    for position, other in zip(chosen, mirrored):
        for pose, flip in ((poses[position], False), (other, True)):
            group = groups.get(pose, [])
            candidates = [item for item in group if item not in held]
            if not candidates or len(group) > MAX_ALIKE:
                continue
            picture = images[position][0].float()
            picture = picture.flip(-1) if flip else picture
            for item in candidates:
                difference = (images[item][0].float() - picture).abs().mean()
                if float(difference) < SAME_PIXELS:
                    found.add(item)
    return found


def _rounded(labels: Tensor) -> list[bytes]:
    """Poses of labels [n 25] to four decimals, as keys."""
    numbers = np.rint(labels[:, :16].double().numpy() * 1e4).astype(np.int64)
    return [row.tobytes() for row in numbers]
