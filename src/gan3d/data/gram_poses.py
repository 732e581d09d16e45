"""The data sets of GRAM and GRAM-HD: their pose files as camera labels, and such a set in our
layout (docs/data.md).

Layout of theirs: a folder (or zip) of images with the poses below it,

    FFHQ              <name>.png, poses/<name>.mat         field `angle` = (pitch, yaw, roll) of Deep3DFaceRecon
    cats, AFHQ cats   <name>.png, poses/<name>_pose.npy    (phi_0, theta_0)

Convention (specs/gramhd.md 1, 12): a *sphere pose* is (phi, theta) = (pitch, yaw) in radians, in
this order; (pi/2, pi/2) is frontal, phi < pi/2 is upwards, theta > pi/2 moves the camera to -x. The
offsets below are applied when a file is read.
"""

from __future__ import annotations

import io
import json
import math
import os
import uuid
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

GramKind = Literal["ffhq", "cats"]
POSE_FOLDER = "poses"
POSE_FILE: dict[GramKind, str] = {"ffhq": "{}.mat", "cats": "{}_pose.npy"}
FFHQ_PITCH_OFFSET, CATS_PITCH_OFFSET = 0.1, 0.14  # radians
_MAX_POSE_BYTES = 2**24  # theirs have some kilobytes


def ffhq_sphere_pose(angle: Tensor) -> Tensor:
    """Sphere poses [n 2] of Deep3DFaceRecon's angles (pitch, yaw, roll) [n 3], radians.

    phi = pi/2 - (pitch - 0.1),   theta = pi/2 + yaw.   Roll is not used: the images are aligned.
    """
    _check_shape(angle, 3, "(pitch, yaw, roll)")
    return torch.stack(
        [math.pi / 2 - (angle[:, 0] - FFHQ_PITCH_OFFSET), math.pi / 2 + angle[:, 1]], dim=1
    )


def cats_sphere_pose(stored: Tensor) -> Tensor:
    """Sphere poses [n 2] of the stored (phi_0, theta_0) [n 2] of cats: phi = phi_0 + 0.14, theta =
    theta_0.
    """
    _check_shape(stored, 2, "(phi_0, theta_0)")
    return stored + stored.new_tensor([CATS_PITCH_OFFSET, 0.0])


def mirrored_pose(pose: Tensor) -> Tensor:
    """Sphere poses [n 2] of the images flipped left-right: (phi, pi - theta), that of
    `Camera.mirror`.
    """
    return torch.stack([pose[:, 0], math.pi - pose[:, 1]], dim=1)


def gram_labels(pose: Tensor, *, resolution: int, fov: float = 12.0, radius: float = 1.0) -> Tensor:
    """Camera labels [n 25] of sphere poses [n 2].

    Args:
        pose: (phi, theta), radians.
        resolution: of the images: the field of view spans the centers of their outer pixels
            (`Camera.from_sphere`).
        fov: degrees.
        radius: of the cameras about the origin. GRAM's world has 1; another radius is the same view
            of a world scaled by it, for models that expect their cameras elsewhere (EG3D: 2.7).
    """
    return Camera.from_sphere(
        pose[:, 0], pose[:, 1], fov, resolution=resolution, radius=radius
    ).label()


def read_gram_poses(archive: Archive, images: Sequence[str], kind: GramKind) -> Tensor:
    """Sphere poses of images, float64 [n 2], from the files of `poses/`. They are untrusted: no
    pickle is opened.

    Args:
        archive: folder or zip.
        images: their names in it.
        kind: of the pose files.

    Raises:
        DataError: names the first pose that is missing, unreadable, of another shape or no pose.
    """
    read, width = (_read_mat, 3) if kind == "ffhq" else (_read_npy, 2)
    known = set(archive.names)
    wanted = [_pose_name(image, kind) for image in images]
    without = [k for k, name in enumerate(wanted) if name not in known]
    if without:
        raise DataError(
            f"{archive.path}: {images[without[0]]} has no pose, expected {wanted[without[0]]} "
            f"({len(without)} such of {len(images)} images); add the poses, or take these images "
            "out"
        )
    stored = torch.from_numpy(np.stack([_numbers(archive, name, read, width) for name in wanted]))
    poses = ffhq_sphere_pose(stored) if kind == "ffhq" else cats_sphere_pose(stored)
    inside = (
        (poses[:, 0] > 0) & (poses[:, 0] < math.pi) & ((poses[:, 1] - math.pi / 2).abs() <= math.pi)
    )
    if not bool(inside.all()):
        first = int((~inside).nonzero()[0])
        raise DataError(
            f"{archive.path}: {wanted[first]} holds "
            f"{[round(v, 4) for v in stored[first].tolist()]}, which is beyond the pole or more "
            f"than half a turn from the front ({int((~inside).sum())} such); expected radians, so "
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
) -> str:
    """Bring images with the pose files of GRAM into the layout that gan3d reads: a zip of small
    images with labels.

    Images are shrunk with Lanczos' filter. Mirrored copies are not written: give `--data.mirror
    true` when training.

    Args:
        images: Folder or zip of square images, with the pose files in poses/ below it.
        kind: Whose poses: ffhq (poses/NAME.mat, Deep3DFaceRecon) or cats (poses/NAME_pose.npy);
            null looks.
        out: The new zip; nothing may be there yet. By default beside the images, with the
            resolution in its name.
        resolution: Pixels along a side of an image, a power of two.
        fov: Field of view in degrees between the centers of the outer pixels.
        radius: Distance of the cameras from the origin; GRAM's world has 1. Another one scales the
            world, for models that expect their cameras there.
        workers: Threads; null for one per core.

    Raises:
        DataError: an image or a pose is missing, unreadable or not what it should be.
    """
    out = _checked_arguments(images, out, resolution, fov, radius, workers)
    archive = open_archive(images)
    names = _images(archive)
    kind = kind or _guess_kind(archive)
    labels = gram_labels(
        read_gram_poses(archive, names, kind), resolution=resolution, fov=fov, radius=radius
    ).float()

    def shrink(name: str) -> bytes:
        pixels = decode(archive.read(name), f"{archive.path}: {name}", resolution=resolution)
        stream = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(
            stream, format="png", compress_level=4
        )
        return stream.getvalue()

    entries = []
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with StoredZip(partial) as target:
            pngs = _threaded(shrink, names, workers or len(os.sched_getaffinity(0)))
            for name, png, label in tqdm(
                zip(names, pngs, labels), total=len(names), unit="image", desc=out.name
            ):
                entry = str(PurePosixPath(name).with_suffix(".png"))
                target.put(entry, png)
                entries.append([entry, label.tolist()])
            target.put("dataset.json", json.dumps({"labels": entries}).encode())
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return f"{out}: {len(names)} images of {resolution} px, poses of {kind}"


def _checked_arguments(
    images: Path, out: Path | None, resolution: int, fov: float, radius: float, workers: int | None
) -> Path:
    """Refuses what can not work before anything is read; returns where to write."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(
            f"resolution {resolution} is not a power of two of at least 4; use for example 64"
        )
    if not 0 < fov < 180:
        raise ValueError(f"fov {fov} is not an angle between 0 and 180 degrees; GRAM's is 12")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius {radius} is not a positive distance; GRAM's is 1")
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} is none; use 1 or more")
    source = Path(images).expanduser().absolute()
    out = source.with_name(f"{source.stem}{resolution}.zip") if out is None else Path(out)
    if out.suffix.lower() != ".zip":
        raise ValueError(
            f"out {out} ends in {out.suffix or 'nothing'!r}, expected .zip; use for example "
            "gram64.zip"
        )
    if out.exists():
        raise ValueError(
            f"{out} exists already, expected nothing there; remove it or choose another name"
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
        twin = stems.setdefault(PurePosixPath(name).with_suffix(""), name)
        if twin != name:
            raise DataError(
                f"{archive.path}: {twin} and {name} share one pose and one new name; rename or "
                "remove one"
            )
    return names


def _guess_kind(archive: Archive) -> GramKind:
    poses = [name for name in archive.names if PurePosixPath(name).parent.name == POSE_FOLDER]
    kinds: dict[str, GramKind] = {".mat": "ffhq", "_pose.npy": "cats"}
    found = sorted(
        {kind for ending, kind in kinds.items() if any(name.endswith(ending) for name in poses)}
    )
    if len(found) != 1:
        what = "of both kinds" if found else "neither .mat nor _pose.npy files"
        raise DataError(
            f"{archive.path}: {what} in {POSE_FOLDER}/ ({len(poses)} files); give --kind ffhq or "
            "cats"
        )
    return kinds[".mat"] if found == ["ffhq"] else kinds["_pose.npy"]


def _pose_name(image: str, kind: GramKind) -> str:
    path = PurePosixPath(image)
    return str(path.parent / POSE_FOLDER / POSE_FILE[kind].format(path.stem))


def _numbers(
    archive: Archive, name: str, read: Callable[[bytes, str], np.ndarray], width: int
) -> np.ndarray:
    """The `width` numbers of a pose file, float64."""
    data, where = archive.read(name), f"{archive.path}: {name}"
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
            f"{where} holds {numbers.tolist()}, expected finite numbers; take the image out"
        )
    return numbers


def _read_mat(data: bytes, where: str) -> np.ndarray:
    """`angle` of a MATLAB file; its other fields are not read, nor one that is larger than a
    pose.
    """
    from scipy.io import loadmat, whosmat  # a tenth of a second that only this function needs

    try:
        fields = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        small = math.prod(fields.get("angle", ())) <= 3
        content = loadmat(io.BytesIO(data), variable_names=["angle"]) if small else {}
    # a parser given broken bytes raises anything; NotImplementedError: MATLAB 7.3 (HDF5)
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
    except (
        Exception
    ) as error:  # ValueError: a pickle; EOFError, OSError, MemoryError, struct.error: broken
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
            f"got shape {tuple(values.shape)}, expected [n {width}]: {what}; one pose needs [None]"
        )


def _threaded(task: Callable[[str], Any], jobs: Sequence[str], workers: int) -> Iterator[Any]:
    """Results in order; a few per worker under way, so that a slow disk does not fill the
    memory.
    """
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), 8 * workers):
            yield from pool.map(task, jobs[start : start + 8 * workers])
