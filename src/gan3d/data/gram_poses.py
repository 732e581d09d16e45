"""Converts the data sets of GRAM and GRAM-HD: pose files to camera labels, and whole data sets to
the layout of docs/data.md.

Layout of a GRAM data set: a folder (or zip) of images with a folder of poses,

    FFHQ        <name>.png, poses/<name>.mat        `angle` = (pitch, yaw, roll) of Deep3DFaceRecon
    cats, AFHQ  <name>.png, poses/<name>_pose.npy   (phi_0, theta_0)

Convention (specs/gramhd.md 1, 12): a *sphere pose* is (phi, theta) = (pitch, yaw) in radians, in
this order. (pi/2, pi/2) is frontal, phi < pi/2 moves the camera up, theta > pi/2 moves it to -x.
The offsets below are applied when a file is read.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gan3d.camera import Camera
from gan3d.data.archive import Archive, DataError, StoredZip, open_archive
from gan3d.data.images import EXTENSIONS, decode
from gan3d.results import refuse_existing, write_whole

GramKind = Literal["ffhq", "cats"]
POSE_FOLDER = "poses"
POSE_FILE: dict[GramKind, str] = {"ffhq": "{}.mat", "cats": "{}_pose.npy"}
FFHQ_PITCH_OFFSET = 0.1  # radians
CATS_PITCH_OFFSET = 0.14  # radians
_MAX_POSE_BYTES = 2**24  # GRAM's pose files have a few kilobytes


def ffhq_sphere_pose(angle: Tensor) -> Tensor:
    """Sphere poses [n 2] of Deep3DFaceRecon's angles (pitch, yaw, roll) [n 3], in radians.

        phi = pi/2 - (pitch - 0.1),   theta = pi/2 + yaw

    Roll is ignored: the images are aligned.
    """
    _check_shape(angle, 3, "(pitch, yaw, roll)")
    phi = math.pi / 2 - (angle[:, 0] - FFHQ_PITCH_OFFSET)
    theta = math.pi / 2 + angle[:, 1]
    return torch.stack([phi, theta], dim=1)


def cats_sphere_pose(stored: Tensor) -> Tensor:
    """Sphere poses [n 2] of the stored poses (phi_0, theta_0) [n 2] of cats, in radians.

    phi = phi_0 + 0.14,   theta = theta_0
    """
    _check_shape(stored, 2, "(phi_0, theta_0)")
    return stored + stored.new_tensor([CATS_PITCH_OFFSET, 0.0])


def mirrored_pose(pose: Tensor) -> Tensor:
    """Sphere poses [n 2] of images flipped left-right: (phi, pi - theta), as in `Camera.mirror`."""
    return torch.stack([pose[:, 0], math.pi - pose[:, 1]], dim=1)


def gram_labels(pose: Tensor, *, resolution: int, fov: float = 12.0, radius: float = 1.0) -> Tensor:
    """Camera labels [n 25] of sphere poses [n 2].

    Args:
        pose: (phi, theta) in radians.
        resolution: side of the images in pixels. The field of view spans the centers of the outer
            pixels (`Camera.from_sphere`).
        fov: field of view in degrees.
        radius: distance of the cameras from the origin. GRAM uses 1; another radius gives the same
            view of a world scaled by it, for models with cameras at another distance (EG3D: 2.7).
    """
    phi, theta = pose[:, 0], pose[:, 1]
    return Camera.from_sphere(phi, theta, fov, resolution=resolution, radius=radius).label()


def read_gram_poses(archive: Archive, images: Sequence[str], kind: GramKind) -> Tensor:
    """Reads the sphere poses of images from `poses/`, float64 [n 2].

    Pose files are untrusted: pickles are rejected.

    Args:
        archive: folder or zip.
        images: names of the images in it.
        kind: kind of the pose files.

    Raises:
        DataError: a pose is missing, unreadable, of the wrong shape or out of range; the message
            names the first such file.
    """
    read, width = (_read_mat, 3) if kind == "ffhq" else (_read_npy, 2)

    # one pose file per image
    known = set(archive.names)
    files = [_pose_name(image, kind) for image in images]
    missing = [k for k, name in enumerate(files) if name not in known]
    if missing:
        raise DataError(
            f"{archive.path}: {images[missing[0]]} has no pose, expected {files[missing[0]]} "
            f"({len(missing)} such of {len(images)} images); add the poses or remove these images"
        )

    # on the sphere
    stored = torch.from_numpy(np.stack([_numbers(archive, name, read, width) for name in files]))
    poses = ffhq_sphere_pose(stored) if kind == "ffhq" else cats_sphere_pose(stored)
    phi, theta = poses.unbind(1)
    valid = (phi > 0) & (phi < math.pi) & ((theta - math.pi / 2).abs() <= math.pi)
    if not bool(valid.all()):
        first = int((~valid).nonzero()[0])
        numbers = [round(number, 4) for number in stored[first].tolist()]
        raise DataError(
            f"{archive.path}: {files[first]} holds {numbers}, which is beyond the pole or more "
            f"than half a turn from the front ({int((~valid).sum())} such); expected radians: "
            "convert degrees, and check that `kind` is right"
        )
    return poses


def write_gram(
    images: Path,
    kind: GramKind | None = None,
    out: Path | None = None,
    resolution: int = 64,
    fov: float = 12.0,
    radius: float = 1.0,
    workers: int | None = None,
    overwrite: bool = False,
) -> str:
    """Convert images with GRAM's pose files to a zip that gan3d reads: resized images with camera
    labels.

    Images are shrunk with a Lanczos filter. Mirrored copies are not written: train with
    `--data.mirror true` instead.

    Args:
        images: Folder or zip of square images, with the pose files in its subfolder poses/.
        kind: Kind of the pose files: ffhq (poses/NAME.mat, Deep3DFaceRecon) or cats
            (poses/NAME_pose.npy); null detects it.
        out: The new zip. By default beside the images, with the resolution in its name.
        resolution: Side of the new images in pixels, a power of two.
        fov: Field of view in degrees between the centers of the outer pixels.
        radius: Distance of the cameras from the origin. GRAM uses 1; another radius scales the
            world, for models with cameras at that distance.
        workers: Number of threads; null for one per core.
        overwrite: Replace a file that is there.

    Raises:
        DataError: an image or a pose is missing, unreadable or invalid.
    """
    out = _checked_arguments(images, out, resolution, fov, radius, workers)
    refuse_existing([out], overwrite)
    archive = open_archive(images)
    names = _images(archive)
    kind = kind or _guess_kind(archive)
    poses = read_gram_poses(archive, names, kind)
    labels = gram_labels(poses, resolution=resolution, fov=fov, radius=radius).float()

    def shrink(name: str) -> bytes:
        pixels = decode(archive.read(name), f"{archive.path}: {name}", resolution=resolution)
        stream = io.BytesIO()
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.save(stream, format="png", compress_level=4)
        return stream.getvalue()

    def write(path: Path) -> None:
        entries = []
        with StoredZip(path) as target:
            pngs = _threaded(shrink, names, workers or len(os.sched_getaffinity(0)))
            images_done = tqdm(
                zip(names, pngs, labels), total=len(names), unit="image", desc=out.name
            )
            for name, png, label in images_done:
                entry = str(PurePosixPath(name).with_suffix(".png"))
                target.put(entry, png)
                entries.append([entry, label.tolist()])
            target.put("dataset.json", json.dumps({"labels": entries}).encode())

    write_whole(out, write)
    return f"{out}: {len(names)} images of {resolution} px, poses of {kind}"


def _checked_arguments(
    images: Path, out: Path | None, resolution: int, fov: float, radius: float, workers: int | None
) -> Path:
    """Raises on invalid arguments before anything is read; returns the path to write to."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(
            f"resolution {resolution} is not a power of two of at least 4; use for example 64"
        )
    if not 0 < fov < 180:
        raise ValueError(f"fov {fov} is not an angle between 0 and 180 degrees; GRAM's is 12")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius {radius} is not a positive distance; GRAM's is 1")
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} is less than 1; use 1 or more")
    source = Path(images).expanduser().absolute()
    out = source.with_name(f"{source.stem}{resolution}.zip") if out is None else Path(out)
    if out.suffix.lower() != ".zip":
        raise ValueError(
            f"out {out} ends in {out.suffix or 'nothing'!r}, expected .zip; use for example "
            "gram64.zip"
        )
    return out


def _images(archive: Archive) -> list[str]:
    names = [name for name in archive.names if name.lower().endswith(EXTENSIONS)]
    names = [name for name in names if PurePosixPath(name).parent.name != POSE_FOLDER]
    if not names:
        raise DataError(
            f"{archive.path}: no images in it ({len(archive.names)} other files); expected NAME.png"
        )
    stems: dict[PurePosixPath, str] = {}
    for name in names:
        first = stems.setdefault(PurePosixPath(name).with_suffix(""), name)
        if first != name:
            raise DataError(
                f"{archive.path}: {first} and {name} share one pose and one new name; rename or "
                "remove one"
            )
    return names


def _guess_kind(archive: Archive) -> GramKind:
    poses = [name for name in archive.names if PurePosixPath(name).parent.name == POSE_FOLDER]
    kinds: dict[str, GramKind] = {".mat": "ffhq", "_pose.npy": "cats"}
    found = [kind for suffix, kind in kinds.items() if any(name.endswith(suffix) for name in poses)]
    if len(found) != 1:
        what = "files of both kinds" if found else "neither .mat nor _pose.npy files"
        raise DataError(
            f"{archive.path}: {what} in {POSE_FOLDER}/ ({len(poses)} files); give --kind ffhq or "
            "cats"
        )
    return found[0]


def _pose_name(image: str, kind: GramKind) -> str:
    path = PurePosixPath(image)
    return str(path.parent / POSE_FOLDER / POSE_FILE[kind].format(path.stem))


def _numbers(
    archive: Archive, name: str, read: Callable[[bytes, str], np.ndarray], width: int
) -> np.ndarray:
    """Reads the `width` numbers of a pose file, float64."""
    data = archive.read(name)
    where = f"{archive.path}: {name}"
    if len(data) > _MAX_POSE_BYTES:
        raise DataError(
            f"{where} has {len(data)} bytes, the limit for a pose is {_MAX_POSE_BYTES}; replace "
            "the file"
        )
    array = read(data, where)
    if array.dtype.kind not in "fiu" or array.size != width:
        raise DataError(
            f"{where} holds {array.dtype} {list(array.shape)}, expected {width} numbers; check "
            "that `kind` is right"
        )
    numbers = array.reshape(width).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{where} holds {numbers.tolist()}, expected finite numbers; remove the image"
        )
    return numbers


def _read_mat(data: bytes, where: str) -> np.ndarray:
    """Reads `angle` of a MATLAB file, and no other field.

    An `angle` larger than a pose is not loaded: the zeros returned have its shape only.
    """
    from scipy.io import loadmat, whosmat  # slow to import (0.1 s), and needed only here

    try:
        fields = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        small = math.prod(fields.get("angle", ())) <= 3
        content = loadmat(io.BytesIO(data), variable_names=["angle"]) if small else {}
    # The parser raises all kinds of exceptions on broken data; NotImplementedError: MATLAB 7.3.
    except Exception as error:
        raise DataError(
            f"{where}: not a readable .mat file ({error}); save it again as MATLAB 5"
        ) from error
    if "angle" not in fields:
        raise DataError(
            f"{where}: no field `angle`, it has {', '.join(sorted(fields)) or 'none'}; expected "
            "(pitch, yaw, roll) as Deep3DFaceRecon writes them"
        )
    return np.asarray(content["angle"]) if small else np.broadcast_to(0.0, fields["angle"])


def _read_npy(data: bytes, where: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    # ValueError: a pickle; EOFError, OSError, MemoryError, struct.error: broken data.
    except Exception as error:
        raise DataError(
            f"{where}: not a readable .npy file of numbers ({error}); save it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{where}: an archive of several arrays, expected one .npy array; save it with np.save"
        )
    return array


def _check_shape(values: Tensor, width: int, what: str) -> None:
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(
            f"got shape {tuple(values.shape)}, expected [n {width}]: {what}; index a single pose "
            "with [None]"
        )


def _threaded(task: Callable[[str], Any], jobs: Sequence[str], workers: int) -> Iterator[Any]:
    """Results in order; at most 8 per worker in flight, so a slow disk does not fill the memory."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), 8 * workers):
            yield from pool.map(task, jobs[start : start + 8 * workers])
