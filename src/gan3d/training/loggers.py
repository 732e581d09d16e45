"""Loggers: what a run leaves behind. `step` is always the number of images seen.

`DiskLogger` needs no account and no network: a folder with `metrics.csv`, `pictures/`, `videos/`,
`clouds/`, `hyperparameters.json` and `summary.json`, from which `gan3d.apps.report` and
`gan3d.apps.dashboard` make pages. It answers the calls of Lightning's `WandbLogger`, so that a
caller loops over loggers; `log_pictures`, `log_videos`, `log_cloud` and `log_summary` do that.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from gan3d.apps.fusion import write_ply
from gan3d.apps.glb import Mesh
from gan3d.apps.run_files import SUMMARY
from gan3d.results import write_whole
from gan3d.training.tolerance import tolerated

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

    A row that could not be written is kept, and written before the next one.
    """

    def __init__(self, path: Path):
        self.path = path
        self._columns: list[str] | None = None  # None: not read yet
        self._last: dict[str, str] = {}
        self._start = 0  # of the last row in the file, bytes
        self._begun = False  # whether this process has truncated or logged
        self._waiting: list[tuple[dict[str, str], int]] = []  # to be written

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Writes metrics into the row of this step."""
        self._waiting.append(({name: text(value) for name, value in metrics.items()}, step))
        try:
            while self._waiting:
                self._write(*self._waiting[0])
                del self._waiting[0]
        except OSError:
            self._columns = None  # the file may be cut or gone: it is read again
            raise

    def _write(self, cells: dict[str, str], step: int) -> None:
        self._read()
        if not self._begun:
            self.truncate(step)
        assert self._columns is not None
        step = max(step, int(self._last["step"])) if self._last else step
        fresh = {"step": str(step)} | cells
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
            written = os.pwrite(file, line, self._start)
        finally:
            os.close(file)
        if written < len(line):  # the next read drops a row that was cut off
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

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
        try:
            temporary.write_bytes(head + self._line(self._last))
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


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
    """Logs into a folder: metrics.csv, pictures/, videos/, clouds/, hyperparameters.json,
    summary.json.

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
            write_whole(path, partial(picture.convert("RGB").save, quality=92))  # of JPEG
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
            write_whole(paths[-1], partial(shutil.copyfile, video))
        return paths

    @rank_zero_only
    def log_cloud(self, key: str, cloud: np.ndarray, step: int) -> Path:
        """Writes points [n 6], as of `gan3d.apps.clouds`, to `clouds/<key>_<step>.ply`."""
        (stem,) = stems(key, step, 1)
        folder = self._dir / "clouds"
        folder.mkdir(parents=True, exist_ok=True)
        no_faces = np.zeros((0, 3), np.int64)
        points = Mesh(cloud[:, :3], no_faces, colors=cloud[:, 3:].astype(np.uint8))
        return write_ply(folder / f"{stem}.ply", points)

    @rank_zero_only
    def log_summary(self, row: Mapping[str, str | float]) -> None:
        """Writes `summary.json`."""
        text = json.dumps(dict(row), indent=2) + "\n"
        write_whole(self._dir / SUMMARY, lambda partial: partial.write_text(text))

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Forgets the metrics logged after `step`: to be called when a run resumes from there."""
        self.metrics.truncate(step)


class KimgTensorBoardLogger(TensorBoardLogger):
    """TensorBoard's files; the end of a run does not fail with them."""

    def begin_again(self) -> None:
        """After a failure: its writer never recovers, a new one writes a new file."""
        self._experiment = None

    def finalize(self, status: str) -> None:
        with tolerated(f"the end of {name_of(self)}", again=False):
            super().finalize(status)


class KimgWandbLogger(WandbLogger):
    """W&B with kimg, thousands of images seen, on the x axis of every chart.

    Without a key or a network the record goes to the disk, and a message says how to send it.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        import wandb  # seconds that only W&B needs

        is_new = self._experiment is None
        self._wandb_init.setdefault("settings", wandb.Settings(init_timeout=ANSWER_SECONDS))
        if is_new and not self._offline and (why := why_offline()):
            self._go_offline(why)
        run = None
        while run is None:
            if self._offline:  # Lightning sets a variable, which W&B has read if it was used before
                self._wandb_init["mode"] = "offline"
            try:
                run = super().experiment
            except wandb.Error as error:
                why = str(error).partition("\n")[0]
                if self._offline:
                    raise OSError(f"W&B did not start: {why} Leave it out of --logger") from error
                self._go_offline(why)
                wandb.teardown()  # it remembers the run that did not start
        if is_new:
            run.define_metric("kimg")
            run.define_metric("*", step_metric="kimg", step_sync=True)
        return run

    def _go_offline(self, why: str) -> None:
        self._offline = True
        log.warning(
            "warning: W&B goes on offline: %s. Send its record later: wandb sync "
            "%s/wandb/offline-run-* (with --append for what a resumed run adds)",
            why,
            self.save_dir,
        )

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        with tolerated("W&B's record of the config"):
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs at `step` images seen."""
        axis = {} if step is None else {"kimg": step / 1000}
        self.experiment.log({**metrics, **axis})

    def finalize(self, status: str) -> None:
        with tolerated("the end of W&B's record", again=False):
            super().finalize(status)


# For W&B's server to be reached, and to answer.
REACH_SECONDS, ANSWER_SECONDS = 5.0, 20.0


def why_offline() -> str | None:
    """Why W&B cannot be used online; None if nothing speaks against it."""
    import wandb

    settings = wandb.setup().settings
    if os.environ.get("WANDB_MODE", "online") not in ("online", "run"):
        return None  # the user said it
    url = urlsplit(settings.base_url)
    if not (settings.api_key or _has_key(url.hostname or "")):
        return "there is no key (wandb login)"
    if getproxies():  # a proxy may reach what this machine does not
        return None
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached ({error.strerror or error})"
    return None


def _has_key(host: str) -> bool:
    """Whether a key of W&B lies where `wandb login` leaves it, or stands in the environment."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    for path in (os.environ.get("NETRC", "~/.netrc"), "~/_netrc"):
        try:
            if netrc(Path(path).expanduser()).authenticators(host) is not None:
                return True
        except (OSError, NetrcParseError):
            continue
    return False


def finish_wandb() -> None:
    """Ends W&B's run, so that it is whole on disk, and out of the way of another one."""
    if (wandb := sys.modules.get("wandb")) is None:
        return
    is_whole = False
    with tolerated("the end of W&B's record", again=False):
        wandb.finish()
        is_whole = True
    if not is_whole:  # its process is gone; without this the program's exit tells that, too
        with tolerated("the end of W&B's record", again=False):
            wandb.teardown()


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
            "%s cannot show %s; they go to the other loggers (DiskLogger, WandbLogger) only",
            name,
            what,
        )


def name_of(logger: Logger) -> str:
    """What fails if a logger fails, with its place."""
    if isinstance(logger, DiskLogger):
        return str(logger.metrics.path)
    return "W&B's record" if isinstance(logger, WandbLogger) else type(logger).__name__


@contextmanager
def _tolerated(logger: Logger, what: str = "") -> Iterator[None]:
    """Tolerates what one logger fails to show; `what` is a file or a folder of it."""
    name = f"{logger.save_dir}/{what}" if what and isinstance(logger, DiskLogger) else ""
    done = False
    with tolerated(name or name_of(logger)):
        yield
        done = True
    if not done and isinstance(logger, KimgTensorBoardLogger):
        logger.begin_again()


@rank_zero_only
def log_metrics(loggers: Iterable[Any], metrics: Mapping[str, float], step: int) -> None:
    """Gives metrics to every logger, with images seen as the step."""
    for logger in loggers:
        with _tolerated(logger):
            logger.log_metrics(dict(metrics), step=step)


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
        with _tolerated(logger, f"pictures/{key}"):
            _log_pictures(logger, key, images, step, caption)


def _log_pictures(
    logger: Logger, key: str, images: list[Any], step: int, caption: list[str] | None
) -> None:
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
    """Shows video files in every logger that can; says once which cannot."""
    for logger in loggers:
        with _tolerated(logger, f"videos/{key}"):
            if hasattr(logger, "log_video"):
                logger.log_video(key, [str(video) for video in videos], step=step)
            else:
                _tell_once(logger, "videos")


@rank_zero_only
def log_cloud(loggers: Sequence[Logger], key: str, cloud: np.ndarray, step: int) -> None:
    """Shows a point cloud [n 6], as of `gan3d.apps.clouds`, in every logger that can; says once
    which cannot.
    """
    for logger in loggers:
        with _tolerated(logger, f"clouds/{key}"):
            if isinstance(logger, DiskLogger):
                logger.log_cloud(key, cloud, step)
            elif isinstance(logger, WandbLogger):
                import wandb  # seconds that only W&B needs

                logger.log_metrics({key: wandb.Object3D(cloud)}, step=step)  # type: ignore[dict-item]
            elif isinstance(logger, TensorBoardLogger):
                points = torch.from_numpy(cloud)[None]
                logger.experiment.add_mesh(
                    key, points[..., :3], colors=points[..., 3:].byte(), global_step=step
                )
            else:
                _tell_once(logger, "point clouds")


@rank_zero_only
def log_summary(loggers: Sequence[Logger], row: Mapping[str, str | float]) -> None:
    """Gives every logger the row of the run: names and numbers, as of `gan3d.apps.summary`."""
    for logger in loggers:
        with _tolerated(logger, SUMMARY):
            if isinstance(logger, DiskLogger):
                logger.log_summary(row)
            elif isinstance(logger, WandbLogger):
                named = {f"summary/{name}": value for name, value in row.items()}
                logger.experiment.summary.update(named)
            elif isinstance(logger, TensorBoardLogger):
                lines = [f"| {name} | {value} |" for name, value in row.items()]
                logger.experiment.add_text("summary", "\n".join(["| | |", "|---|---|", *lines]))
