"""The folder of a run: what belongs to a run, and folders that are free."""

import os
from pathlib import Path

import pytest

from gan3d.cli.messages import CommandError
from gan3d.cli.run_folder import (
    FOLDER_VARIABLE,
    MARKER,
    RUN_KEY,
    RunFolder,
    forget_empty_folder,
    free_folder,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, "")  # undone at the end
    monkeypatch.delenv(FOLDER_VARIABLE)


RUN = ("checkpoints/kimg-000001.000.ckpt", "checkpoints/abandoned-1/kimg-000002.000.ckpt",
       "pictures/a.png", "metrics.csv", "wandb/run-1/a", "tensorboard/events.1")  # fmt: skip
FOREIGN = ("notes.txt", "checkpoints/ffhq512.pkl", "heads32.zip")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_a_run_wrote_is_moved_aside_and_all_else_stays():
    run, folder = Path("run"), RunFolder("run")
    write(run, *RUN, *FOREIGN)
    (run / "checkpoints/last.ckpt").symlink_to("kimg-000001.000.ckpt")
    folder.mark("1")
    leftovers = folder.written()
    # Loggers of the new run begin before the old one is moved.
    write(run, "wandb/run-2/a", "tensorboard/events.2")
    (run / "wandb/latest-run").symlink_to("run-2")
    assert folder.move_aside(leftovers) == run / "old-1"
    moved = {*RUN, MARKER, "checkpoints/last.ckpt"}
    new = {"wandb/run-2/a", "tensorboard/events.2"}
    assert files(run / "old-1") == moved
    assert files(run) == {f"old-1/{name}" for name in moved} | new | set(FOREIGN)
    assert (run / "wandb/latest-run").is_symlink()
    assert (run / "old-1/checkpoints/last.ckpt").read_text() == RUN[0]


def test_of_the_runs_that_were_moved_aside_two_stay_and_a_folder_of_the_users_does():
    run, folder = Path("run"), RunFolder("run")
    write(run, "old-1/mine.txt")
    for number in "2345":
        folder.mark(number)
        write(run, "metrics.csv")
        assert folder.move_aside(folder.written()) == run / f"old-{number}"
    assert sorted(path.name for path in run.iterdir()) == ["old-1", "old-4", "old-5"]
    assert folder.move_aside([]) is None


def test_what_is_not_known_as_a_run_is_refused_whatever_is_allowed():
    run, folder = Path("run"), RunFolder("run")
    write(run, *RUN, *FOREIGN)
    before = files(run)
    for overwrite in (False, True):
        with pytest.raises(CommandError, match=r"has no .gan3d-run") as refused:
            folder.refuse_used(overwrite)
        assert "run/metrics.csv" in str(refused.value)
        assert "ffhq512" not in str(refused.value)
    assert files(run) == before


def test_files_of_others_alone_and_empty_folders_are_not_in_the_way():
    write(Path("run"), *FOREIGN)
    (Path("run") / "pictures").mkdir()
    assert RunFolder("run").written() == []
    RunFolder("run").refuse_used()


def test_links_stay_and_checkpoints_on_another_disk_are_moved_there():
    run, disk, folder = Path("run"), Path("disk"), RunFolder("run")
    write(disk, "kimg-000001.000.ckpt", "model.pkl")
    write(run, "metrics.csv")
    (run / "checkpoints").symlink_to(disk.absolute())
    folder.mark("1")
    folder.move_aside(folder.written())
    assert (run / "checkpoints").is_symlink()
    assert files(disk) == {"model.pkl", "old-1/kimg-000001.000.ckpt"}
    assert files(run / "old-1") == {"metrics.csv", MARKER}


@pytest.mark.parametrize("where", ["inside", "backup", "other"])
def test_a_checkpoint_of_another_run_is_refused_in_a_folder_that_holds_one(where):
    run, folder = Path("run"), RunFolder("run")
    write(run, RUN[0])
    folder.mark("1")
    path = run / "checkpoints/abandoned-1/kimg-000002.000.ckpt" if where == "inside" else Path("x")
    checkpoint = {RUN_KEY: "2" if where == "other" else "1"}
    if where == "other":
        with pytest.raises(CommandError, match="--run_dir ANOTHER_FOLDER"):
            folder.refuse_other(checkpoint, path)
        with pytest.raises(CommandError, match="x is not of the run in run"):
            folder.refuse_other({}, path)
        RunFolder("new").refuse_other(checkpoint, path)
    else:
        folder.refuse_other(checkpoint, path)


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
