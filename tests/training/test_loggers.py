"""Loggers: what is on disk after each call, after a kill, and after a resume."""

import csv
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from gan3d.training import tolerance
from gan3d.training.loggers import (
    DiskLogger,
    KimgWandbLogger,
    MetricsFile,
    finish_wandb,
    log_cloud,
    log_metrics,
    log_pictures,
    log_summary,
    log_videos,
    read_rows,
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_per_step_with_columns_in_the_order_of_their_first_appearance(tmp_path):
    logger = DiskLogger(tmp_path)
    logger.log_metrics({"loss/g": 0.5}, step=32)
    logger.log_metrics({"loss/d": 1.5, "loss/g": 0.25}, step=64)
    logger.log_metrics({"alarm/flatness": 0.1}, step=64)
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,loss/g,loss/d,alarm/flatness\n32,0.5,,\n64,0.25,1.5,0.1\n"
    )


def test_logging_again_at_a_step_fills_in_and_replaces(tmp_path):
    logger = DiskLogger(tmp_path)
    for metrics in ({"a": 1.0, "b": 2.0}, {"c": 3.0}, {"a": 123.456789}, {"a": 1.0}):
        logger.log_metrics(metrics, step=8)
    assert read(tmp_path / "metrics.csv") == [{"step": "8", "a": "1.0", "b": "2.0", "c": "3.0"}]


@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_read_back_bit_equal(tmp_path_factory, values):
    metrics = MetricsFile(tmp_path_factory.mktemp("csv") / "metrics.csv")
    for step, value in enumerate(values):
        metrics.log({"x": value}, step)
    assert [repr(float(row["x"])) for row in metrics.rows()] == [repr(value) for value in values]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False), max_size=4),
        ),
        max_size=12,
    )
)
def test_any_sequence_of_logs_equals_a_table_kept_in_memory(tmp_path_factory, calls):
    """Rows that grow, shrink and gain columns, in one process and in one that reopens the file for
    each call.
    """
    folder = tmp_path_factory.mktemp("csv")
    once = MetricsFile(folder / "once.csv")
    table: dict[int, dict[str, str]] = {}
    step = 0
    for advance, metrics in calls:
        step += advance
        once.log(metrics, step)
        MetricsFile(folder / "reopened.csv").log(metrics, step)
        table.setdefault(step, {"step": str(step)}).update(
            {name: repr(value) for name, value in metrics.items()}
        )
    assert read_rows(folder / "once.csv") == list(table.values())
    assert read_rows(folder / "reopened.csv") == list(table.values())


def test_tensors_and_numpy_numbers_are_logged_as_numbers(tmp_path):
    DiskLogger(tmp_path).log_metrics(
        {"t": torch.tensor(0.1), "n": np.float32(0.1), "i": torch.tensor(3)}, step=1
    )
    (row,) = read(tmp_path / "metrics.csv")
    assert (float(row["t"]), float(row["n"]), row["i"]) == (
        torch.tensor(0.1).item(),
        float(np.float32(0.1)),
        "3",
    )


def test_every_row_survives_a_kill(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from gan3d.training.loggers import DiskLogger\n"
        "logger = DiskLogger(sys.argv[1])\n"
        "for step in range(50):\n"
        "    logger.log_metrics({'a': step / 7}, step=step)\n"
        "    logger.log_metrics({'b': step / 3}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=os.environ, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    rows = read(tmp_path / "metrics.csv")
    assert [(float(row["a"]), float(row["b"])) for row in rows] == [
        (step / 7, step / 3) for step in range(50)
    ]


def play(logger: DiskLogger, steps: range) -> None:
    for step in steps:
        logger.log_metrics({"loss": step / 7}, step=step)
        if step % 3 == 0:
            logger.log_metrics({"rare": step / 11}, step=step)
        if step > 7:
            logger.log_metrics({"late": 0.5}, step=step)


@pytest.mark.parametrize("explicit", [True, False])
def test_the_file_of_a_resumed_run_is_that_of_an_unbroken_one(tmp_path, explicit):
    play(DiskLogger(tmp_path / "unbroken"), range(1, 15))
    play(DiskLogger(tmp_path / "resumed"), range(1, 11))
    again = DiskLogger(tmp_path / "resumed")  # from a checkpoint at step 6
    if explicit:
        again.truncate(6)
    play(again, range(7, 15))
    unbroken, resumed = (tmp_path / name / "metrics.csv" for name in ("unbroken", "resumed"))
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_truncation_keeps_the_step_itself_and_forgets_columns_that_only_later_rows_had(tmp_path):
    logger = DiskLogger(tmp_path)
    play(logger, range(1, 11))
    logger.truncate(3)
    assert read(tmp_path / "metrics.csv")[-1] == {
        "step": "3",
        "loss": repr(3 / 7),
        "rare": repr(3 / 11),
    }


def test_a_fresh_run_in_an_old_folder_starts_a_new_table(tmp_path):
    play(DiskLogger(tmp_path), range(1, 11))
    DiskLogger(tmp_path).log_metrics({"other": 1.0}, step=0)
    assert read(tmp_path / "metrics.csv") == [{"step": "0", "other": "1.0"}]


def test_a_step_counted_in_iterations_does_not_destroy_rows_counted_in_images(tmp_path):
    logger = DiskLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=64)
    logger.log_metrics({"lr": 0.1}, step=2)
    logger.log_metrics({"loss": 2.0}, step=96)
    assert read(tmp_path / "metrics.csv") == [
        {"step": "64", "loss": "1.0", "lr": "0.1"},
        {"step": "96", "loss": "2.0", "lr": ""},
    ]


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path):
    play(DiskLogger(tmp_path), range(1, 4))
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-5])
    DiskLogger(tmp_path).log_metrics({"loss": 9.0}, step=5)
    assert [row["step"] for row in read(path)] == ["1", "2", "5"]


def test_metrics_without_a_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images seen"):
        DiskLogger(tmp_path).log_metrics({"a": 1.0})


def test_lightning_puts_checkpoints_into_the_run_folder_itself(tmp_path):
    trainer = Trainer(
        logger=DiskLogger(tmp_path / "run"), accelerator="cpu", enable_progress_bar=False
    )
    assert Path(trainer.log_dir) == tmp_path / "run"
    callback = trainer.checkpoint_callback
    folder = callback._ModelCheckpoint__resolve_ckpt_dir(trainer)
    assert Path(folder) == tmp_path / "run" / "checkpoints"


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_hyperparameters_are_written_as_json(tmp_path, kind):
    DiskLogger(tmp_path).log_hyperparams(kind(model={"lr": 0.1}, path=Path("/data")))
    assert json.loads((tmp_path / "hyperparameters.json").read_text()) == {
        "model": {"lr": 0.1},
        "path": "/data",
    }


def test_pictures_are_files_named_by_key_and_step(tmp_path):
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    (path,) = DiskLogger(tmp_path).log_image("fakes", [image], step=1500)
    assert path == tmp_path / "pictures" / "fakes_000001500.png"
    assert np.array_equal(np.asarray(Image.open(path)), image)


def test_several_pictures_are_numbered_and_captioned(tmp_path):
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    paths = DiskLogger(tmp_path).log_image("a/b", images, step=7, caption=["one", "two"])
    assert [path.name for path in paths] == ["a_b_000000007_0.png", "a_b_000000007_1.png"]
    assert paths[1].with_suffix(".txt").read_text() == "two\n"


def test_large_pictures_are_jpeg(tmp_path):
    (path,) = DiskLogger(tmp_path).log_image("sheet", [np.zeros((2000, 2000, 3), np.uint8)], step=0)
    assert path.suffix == ".jpg"


def test_videos_are_copied(tmp_path):
    (tmp_path / "some.mp4").write_bytes(b"film")
    (path,) = DiskLogger(tmp_path / "run").log_video("orbit", [str(tmp_path / "some.mp4")], step=3)
    assert path == tmp_path / "run" / "videos" / "orbit_000000003.mp4"
    assert path.read_bytes() == b"film"


class Board(TensorBoardLogger):
    """A TensorBoardLogger whose writer only remembers (tensorboard need not be installed)."""

    save_dir = ""

    def __init__(self):
        self.seen = []

    @property
    def experiment(self):
        return self

    def add_image(self, tag, image, global_step, dataformats):
        self.seen.append((tag, image.shape, global_step, dataformats))

    def add_mesh(self, tag, vertices, colors, global_step):
        self.seen.append((tag, vertices.tolist(), colors.tolist(), global_step))

    def add_text(self, tag, text):
        self.seen.append((tag, text))


def test_log_pictures_shows_them_in_every_logger_that_can_and_says_once_which_can_not(
    tmp_path, caplog
):
    board = Board()
    loggers = [DiskLogger(tmp_path / "disk"), board, CSVLogger(tmp_path)]
    image = np.zeros((8, 9, 3), np.uint8)
    with caplog.at_level(logging.INFO, logger="gan3d.training.loggers"):
        for step in (1, 2):
            log_pictures(loggers, "fakes", [image], step=step)
    assert board.seen == [("fakes", (8, 9, 3), 1, "HWC"), ("fakes", (8, 9, 3), 2, "HWC")]
    assert len(list((tmp_path / "disk" / "pictures").iterdir())) == 2
    assert [record.message for record in caplog.records] == [
        "CSVLogger cannot show pictures; they go to the other loggers (DiskLogger, WandbLogger) "
        "only"
    ]


def test_clouds_and_the_row_of_a_run_reach_every_logger_that_can_show_them(tmp_path, caplog):
    board = Board()
    loggers = [DiskLogger(tmp_path / "disk"), board, CSVLogger(tmp_path)]
    cloud = np.array([[1, 2, 3, 255, 128, 0]], np.float32)
    with caplog.at_level(logging.INFO, logger="gan3d.training.loggers"):
        for step in (1, 2):
            log_cloud(loggers, "cloud", cloud, step=step)
    log_summary(loggers, {"config": "tiny", "frechet": 0.5})
    points = [[[1.0, 2.0, 3.0]]], [[[255, 128, 0]]]
    assert board.seen[:2] == [("cloud", *points, 1), ("cloud", *points, 2)]
    assert "| config | tiny |" in board.seen[2][1]
    assert len(list((tmp_path / "disk" / "clouds").iterdir())) == 2
    row = json.loads((tmp_path / "disk" / "summary.json").read_text())
    assert row == {"config": "tiny", "frechet": 0.5}
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "CSVLogger cannot show point clouds"
    ]


def test_pictures_and_videos_reach_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # what an earlier test left: it would keep its own mode
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    (tmp_path / "some.mp4").write_bytes(b"film")
    log_pictures([logger], "fakes", [np.zeros((8, 8, 3), np.uint8)], step=100, caption=["heads"])
    log_videos([logger], "orbit", [tmp_path / "some.mp4"], step=100)
    wandb.finish()
    media = sorted(path.suffix for path in tmp_path.rglob("media/**/*") if path.is_file())
    assert media == [".mp4", ".png"]


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["raised", "cut off", "renamed"])
def test_rows_that_a_full_disk_refused_are_written_when_there_is_room(tmp_path, fault, monkeypatch):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log({"a": 1.0}, step=1)
    with monkeypatch.context() as patched:
        full = OSError(errno.ENOSPC, "No space left on device")
        pwrite = os.pwrite
        if fault == "raised":
            patched.setattr(os, "pwrite", Mock(side_effect=full))
        elif fault == "cut off":
            patched.setattr(os, "pwrite", lambda f, line, at: pwrite(f, line[:2], at))
        else:
            patched.setattr(Path, "write_bytes", Mock(side_effect=full))
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                file.log({"a": float(step)} | ({"b": 1.0} if fault == "renamed" else {}), step)
    assert not list(tmp_path.glob("*.tmp"))
    file.log({"a": 4.0}, step=4)
    assert [(row["step"], row["a"]) for row in file.rows()] == [
        (str(step), f"{step}.0") for step in (1, 2, 3, 4)
    ]


def test_a_logger_that_fails_is_named_once_and_does_not_stop_the_others(tmp_path, caplog):
    tolerance.begin()
    (tmp_path / "pictures").write_text("a file")
    other = Mock(spec=["log_image", "log_metrics", "save_dir"], save_dir="")
    with caplog.at_level(logging.INFO, logger="gan3d"):
        for step in (1, 2):
            image = np.zeros((8, 9, 3), np.uint8)
            log_pictures([DiskLogger(tmp_path), other], "fakes", [image], step=step)
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"{tmp_path}/pictures/fakes failed" in told
    assert "the run goes on" in told
    assert other.log_image.call_count == 2
    tolerance.conclude()
    assert "what shows it is not" in caplog.text
    (tmp_path / "pictures").unlink()
    with caplog.at_level(logging.INFO, logger="gan3d"):
        log_pictures([DiskLogger(tmp_path)], "fakes", [np.zeros((8, 9, 3), np.uint8)], step=3)
    assert "works again" in caplog.text
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["fakes_000000003.png"]
    caplog.clear()
    tolerance.conclude()
    assert not caplog.records


def test_a_mistake_in_the_program_is_not_tolerated(tmp_path):
    with pytest.raises(TypeError):
        log_metrics([Mock(log_metrics=Mock(side_effect=TypeError("ours")), save_dir="")], {}, 1)


def test_wandb_is_offline_where_the_program_has_used_it_before(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    wandb.setup()  # which reads the environment
    logger = KimgWandbLogger(project="test", save_dir=tmp_path, id="abc", offline=True)
    log_metrics([logger], {"a": 1.0}, 1000)
    finish_wandb()
    wandb.teardown()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("why", ["no key", "no network"])
def test_wandb_without_a_key_or_a_network_goes_on_offline(tmp_path, monkeypatch, caplog, why):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # settings are read once per process; the environment names its service
    os.environ.pop("WANDB_SERVICE", None)
    if why == "no network":
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger = KimgWandbLogger(project="test", save_dir=tmp_path, resume="allow", id="abc")
    begun = time.monotonic()
    with caplog.at_level(logging.INFO, logger="gan3d"):
        log_metrics([logger], {"a": 1.0}, 1000)
    finish_wandb()
    wandb.teardown()
    assert time.monotonic() - begun < 30
    (told,) = [r.getMessage() for r in caplog.records if r.name.startswith("gan3d")]
    assert "goes on offline" in told
    assert "wandb sync" in told
    assert "--append" in told
    assert ("wandb login" if why == "no key" else "127.0.0.1 cannot be reached") in told
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
