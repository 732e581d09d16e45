"""Videos: each scene is computed once, then rendered from all cameras of a path; or scenes change
while the camera moves.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.pictures import depth_range, draw, enlarge, grid, sheet
from gan3d.apps.views import evaluating, repeated, together
from gan3d.camera import Camera, orbit
from gan3d.generators.contract import Generator
from gan3d.results import write_whole

MIN_SIDE = 256  # pixels; smaller videos are enlarged


def scene_frames(
    generator: Generator,
    z: Tensor,
    path: Camera | None = None,
    *,
    conditioning: Camera | None = None,
    truncation: float = 1.0,
    layers: Sequence[str] = ("image",),
    columns: int | None = None,
    resolution: int | None = None,
    lock_view: bool = True,
    progress: bool = True,
) -> np.ndarray:
    """Frames of scenes along a path of cameras, uint8 [frames H W 3].

    Args:
        generator: a generator with a camera (`has_camera`).
        z: [b z_dim].
        path: one camera per frame; None is an orbit of 60 frames at the default radius and field of
            view.
        conditioning: one camera for `generator.map` of all scenes; None is a frontal one for a
            generator that is conditioned on the pose. It does not follow the path, which would
            change the heads of a conditioned model.
        truncation: truncation of `generator.map`.
        layers: what to show, below each other, of `pictures.LAYERS`.
        columns: scenes beside each other; None makes the grid about square.
        resolution: resolution of `generator.render`.
        lock_view: make colors independent of the camera, as in the videos of the papers (GRAM-HD
            then renders cached maps).
        progress: show a progress bar.

    Raises:
        ValueError: the generator has no camera, or no such layer.
    """
    if not generator.has_camera:
        raise ValueError(
            f"{type(generator).__name__} has no camera to move; an orbit needs a 3D generator"
        )
    path = (orbit(60) if path is None else path).to(z)
    with evaluating(generator):
        condition = repeated(conditioning, len(z))
        if condition is None:
            condition = generator.frontal_condition(path, len(z))
        ws = generator.map(z, condition, truncation=truncation)
    frames = film(
        generator,
        ws,
        path,
        layers=layers,
        columns=columns,
        resolution=resolution,
        lock_view=lock_view,
        progress=progress,
    )
    return np.stack(list(frames))


def orbit_frames(
    generator: Generator,
    z: Tensor,
    path: Camera | None = None,
    *,
    conditioning: Camera | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    depth: bool = True,
    lock_view: bool = True,
    progress: bool = True,
) -> np.ndarray:
    """`scene_frames` of all scenes beside each other, with their depth below if `depth`."""
    return scene_frames(
        generator,
        z,
        path,
        conditioning=conditioning,
        truncation=truncation,
        layers=("image", "depth") if depth else ("image",),
        columns=len(z),
        resolution=resolution,
        lock_view=lock_view,
        progress=progress,
    )


def film(
    generator: Generator,
    ws: Tensor,
    path: Camera | None = None,
    *,
    layers: Sequence[str] = ("image",),
    columns: int | None = None,
    resolution: int | None = None,
    lock_view: bool = True,
    batch_size: int = 4,
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """The frames of some scenes, one after the other, uint8 [H W 3].

    Scenes stand in a grid; of several layers the grids are below each other. All depths share the
    colors of the first frame, so that they do not flicker.

    Args:
        generator: any generator.
        ws: latents of scenes that stay as they are, each computed once, [b n w]; or of scenes that
            change with every frame, [t b n w].
        path: the camera of every frame; None for 2D models.
        layers: what to show, of `pictures.LAYERS`.
        columns: of the grid; None makes it about square.
        resolution: resolution of `generator.render`.
        lock_view: make colors independent of the camera, as in the videos of the papers.
        batch_size: scenes at once.
        progress: show a progress bar.

    Raises:
        ValueError: numbers of frames differ, or the scenes have no such layer.
    """
    still = ws.ndim == 3
    num = len(path) if path is not None else 1 if still else len(ws)
    if not still and len(ws) != num:
        raise ValueError(f"latents of {len(ws)} frames and a path of {num}; give as many of both")
    scenes: list[Any] = []
    span = None
    for i in tqdm(range(num), desc="video", unit="frame", leave=False, disable=not progress):
        with evaluating(generator, lock_view=lock_view):
            if i == 0 or not still:
                now = (ws if still else ws[i]).split(batch_size)
                scenes = [(generator.represent(part), len(part)) for part in now]
            views = []
            for scene, size in scenes:
                camera = None if path is None else path.select([i] * size)
                view = generator.render(scene, camera, resolution=resolution, raw="raw" in layers)
                views.append(view)
            shown = together(views)
        cameras = None if path is None else path.select([i] * len(shown.image))
        if span is None and shown.depth is not None:
            span = depth_range(shown.depth, shown.opacity)
        grids = [
            grid(draw(shown, layer, cameras, span), columns=columns, gap=0) for layer in layers
        ]
        yield np.concatenate(grids)


def beside_each_other(
    films: Sequence[Iterable[np.ndarray]], labels: Sequence[str]
) -> Iterator[np.ndarray]:
    """Frames of several films beside each other, each below its label.

    Args:
        films: frames uint8 [H W 3] each; smaller ones are enlarged to the size of the largest, by
            the nearest pixel.
        labels: one per film.
    """
    for frames in zip(*films, strict=True):
        size = max(frame.shape[:2] for frame in frames)
        alike = [resized(frame, size)[None] for frame in frames]
        yield sheet([np.concatenate(alike)], [""], labels, side=MIN_SIDE)


def resized(frame: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A frame [H W 3] of another size (height, width), by the nearest pixel above on the left."""
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, frame.shape[:2], strict=True)
    )
    return frame[rows][:, columns]


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    *,
    fps: int = 30,
    scale: int | None = None,
    comment: str = "",
) -> Path:
    """Writes frames as a video, by what the file's name ends in, atomically.

        .mp4    H.264 that every browser plays (yuv420p, even sizes)
        .gif    256 colors per frame, for pages that play no video; plays for ever

    Args:
        path: the new file; an existing one is replaced.
        frames: uint8 [t H W 3], or one [H W 3] after the other.
        fps: frames per second; a GIF counts in steps of 10 ms per frame, of which 2 are the least.
        scale: enlarges frames by this factor, pixel by pixel; None enlarges small ones to at least
            256 pixels.
        comment: kept in the file's metadata.

    Raises:
        ValueError: frames are of another type or shape, there are none, or the name ends in
            something else.
        OSError: there is no ffmpeg, or it fails.
    """
    path = Path(path)
    write = {".mp4": _write_mp4, ".gif": _write_gif}.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"{path} does not end in .mp4 or .gif; a video is one of these")
    shown = _shown(frames, scale)
    first = next(shown, None)
    if first is None:
        raise ValueError("there are no frames, expected uint8 [t H W 3] with t > 0")
    return write_whole(path, lambda partial: write(partial, first, shown, fps, comment))


def _shown(frames: Iterable[np.ndarray], scale: int | None) -> Iterator[np.ndarray]:
    """Frames as they are written: checked, enlarged, of even sizes."""
    for frame in frames:
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"frames are {frame.dtype} {list(frame.shape)}, expected uint8 [H W 3] each"
            )
        side = MIN_SIDE if scale is None else scale * min(frame.shape[:2])
        yield even(enlarge(frame[None], side))[0]


def ffmpeg() -> str:
    """The program that makes videos.

    Raises:
        OSError: there is none.
    """
    import imageio_ffmpeg  # contains it; needed only here

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError(
            "there is no ffmpeg; install imageio-ffmpeg again, or set IMAGEIO_FFMPEG_EXE to one"
        ) from error


def _write_mp4(
    path: Path, first: np.ndarray, others: Iterator[np.ndarray], fps: int, comment: str
) -> None:
    import imageio_ffmpeg

    program = ffmpeg()
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (first.shape[1], first.shape[0]),
        fps=fps,
        codec="libx264",
        quality=None,
        macro_block_size=2,
        output_params=["-crf", "18", "-movflags", "+faststart", "-metadata", f"comment={comment}"],
    )
    try:
        writer.send(None)
        for frame in chain([first], others):
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        # Its exit code is not known. A file that was cut off lacks this table of its frames.
        is_whole = path.exists() and b"moov" in path.read_bytes()
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        is_whole = False
    if not is_whole:
        raise OSError(
            f"ffmpeg ({program}) wrote no whole video into {path.parent}: the disk is full, or "
            "ffmpeg is broken (pip install --force-reinstall imageio-ffmpeg)"
        )


def _write_gif(
    path: Path, first: np.ndarray, others: Iterator[np.ndarray], fps: int, comment: str
) -> None:
    Image.fromarray(first).save(
        path,
        save_all=True,
        append_images=map(Image.fromarray, others),
        duration=10 * max(2, round(100 / fps)),  # ms; browsers slow down what is faster
        loop=0,
        comment=comment,
    )


def even(frames: np.ndarray) -> np.ndarray:
    """Frames [t H W 3] with the last row and column repeated if the size is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def orbit_video(
    path: str | Path,
    generator: Generator,
    z: Tensor,
    cameras: Camera | None = None,
    *,
    conditioning: Camera | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    fps: int = 30,
    progress: bool = True,
) -> np.ndarray:
    """Writes the frames of `orbit_frames` with `write_video`; returns the frames [t H W 3]."""
    frames = orbit_frames(
        generator,
        z,
        cameras,
        conditioning=conditioning,
        truncation=truncation,
        resolution=resolution,
        progress=progress,
    )
    write_video(path, frames, fps=fps)
    return frames
