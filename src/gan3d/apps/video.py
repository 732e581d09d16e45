"""Orbit videos: each scene is computed once, then rendered from all cameras of a path."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.pictures import depth_range, enlarge, grid, layers
from gan3d.apps.views import evaluating, repeated
from gan3d.camera import Camera, orbit
from gan3d.generators.contract import Generator
from gan3d.results import write_whole

MIN_SIDE = 256  # pixels; smaller videos are enlarged


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
    """Frames of scenes along a path of cameras, uint8 [frames H W 3].

    The scenes are beside each other, with their depth below if the model has depth.

    Args:
        generator: a generator with a camera (`has_camera`).
        z: [b z_dim].
        path: one camera per frame; None is an orbit of 60 frames at the default radius and field of
            view.
        conditioning: one camera for `generator.map` of all scenes; None is a frontal one for a
            generator that is conditioned on the pose. It does not follow the path, which would
            change the heads of a conditioned model.
        truncation: truncation of `generator.map`.
        resolution: resolution of `generator.render`.
        depth: show depth.
        lock_view: make colors independent of the camera, as in the videos of the papers (GRAM-HD
            then renders cached maps).
        progress: show a progress bar.

    Raises:
        ValueError: the generator has no camera.
    """
    if not generator.has_camera:
        raise ValueError(
            f"{type(generator).__name__} has no camera to move; an orbit needs a 3D generator"
        )
    path = orbit(60).to(device=z.device) if path is None else path
    frames = []
    span = None
    with evaluating(generator, lock_view=lock_view):
        condition = repeated(conditioning, len(z))
        if condition is None:
            condition = generator.frontal_condition(path, len(z))
        ws = generator.map(z, condition, truncation=truncation)
        representation = generator.represent(ws)
        steps = tqdm(
            range(len(path)), desc="orbit", unit="frame", leave=False, disable=not progress
        )
        for i in steps:
            camera = path.select([i] * len(z))
            view = generator.render(representation, camera, resolution=resolution, raw=False)
            view = replace(view, raw=None, depth=view.depth if depth else None)
            if view.depth is not None and span is None:
                # All frames share the range of the first one, so that the colors do not flicker.
                span = depth_range(view.depth, view.opacity)
            strips = np.concatenate(layers(view, span))  # images, then depths: (k b) H W 3
            frames.append(grid(strips, columns=len(z), gap=0))
    return np.stack(frames)


def write_video(path: str | Path, frames: np.ndarray, *, fps: int = 30) -> Path:
    """Writes frames as an H.264 mp4 that every browser plays (yuv420p, even sizes), atomically.

    Small frames are enlarged pixel by pixel to at least 256 pixels.

    Args:
        path: the new file; an existing one is replaced.
        frames: uint8 [t H W 3].
        fps: frames per second.

    Raises:
        ValueError: frames are of another type or shape.
        OSError: there is no ffmpeg, or it fails.
    """
    path = Path(path)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}, expected uint8 [t H W 3] with t > 0"
        )
    frames = even(enlarge(frames, MIN_SIDE))
    return write_whole(path, lambda partial: _encode(partial, frames, fps))


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


def _encode(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg

    program = ffmpeg()
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (frames.shape[2], frames.shape[1]),
        fps=fps,
        codec="libx264",
        quality=None,
        macro_block_size=2,
        output_params=["-crf", "18", "-movflags", "+faststart"],
    )
    try:
        writer.send(None)
        for frame in frames:
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
