"""Procedural multi-view heads: a data set with known 3D truth, made in minutes without downloads.

    # attributes, a function of (seed, index) only
    heads = sample_heads(seed=0, indices=range(8))
    # image, true depth and mask in memory
    views = render_heads(heads, head_camera(yaw, pitch), 64)
    # EG3D's layout, with the true depth beside it
    write_heads(Path("heads64.zip"), num=4000)

docs/heads.md is the data card. Layout of the files (image number = head · views + view):

    dataset.json                   {"labels": [["00000/img00000000.png", [25 floats]], ...],
                                   "cameras": {"recipe", "yaw_std", "pitch_std"}}
    00000/img00000000.png          RGB
    depth/00000/img00000000.npy    float16 [H W], camera z of the pixel's center ray, +inf on the
                                   background
    mask/00000/img00000000.npy     uint8 [H W], 255 times the fraction of the pixel that the head
                                   covers
    attributes.json                {"names": [...], "images": [{"file", "head", "view", "yaw",
                                   "pitch", "values"}, ...]}; values [len(names)]

Convention: world y up, the face looks along +z, x is image right in the frontal view. Cameras are
OpenCV cam2world; a label is cam2world (16) and the normalized intrinsics (9). Yaw > 0 moves the
camera to +x, pitch > 0 moves it up, in radians.
"""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gan3d.data.archive import Archive, StoredZip
from gan3d.data.heads.attributes import ATTRIBUTE_NAMES, sample_angles, sample_heads
from gan3d.data.heads.render import head_camera, render_heads
from gan3d.results import refuse_existing, write_whole

Recipe = Literal["heads", "heads-ffhq"]
# name: standard deviations of yaw and pitch, radians. Seen from a narrow range of angles, a hollow
# mask looks nearly as a face does: `heads` shows its heads from wider ones than photographs.
RECIPES: dict[str, tuple[float, float]] = {"heads": (0.7, 0.3), "heads-ffhq": (0.3, 0.15)}
ATTRIBUTES = "attributes.json"
SHEET_YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
_SHEET_HEADS = 8
# 64 images of 64 px: large enough to amortize the overhead of a call, small enough for the memory.
_RAYS_PER_JOB = 64 * 128 * 128


@dataclass(frozen=True)
class _Job:
    """Consecutive images to render in one call, with everything a worker needs."""

    seed: int
    images: range
    views: int
    resolution: int
    supersample: int
    yaw_std: float
    pitch_std: float
    smile_yaw: float
    ground_truth: bool
    compile: bool


@dataclass(frozen=True)
class _Record:
    """One image, encoded."""

    number: int
    png: bytes
    label: list[float]
    depth: bytes
    mask: bytes
    facts: dict[str, Any]


class WorkerDied(RuntimeError):
    """A process that renders is gone."""


def write_heads(
    out: Path | None = None,
    num: int = 4000,
    resolution: int = 64,
    seed: int = 0,
    views: int = 1,
    first: int = 0,
    recipe: Recipe = "heads",
    yaw_std: float | None = None,
    pitch_std: float | None = None,
    smile_yaw: float = 0.0,
    supersample: int = 2,
    workers: int | None = None,
    compile: bool = False,
    ground_truth: bool = True,
    sheet: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Make procedural heads with known 3D truth: images, camera labels, depth, masks and
    attributes.

    Head i depends only on the seed and on i, so parts of a data set can be made separately.

    Args:
        out: Where to write: a name ending in .zip makes a zip file, any other name a folder.
        num: Number of heads; the data set has num x views images.
        resolution: Side of the images in pixels.
        seed: Number of the data set; use different seeds for training and evaluation.
        views: Views per head, from independent cameras.
        first: Number of the first head: makes heads first .. first + num - 1, with the file names
            of the whole data set.
        recipe: How far the cameras spread: heads (yaw 0.7, pitch 0.3) or heads-ffhq (0.3, 0.15, as
            in FFHQ, with which geometry is harder to learn).
        yaw_std: Standard deviation of the camera's yaw in radians; null for the recipe's.
        pitch_std: Standard deviation of the camera's pitch in radians; null for the recipe's.
        smile_yaw: Correlation from -1 to 1 between the smile and the yaw of the first view, as
            photographs have it.
        supersample: Rays per pixel along a side, for smooth edges.
        workers: Number of worker processes; null for one per core, 1 to render in this process.
        compile: Compile the distance to a head first, for one to two minutes: then images are made
            2.5 times as fast, to rounding the same. It pays from some 2,000 images of 64 px on, and
            needs a C++ compiler.
        ground_truth: Write true depth, masks and attributes beside the images.
        sheet: Also draw a contact sheet (heads x yaws, .png or .jpg) here. Without `out` only the
            sheet is made.
        overwrite: Replace a zip or a sheet that is there; a folder must be new or empty.

    Raises:
        ValueError: an argument is out of range, a file is there already, or there is no C++
            compiler for `compile`.
        WorkerDied: a worker process died.
    """
    # arguments
    yaw_std, pitch_std = _spread(recipe, yaw_std, pitch_std)
    _check(num, resolution, seed, views, first, yaw_std, pitch_std, smile_yaw, supersample, workers)
    if out is None and sheet is None:
        raise ValueError(
            "neither out nor sheet is given, so nothing would be made; give --out heads64.zip or "
            "--sheet sheet.png"
        )
    if sheet is not None:
        sheet = _checked_sheet(Path(sheet))
        refuse_existing([sheet], overwrite)

    # data set
    if out is not None:
        out = _checked_out(Path(out), overwrite)
        begin, end = first * views, (first + num) * views
        workers = workers or len(os.sched_getaffinity(0))
        share = max(16, math.ceil((end - begin) / workers))
        per_job = max(1, min(share, _RAYS_PER_JOB // (resolution * supersample) ** 2))
        jobs = [
            _Job(
                seed=seed,
                images=range(k, min(k + per_job, end)),
                views=views,
                resolution=resolution,
                supersample=supersample,
                yaw_std=yaw_std,
                pitch_std=pitch_std,
                smile_yaw=smile_yaw,
                ground_truth=ground_truth,
                compile=compile,
            )
            for k in range(begin, end, per_job)
        ]
        if compile:
            _compile(out.name)
        with (
            _results(_render_job, jobs, workers) as batches,
            tqdm(total=end - begin, unit="image", desc=out.name) as bar,
        ):
            cameras = {"recipe": recipe, "yaw_std": yaw_std, "pitch_std": pitch_std}
            _write(out, batches, bar, ground_truth, cameras)

    # contact sheet
    if sheet is not None:
        contact_sheet(
            sheet,
            seed=seed,
            first=first,
            num=min(num, _SHEET_HEADS),
            resolution=resolution,
            supersample=supersample,
        )


def is_heads(archive: Archive) -> bool:
    """Whether a data set is one of `write_heads`, with its ground truth and these attributes."""
    if ATTRIBUTES not in archive.names:
        return False
    try:
        return tuple(json.loads(archive.read(ATTRIBUTES))["names"]) == ATTRIBUTE_NAMES
    except (ValueError, TypeError, KeyError):
        return False


def contact_sheet(
    path: Path,
    seed: int = 0,
    first: int = 0,
    num: int = _SHEET_HEADS,
    yaws: Sequence[float] = SHEET_YAWS,
    resolution: int = 64,
    supersample: int = 2,
    pitch: float = 0.05,
) -> None:
    """Draw heads (rows) at several yaws (columns) into one picture.

    Args:
        path: file to write, .png or .jpg.
        seed: number of the data set.
        first: number of the first head.
        num: number of heads.
        yaws: one per column, radians.
        resolution: side of one view in pixels.
        supersample: rays per pixel along a side.
        pitch: pitch of all views, radians.
    """
    path = _checked_sheet(Path(path))
    angles = torch.tensor(list(yaws), dtype=torch.float64)
    camera = head_camera(angles, torch.full_like(angles, pitch))

    rows = []
    for index in tqdm(range(first, first + num), unit="head", desc=path.name):
        heads = sample_heads(seed, [index]).select([0] * len(angles))
        views = render_heads(heads, camera, resolution, supersample, depth=False)
        rows.append(np.concatenate(list(_bytes(views.image)), axis=1))

    write_whole(path, partial(Image.fromarray(np.concatenate(rows, axis=0)).save, quality=92))


def _spread(recipe: str, yaw_std: float | None, pitch_std: float | None) -> tuple[float, float]:
    """Standard deviations of yaw and pitch: the recipe's, where they are not given."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r} is not known; use one of {', '.join(RECIPES)}")
    yaw, pitch = RECIPES[recipe]
    return yaw if yaw_std is None else yaw_std, pitch if pitch_std is None else pitch_std


def _check(
    num: int,
    resolution: int,
    seed: int,
    views: int,
    first: int,
    yaw_std: float,
    pitch_std: float,
    smile_yaw: float,
    supersample: int,
    workers: int | None,
) -> None:
    """Raises ValueError if a number is out of range."""
    bounds = {  # name: (value, lowest, example)
        "num": (num, 1, 4000),
        "resolution": (resolution, 8, 64),
        "seed": (seed, 0, 0),
        "views": (views, 1, 1),
        "first": (first, 0, 0),
        "supersample": (supersample, 1, 2),
        "workers": (1 if workers is None else workers, 1, 2),
        "yaw_std": (yaw_std, 0, 0.3),
        "pitch_std": (pitch_std, 0, 0.15),
    }
    for name, (got, low, example) in bounds.items():
        if not low <= got < float("inf"):
            raise ValueError(
                f"{name} {got} is not a number of at least {low}; use for example {example}"
            )
    if not -1 <= smile_yaw <= 1:
        raise ValueError(
            f"smile_yaw {smile_yaw} is not a correlation from -1 to 1; use for example 0.5, or 0 "
            "for none"
        )
    if supersample > 8:
        raise ValueError(
            f"supersample {supersample} is more than 8, which would take {supersample**2} rays per "
            "pixel; use 2"
        )


def _checked_out(out: Path, overwrite: bool) -> Path:
    """Raises if `out` exists and is not to be replaced; an empty folder is fine."""
    if out.is_dir() and (any(out.iterdir()) or out.suffix.lower() == ".zip"):
        raise ValueError(
            f"{out} exists already, expected nothing there (or an empty folder); remove it or "
            "choose another name"
        )
    if not out.is_dir():
        refuse_existing([out], overwrite)
    return out


def _checked_sheet(sheet: Path) -> Path:
    if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(
            f"sheet {sheet} ends in {sheet.suffix or 'nothing'!r}, expected .png or .jpg; use for "
            "example sheet.png"
        )
    return sheet


def _compile(name: str) -> None:
    """Compiles the distance to a head, here: workers find it in torch's cache."""
    with tqdm(total=1, unit="program", desc=f"{name}: compiling") as bar:
        heads = sample_heads(0, [0, 1])
        render_heads(heads, head_camera(torch.zeros(2), torch.zeros(2)), 32, compile=True)
        bar.update()


def _render_job(job: _Job) -> list[_Record]:
    """Render and encode the images of a job."""
    # head and view of every image
    numbers = list(job.images)
    heads = list(range(numbers[0] // job.views, numbers[-1] // job.views + 1))
    rows = [number // job.views - heads[0] for number in numbers]
    view = [number % job.views for number in numbers]

    # render
    attributes = sample_heads(job.seed, heads, job.smile_yaw)
    yaw, pitch = sample_angles(job.seed, heads, job.views, job.yaw_std, job.pitch_std)
    yaw, pitch = yaw[rows, view], pitch[rows, view]
    camera = head_camera(yaw, pitch)
    views = render_heads(
        attributes.select(rows),
        camera,
        job.resolution,
        job.supersample,
        depth=job.ground_truth,
        compile=job.compile,
    )

    # encode
    images = _bytes(views.image)
    masks = (views.mask[:, 0] * 255).round().byte().numpy()
    depths = views.depth[:, 0].numpy().astype(np.float16)
    labels = camera.label().tolist()
    return [
        _Record(
            number=number,
            png=_png(images[k]),
            label=labels[k],
            depth=_npy(depths[k]) if job.ground_truth else b"",
            mask=_npy(masks[k]) if job.ground_truth else b"",
            facts={
                "head": number // job.views,
                "view": view[k],
                "yaw": round(float(yaw[k]), 6),
                "pitch": round(float(pitch[k]), 6),
                "values": [round(value, 6) for value in attributes.values[rows[k]].tolist()],
            },
        )
        for k, number in enumerate(numbers)
    ]


def _bytes(images: Tensor) -> np.ndarray:
    """[b 3 H W] in [-1, 1] -> uint8 [b H W 3]."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="png", compress_level=4)
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _start_worker() -> None:
    """Initializes a worker: one thread per process; Ctrl-C is handled by the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def _results(
    task: Callable[[Any], Any], jobs: Sequence[Any], workers: int
) -> Iterator[Iterator[Any]]:
    """Results of `task` over `jobs` in order, from worker processes (from this one if `workers`
    is 1).

    Raises:
        WorkerDied: a worker died; the pool reports that instead of hanging.
    """
    workers = min(workers, len(jobs))
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield map(task, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield _in_order(executor, task, jobs, ahead=2 * workers)
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker process died (killed, no memory, or started by a script without `if __name__ "
            "== '__main__'`); nothing was written; use workers 1 to render in this process"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_order(
    executor: ProcessPoolExecutor, task: Callable[[Any], Any], jobs: Sequence[Any], ahead: int
) -> Iterator[Any]:
    """Results in order; at most `ahead` jobs in flight, so a slow disk does not fill the memory."""
    waiting = deque(executor.submit(task, job) for job in jobs[:ahead])
    for job in jobs[ahead:]:
        yield waiting.popleft().result()
        waiting.append(executor.submit(task, job))
    while waiting:
        yield waiting.popleft().result()


def _write(
    out: Path,
    batches: Iterator[list[_Record]],
    bar: tqdm,
    ground_truth: bool,
    cameras: dict[str, Any],
) -> None:
    """Write all records, atomically: under a temporary name beside `out`, which is then renamed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with StoredZip(beside) if out.suffix.lower() == ".zip" else _Folder(beside) as store:
            labels, facts = [], []
            for records in batches:
                for record in records:
                    name = f"{record.number // 1000:05d}/img{record.number:08d}"
                    store.put(f"{name}.png", record.png)
                    labels.append([f"{name}.png", record.label])
                    if ground_truth:
                        store.put(f"depth/{name}.npy", record.depth)
                        store.put(f"mask/{name}.npy", record.mask)
                        facts.append({"file": f"{name}.png", **record.facts})
                bar.update(len(records))
            store.put("dataset.json", json.dumps({"labels": labels, "cameras": cameras}).encode())
            if ground_truth:
                content = json.dumps({"names": ATTRIBUTE_NAMES, "images": facts})
                store.put(ATTRIBUTES, content.encode())
        os.replace(beside, out)  # replaces an empty folder too
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


class _Folder:
    """Writes files into a new folder; `StoredZip` for folders."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Folder:
        self.path.mkdir()
        return self

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def __exit__(self, *_: object) -> None:
        pass
