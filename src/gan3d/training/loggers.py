"""Loggers: what a run leaves behind. `step` is always the number of images seen.

`DiskLogger` needs no account and no network: a folder with `metrics.csv`, `pictures/`, `videos/`
and `hyperparameters.json`, from which `gan3d.apps.report` makes a page. It answers the calls of
Lightning's `WandbLogger`, so that a caller loops over loggers; `log_pictures` and `log_videos` do
that.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

log = logging.getLogger(__name__)

BIG_PICTURE = 3_000_000  # pixels; larger pictures are written as JPEG


class MetricsFile:
    """A CSV table with one row per step, on disk as soon as a row is logged.

    A row is one `write` of the operating system, so that a killed process loses nothing. Columns
    appear when first logged; the table is then rewritten and put in place at once. Floats are
    written by `repr`, which reads back bit-equal. Logging again at the last step fills in its row.

    A resumed run drops the rows after the step it goes on from, so that its file becomes that of an
    unbroken run: by `truncate`, or by its first log if that has an earlier step than the file. From
    then on, what comes with an earlier step than the last row (Lightning counts iterations, not
    images) goes into the last row.
    """

    def __init__(self, path: Path):
        self.path = path
        self._columns: list[str] | None = None  # None: not read yet
        self._last: dict[str, str] = {}
        self._start = 0  # of the last row in the file, bytes
        self._begun = False  # whether this process has truncated or logged

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Writes metrics into the row of this step."""
        self._read()
        if not self._begun:
            self.truncate(step)
        assert self._columns is not None
        step = max(step, int(self._last["step"])) if self._last else step
        fresh = {"step": str(step)} | {name: text(value) for name, value in metrics.items()}
        same_step = bool(self._last) and int(self._last["step"]) == step
        row = self._last | fresh if same_step else fresh
        if any(name not in self._columns for name in fresh):
            columns = self._columns + [name for name in fresh if name not in self._columns]
            earlier = self.rows()[: -1 if same_step else None]
            self._rewrite(columns, [*earlier, row])
            return
        line, size = self._line(row), self.path.stat().st_size
        if (
            same_step and self._start + len(line) < size
        ):  # a shorter row must not leave the end of the longer one
            self._rewrite(self._columns, [*self.rows()[:-1], row])
            return
        self._start, self._last = (self._start if same_step else size), row
        file = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(file, line, self._start)
        finally:
            os.close(file)

    def truncate(self, step: int) -> None:
        """Drops all rows after a step, and the columns that only they had."""
        self._read()
        self._begun = True
        rows = self.rows()
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            assert self._columns is not None
            used = {name for row in kept for name in row}
            self._rewrite([name for name in self._columns if name in used], kept)

    def rows(self) -> list[dict[str, str]]:
        """All rows, without their empty cells."""
        return read_rows(self.path)

    def _read(self) -> None:
        if self._columns is not None:
            return
        columns: list[str] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                columns = next(csv.reader(file), [])
        self._rewrite(columns, self.rows())  # without a last line that was cut off

    def _line(self, row: Mapping[str, str]) -> bytes:
        assert self._columns is not None
        return csv_line(row.get(name, "") for name in self._columns)

    def _rewrite(self, columns: list[str], rows: Sequence[Mapping[str, str]]) -> None:
        """Replaces the whole file at once."""
        if not rows:
            self.path.unlink(missing_ok=True)
            self._columns, self._last, self._start = [], {}, 0
            return
        self._columns, self._last = columns, dict(rows[-1])
        head = csv_line(columns) + b"".join(self._line(row) for row in rows[:-1])
        self._start = len(head)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_bytes(head + self._line(self._last))
        os.replace(temporary, self.path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file without their empty cells; a last line that was cut off is left
    out.
    """
    if not path.exists():
        return []
    whole = path.read_text()
    whole = whole[: whole.rfind("\n") + 1]
    return [
        {name: cell for name, cell in row.items() if cell}
        for row in csv.DictReader(io.StringIO(whole))
        if row.get("step")
    ]


def csv_line(cells: Iterable[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def text(value: Any) -> str:
    """A cell: numbers (tensors of one element, too) by `repr`, else `str`."""
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


class DiskLogger(Logger):
    """Logs into a folder: metrics.csv, pictures/, videos/, hyperparameters.json.

    Args:
        dir: the run folder itself. Checkpoints go to `<dir>/checkpoints`, as no name or version is
            appended.
    """

    def __init__(self, dir: str | Path):
        super().__init__()
        self._dir = Path(dir).expanduser()
        self.metrics = MetricsFile(self._dir / "metrics.csv")

    @property
    def save_dir(self) -> str:
        return str(self._dir)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> DiskLogger:
        return self

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes metrics into the row of `step`, images seen."""
        if step is None:
            raise ValueError("DiskLogger.log_metrics got no step; pass step=<images seen>")
        self.metrics.log(metrics, int(step))

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Writes `hyperparameters.json`."""
        values = vars(params) if isinstance(params, Namespace) else dict(params or {})
        if not values:
            return
        self._dir.mkdir(parents=True, exist_ok=True)
        (self._dir / "hyperparameters.json").write_text(
            json.dumps(values, indent=2, default=str) + "\n"
        )

    @rank_zero_only
    def log_image(
        self, key: str, images: list[Any], step: int | None = None, caption: list[str] | None = None
    ) -> list[Path]:
        """Writes images (h w c uint8 arrays or PIL) to `pictures/<key>_<step>.png` (.jpg where
        large).

        Several images are numbered. Captions go to a text file of the same name.
        """
        folder = self._dir / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for stem, image in zip(stems(key, step, len(images)), images):
            picture = (
                image
                if isinstance(image, Image.Image)
                else Image.fromarray(np.ascontiguousarray(image))
            )
            big = picture.width * picture.height > BIG_PICTURE
            path = folder / f"{stem}{'.jpg' if big else '.png'}"
            picture.convert("RGB").save(path, quality=92)  # of JPEG
            paths.append(path)
        for path, words in zip(paths, caption or []):
            path.with_suffix(".txt").write_text(words + "\n")
        return paths

    @rank_zero_only
    def log_video(self, key: str, videos: list[Any], step: int | None = None) -> list[Path]:
        """Copies video files to `videos/<key>_<step><suffix>`."""
        folder = self._dir / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for stem, video in zip(stems(key, step, len(videos)), map(Path, videos)):
            paths.append(folder / f"{stem}{video.suffix}")
            shutil.copyfile(video, paths[-1])
        return paths

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Forgets the metrics logged after `step`: to be called when a run resumes from there."""
        self.metrics.truncate(step)


class KimgWandbLogger(WandbLogger):
    """W&B with kimg, thousands of images seen, on the x axis of every chart."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        from wandb.errors import Error  # seconds that only W&B needs

        is_new = self._experiment is None
        try:
            run = super().experiment
        except Error as error:
            raise ValueError(
                f"W&B did not start: {error} To go on without an account: --wandb_mode offline"
            ) from error
        if is_new:
            run.define_metric("kimg")
            run.define_metric("*", step_metric="kimg", step_sync=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs at `step` images seen."""
        axis = {} if step is None else {"kimg": step / 1000}
        self.experiment.log({**metrics, **axis})


def stems(key: str, step: int | None, num: int) -> list[str]:
    """File names without suffix: `<key>_<step>`, numbered where there are several."""
    stem = key.replace("/", "_") + ("" if step is None else f"_{int(step):09d}")
    return [stem] if num == 1 else [f"{stem}_{i}" for i in range(num)]


_told: set[tuple[str, str]] = set()


def _tell_once(logger: Logger, what: str) -> None:
    name = type(logger).__name__
    if (name, what) not in _told:
        _told.add((name, what))
        log.info(
            "%s can not show %s; they go to the other loggers (DiskLogger, WandbLogger) only",
            name,
            what,
        )


@rank_zero_only
def log_pictures(
    loggers: Sequence[Logger],
    key: str,
    images: list[Any],
    step: int,
    caption: list[str] | None = None,
) -> None:
    """Shows images (h w c uint8 arrays or PIL) in every logger that can; says once which can
    not.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for i, image in enumerate(images):
                name = key if len(images) == 1 else f"{key}/{i}"
                logger.experiment.add_image(
                    name, np.asarray(image), global_step=step, dataformats="HWC"
                )
        elif not hasattr(logger, "log_image"):
            _tell_once(logger, "pictures")
        elif caption is None:
            logger.log_image(key, images, step=step)
        else:
            logger.log_image(key, images, step=step, caption=caption)


@rank_zero_only
def log_videos(loggers: Sequence[Logger], key: str, videos: list[Path], step: int) -> None:
    """Shows video files in every logger that can; says once which can not."""
    for logger in loggers:
        if hasattr(logger, "log_video"):
            logger.log_video(key, [str(video) for video in videos], step=step)
        else:
            _tell_once(logger, "videos")
