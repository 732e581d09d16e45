"""What a data set is, in a few numbers: a resumed run goes on with the same images.

Nothing is read but names, sizes, a zip's checksums, and labels: 70,000 images take a second. Times
of files do not count, so that a copy is the same set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from gan3d.data.dataset import PosedImages

# What each number is of, in words.
WORDS = {
    "names": "other file names",
    "sizes": "files of other sizes",
    "checksums": "other pictures under the same names",
    "labels": "other camera labels",
    "native": "pictures of another size",
}


def fingerprint(images: PosedImages) -> dict[str, Any]:
    """Facts about the images in use: their number, side in pixels, and hashes of sorted names,
    sizes of files, checksums (None for a folder) and labels (None without).
    """
    names = images.names[: images.num_images]
    stamps = [images.archive.stamp(name) for name in names]
    has_checksums = all(len(stamp) > 1 for stamp in stamps)
    labels = None
    if images.labels is not None:
        labels = hashlib.sha256(images.labels[: images.num_images].numpy().tobytes()).hexdigest()
    return {
        "images": images.num_images,
        "native": images.native,
        "names": _hash(names),
        "sizes": _hash(stamp[0] for stamp in stamps),
        "checksums": _hash(stamp[1] for stamp in stamps) if has_checksums else None,
        "labels": labels,
    }


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets, in words; nothing where they are the same. A zip and its
    unpacked folder are the same.
    """
    said = []
    if was.get("images") != now["images"]:
        said.append(f"{was.get('images')} images -> {now['images']}")
    said += [
        words
        for key, words in WORDS.items()
        if None not in (was.get(key), now[key]) and was[key] != now[key]
    ]
    return said


def _hash(values: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()
