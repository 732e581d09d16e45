"""The folder of a run: what belongs to a run, and folders that are free."""

import os
from pathlib import Path

import pytest

from gan3d.cli.run_folder import (
    FOLDER_VARIABLE,
    RunFolder,
    forget_empty_folder,
    free_folder,
    remove,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # undone at the end
    monkeypatch.delenv(FOLDER_VARIABLE)


def test_what_a_run_wrote_is_removed_and_what_the_next_ones_loggers_wrote_stays():
    run = Path("run")
    for name in ("checkpoints/kimg-000001.000.ckpt", "pictures/a.png", "metrics.csv", "notes.txt",
                 "wandb/run-1/a", "tensorboard/events.1"):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    (run / "checkpoints/last.ckpt").symlink_to("kimg-000001.000.ckpt")
    leftovers = RunFolder(run).written()
    # Loggers of the new run begin before the old one is removed.
    (run / "wandb/run-2").mkdir()
    (run / "wandb/latest-run").symlink_to("run-2")
    (run / "tensorboard/events.2").touch()
    remove(leftovers)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if not path.is_dir()}
    assert left == {"notes.txt", "tensorboard/events.2"}
    assert (run / "wandb/run-2").is_dir()
    assert (run / "wandb/latest-run").is_symlink()


def test_checkpoints_that_lie_elsewhere_belong_to_the_run():
    Path("far").mkdir()
    Path("far/kimg-000001.000.ckpt").touch()
    assert RunFolder("run", "far").written() == [Path("far/kimg-000001.000.ckpt")]


def test_a_free_folder_is_the_first_that_is_not_there():
    assert [str(free_folder("a")) for _ in range(3)] == ["runs/a", "runs/a-2", "runs/a-3"]
    assert str(free_folder("b", reserve=False)) == "runs/b"
    assert not Path("runs/b").exists()


def test_a_folder_that_another_run_takes_at_the_same_moment_is_not_shared(monkeypatch):
    Path("runs/a").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was when we looked
    assert str(free_folder("a")) == "runs/a-2"


def test_processes_that_a_run_starts_have_its_folder(monkeypatch):
    folder = free_folder("a")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert free_folder("a") == folder
    forget_empty_folder()
    assert folder.is_dir()


def test_a_free_folder_goes_if_nothing_was_written_into_it():
    empty, full = free_folder("a"), None
    forget_empty_folder()
    assert not empty.exists()
    full = free_folder("a")
    (full / "config.yaml").touch()
    forget_empty_folder()
    assert full.is_dir()
    assert FOLDER_VARIABLE not in os.environ
