"""A video of what a viewer showed, in its own time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gan3d.apps.canvas import beside
from gan3d.apps.looks import Frame
from gan3d.apps.video import resized, write_video

MOST = 3000  # frames that are kept


class Recording:
    """The frames of a viewer from a moment on.

    Args:
        at: that moment, seconds of `time.monotonic`.
    """

    def __init__(self, at: float):
        self.at = at
        self._frames: list[Frame] = []

    def add(self, frame: Frame) -> None:
        """Keeps a frame, unless there are too many."""
        if len(self._frames) < MOST:
            self._frames.append(frame)

    def video(self, until: float, *, fps: int = 30, comment: str = "") -> bytes:
        """An MP4 in which every frame stands for as long as it was shown.

        Args:
            until: its end, seconds of `time.monotonic`.
            fps: frames per second.
            comment: kept in the file's metadata.

        Raises:
            ValueError: there are no frames.
            OSError: there is no ffmpeg, or it fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording.mp4"
            write_video(path, self._shown(until, fps), fps=fps, comment=comment)
            return path.read_bytes()

    def _shown(self, until: float, fps: int) -> Iterator[np.ndarray]:
        """What was shown at equal steps of time; before the first frame, that one."""
        if not self._frames:
            return
        sides = [max(map(len, frame.pictures)) for frame in self._frames]
        size = beside(self._frames[sides.index(max(sides))].pictures).shape[:2]
        k = 0
        for step in range(max(1, round((until - self.at) * fps))):
            while k + 1 < len(self._frames) and self._frames[k + 1].at <= self.at + step / fps:
                k += 1
            yield resized(beside(self._frames[k].pictures), size)
