"""Checkpoints: whole or not there, those written last stay, and a branch that was left is kept."""

import errno
import os
import types
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from gan3d.checkpoints.runs import checkpoints_in, newest_whole, read_checkpoint
from gan3d.training import checkpoint_file
from gan3d.training.checkpoint_file import NotSavedError, WholeFileIO, write_checked
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.nan_guard import NonFiniteError
from gan3d.training.run import Run


def content(value: float = 1.0) -> dict:
    moments = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    return {
        "state_dict": {"generator_ema.w": torch.full((1000,), value), "n": torch.tensor(4)},
        "optimizer_states": [moments],
    }


class Pretended:
    """As much of a Trainer as saving needs."""

    def __init__(self, folder: Path):
        self.default_root_dir, self.is_global_zero, self.fast_dev_run = folder, True, False
        self.strategy = types.SimpleNamespace(checkpoint_io=WholeFileIO(), broadcast=lambda x: x)
        self.content = content()

    def save_checkpoint(self, path, weights_only):
        self.strategy.checkpoint_io.save_checkpoint(self.content, path)


@pytest.fixture
def trainer(tmp_path) -> Pretended:
    return Pretended(tmp_path)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=3)


def age(path: Path, seconds: float) -> None:
    """Lets a file have been written so long ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------ writing


class FullDisk:
    """A file of which so many bytes can be written."""

    def __init__(self, file, room: int, code: int = errno.ENOSPC):
        self.file, self.room, self.code = file, room, code

    def write(self, data) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def fill_disk(monkeypatch, room: int, code: int = errno.ENOSPC) -> None:
    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *mode: (
            FullDisk(real(path, *mode), room, code) if mode == ("wb",) else real(path, *mode)
        ),
    )


@pytest.mark.parametrize("room", [0, 1000, 5000])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_named_with_the_room_it_needs_and_the_older_checkpoints_stay(
    checkpoints, trainer, monkeypatch, room, code
):
    checkpoints.save(trainer, 4000)
    fill_disk(monkeypatch, room, code)
    with pytest.raises(NotSavedError) as caught:
        checkpoints.save(trainer, 8000)
    said = str(caught.value)
    assert "checkpoints/kimg-000008.000.ckpt was not written" in said
    assert os.strerror(code) in said
    assert "it needs 4,020 bytes; " in said
    assert " are free there" in said
    assert "kimg-000004.000.ckpt was checked and is intact" in said
    assert "--ckpt_path last" in said
    assert names(checkpoints.dir) == ["kimg-000004.000.ckpt", "last.ckpt"]


def test_without_a_checkpoint_none_is_advised(checkpoints, trainer, monkeypatch):
    fill_disk(monkeypatch, 0)
    with pytest.raises(NotSavedError, match="There is no checkpoint yet") as caught:
        checkpoints.save(trainer, 8000)
    assert "--ckpt_path" not in str(caught.value)


def test_what_is_on_the_disk_is_read_back_before_it_counts(tmp_path, monkeypatch):
    real = os.fsync

    def damage(descriptor):
        real(descriptor)
        os.pwrite(descriptor, b"\xff" * 8, 3000)

    monkeypatch.setattr(checkpoint_file.os, "fsync", damage)
    with pytest.raises(NotSavedError, match="damaged"):
        write_checked(content(), tmp_path / "a.ckpt")
    assert names(tmp_path) == []


def test_nothing_is_written_elsewhere_and_no_copy_is_made_in_memory(tmp_path, monkeypatch):
    (tmp_path / "no_room").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "no_room"))
    saved, real = [], torch.save
    monkeypatch.setattr(
        torch, "save", lambda value, file: (saved.append(file.name), real(value, file))
    )
    WholeFileIO().save_checkpoint(content(), tmp_path / "x" / "a.partial")
    assert saved == [str(tmp_path / "x" / "a.partial")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_what_is_not_finite_is_not_saved_and_the_tensor_is_named(
    checkpoints, trainer, value, where
):
    checkpoints.save(trainer, 4000)
    if where == "weights":
        trainer.content["state_dict"]["generator_ema.w"][7] = value
        name = "generator_ema.w"
    else:
        trainer.content["optimizer_states"][0]["state"][0]["exp_avg"][1] = value
        name = "optimizer_states.0.state.0.exp_avg"
    with pytest.raises(NonFiniteError, match=f"at 8.000 kimg: {name} is not finite"):
        checkpoints.save(trainer, 8000)
    assert names(checkpoints.dir) == ["kimg-000004.000.ckpt", "last.ckpt"]


@pytest.mark.parametrize(("starter", "code"), [(LightningEnvironment, 0), (object, 2)])
def test_the_other_processes_end_with_the_first_and_say_nothing(
    checkpoints, trainer, starter, code
):
    trainer.is_global_zero = False
    trainer.strategy.broadcast = lambda _: NotSavedError("no room")
    trainer.strategy.cluster_environment = starter()
    with pytest.raises(SystemExit) as ended:
        checkpoints.save(trainer, 4000)
    assert ended.value.code == code


def test_a_run_that_stops_on_a_nan_is_told_which_checkpoint_was_checked(checkpoints, trainer):
    error = NonFiniteError("it stopped.")
    checkpoints.on_exception(trainer, None, error)
    assert str(error) == "it stopped. There is no checkpoint yet to go on from."
    checkpoints.save(trainer, 4000)
    error = NonFiniteError("it stopped.")
    checkpoints.on_exception(trainer, None, error)
    assert "kimg-000004.000.ckpt was checked and is intact" in str(error)


# ------------------------------------------------------------ last.ckpt


@pytest.mark.parametrize("without", [("symlink",), ("symlink", "link")])
def test_where_no_links_can_be_made_last_is_a_file(checkpoints, trainer, monkeypatch, without):
    def refuse(*_, **__):
        raise OSError(1314, "A required privilege is not held by the client")

    for name in without:
        monkeypatch.setattr(os, name, refuse)
    for seen in (4000, 8000):
        trainer.content["state_dict"]["n"] = torch.tensor(seen)
        checkpoints.save(trainer, seen)
    last = checkpoints.dir / "last.ckpt"
    assert not last.is_symlink()
    assert read_checkpoint(last)["state_dict"]["n"] == 8000
    assert read_checkpoint(newest_whole(checkpoints.dir))["state_dict"]["n"] == 8000
    checkpoints.leave_branch(trainer, 4000)
    assert read_checkpoint(newest_whole(checkpoints.dir))["state_dict"]["n"] == 4000


def test_a_last_that_points_nowhere_is_not_in_the_way(checkpoints, trainer):
    for seen in (1000, 2000):
        checkpoints.save(trainer, seen)
    checkpoints.path(2000).unlink()
    assert newest_whole(checkpoints.dir) == checkpoints.path(1000)


def test_a_lone_last_is_found(checkpoints, trainer):
    checkpoints.save(trainer, 4000)
    lone = checkpoints.dir / "last.ckpt"
    whole = lone.read_bytes()
    for path in checkpoints.dir.iterdir():
        path.unlink()
    lone.write_bytes(whole)
    assert newest_whole(checkpoints.dir) == lone


# ------------------------------------------------------------ what stays


def test_those_written_last_stay_whatever_they_are_called(checkpoints, trainer):
    for seen in (80_000, 120_000, 160_000):
        checkpoints.save(trainer, seen)
        age(checkpoints.path(seen), 1e6 - seen)
    for seen in (50_000, 60_000):
        checkpoints.save(trainer, seen)
        assert newest_whole(checkpoints.dir).name == checkpoints.path(seen).name
        assert (checkpoints.dir / "last.ckpt").exists()
    assert names(checkpoints.dir) == [
        "kimg-000050.000.ckpt",
        "kimg-000060.000.ckpt",
        "kimg-000160.000.ckpt",
        "last.ckpt",
    ]


def test_what_last_points_to_is_never_removed(checkpoints, trainer):
    for seen in (1000, 2000):
        checkpoints.save(trainer, seen)
    checkpoints.keep = 1
    last = checkpoints.dir / "last.ckpt"
    last.unlink()
    last.symlink_to("kimg-000001.000.ckpt")
    checkpoints._prune(checkpoints.path(2000))
    assert last.exists()
    assert checkpoints.path(2000).exists()


def test_what_a_killed_run_wrote_after_last_is_newer(checkpoints, trainer):
    checkpoints.save(trainer, 1000)
    age(checkpoints.path(1000), 60)
    checkpoints.save(trainer, 2000)
    last = checkpoints.dir / "last.ckpt"
    last.unlink()
    last.symlink_to("kimg-000001.000.ckpt")  # it was killed before the link
    assert [path.name for path in checkpoints_in(checkpoints.dir)] == [
        "kimg-000002.000.ckpt",
        "kimg-000001.000.ckpt",
    ]


def test_a_copied_folder_goes_on_where_its_last_says(checkpoints, trainer):
    for seen in (1000, 2000, 3000):
        checkpoints.save(trainer, seen)
    age(checkpoints.path(3000), 60)  # copied first
    assert newest_whole(checkpoints.dir) == checkpoints.path(3000)


# ------------------------------------------------------------ branches


def test_a_branch_that_is_left_is_kept_aside_with_its_metrics(
    checkpoints, trainer, tmp_path, caplog
):
    for seen in (40_000, 80_000, 120_000):
        checkpoints.save(trainer, seen)
    (tmp_path / "metrics.csv").write_text("step\n40000\n120000\n")
    checkpoints.leave_branch(trainer, 40_000)
    aside = checkpoints.dir / "abandoned-1"
    assert names(aside) == ["kimg-000080.000.ckpt", "kimg-000120.000.ckpt", "metrics.csv"]
    assert (aside / "metrics.csv").read_text() == "step\n40000\n120000\n"
    assert names(checkpoints.dir) == ["abandoned-1", "kimg-000040.000.ckpt", "last.ckpt"]
    assert newest_whole(checkpoints.dir) == checkpoints.path(40_000)
    assert "goes on from 40.000 kimg: 2 later checkpoints" in caplog.text

    checkpoints.save(trainer, 50_000)
    checkpoints.leave_branch(trainer, 50_000)  # nothing is later
    assert not (checkpoints.dir / "abandoned-2").exists()
    checkpoints.leave_branch(trainer, 40_000)
    assert names(checkpoints.dir / "abandoned-2") == ["kimg-000050.000.ckpt", "metrics.csv"]


def test_a_checkpoint_with_a_flipped_bit_is_named_and_the_one_before_taken(checkpoints, trainer):
    for seen in (1000, 2000):
        checkpoints.save(trainer, seen)
    newest = checkpoints.path(2000)
    whole = bytearray(newest.read_bytes())
    with zipfile.ZipFile(newest) as archive:
        place = max(archive.infolist(), key=lambda info: info.file_size)
    whole[place.header_offset + 500] ^= 1
    newest.write_bytes(whole)
    with pytest.raises(ValueError, match=r"is damaged: the checksum of .*/data/\d+ in it is wrong"):
        read_checkpoint(newest)
    said: list[str] = []
    assert newest_whole(checkpoints.dir, said.append) == checkpoints.path(1000)
    assert "kimg-000002.000.ckpt is damaged" in said[0]


@pytest.mark.parametrize("every_kimg", [0, -1.0])
def test_an_interval_that_is_never_due_is_refused(every_kimg):
    with pytest.raises(ValueError, match=r"every_kimg is .* above 0: set --checkpoints.every_kimg"):
        Checkpoints(every_kimg=every_kimg)
    with pytest.raises(ValueError, match=r"log_every_kimg is .* above 0"):
        Run(log_every_kimg=every_kimg)
