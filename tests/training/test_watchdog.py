"""The watchdog: what a run waits for, said after a while, again later, and by one thread."""

import json
import logging
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from gan3d.data.archive import FolderArchive
from gan3d.training.callbacks import Watchdog
from gan3d.training.waiting import folder_of_beats, state_of, waits_for

linux = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")


def blocked(work) -> threading.Thread:
    """A thread that works, given time to block."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.3)
    return thread


def seen(check, seconds=10.0) -> str:
    """What `check` gives once it is true."""
    until = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


class Slow(torch.utils.data.Dataset):
    def __getitem__(self, index):
        time.sleep(0 if index == 0 else 1)
        return index

    def __len__(self):
        return 9


@linux
def test_a_stopped_data_worker_is_named_with_its_process():
    batches = iter(DataLoader(Slow(), batch_size=1, num_workers=1))
    pid = batches._workers[0].pid
    next(batches)
    os.kill(pid, signal.SIGSTOP)
    try:
        thread = blocked(lambda: next(batches))
        what, is_other = waits_for(thread.ident)
        assert what.startswith(f"data worker 0 (process {pid}; stopped by a signal"), what
        assert f"kill -CONT {pid}" in what
        assert not is_other
    finally:
        os.kill(pid, signal.SIGCONT)
        thread.join(20)


def test_a_file_that_does_not_come_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    archive, over = FolderArchive(tmp_path), threading.Event()
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: over.wait(60))
    thread = blocked(lambda: archive.read("a.png"))
    assert waits_for(thread.ident) == (f"the file 'a.png' of {tmp_path}", False)
    over.set()


def test_a_collective_and_a_line_of_ours_are_named():
    over = threading.Event()
    space = {"over": over}
    code = "def all_reduce(): over.wait(60)"
    exec(compile(code, "/somewhere/torch/distributed/distributed_c10d.py", "exec"), space)
    thread = blocked(space["all_reduce"])
    assert waits_for(thread.ident) == ("the other processes (all_reduce)", True)
    from gan3d import training

    place = training.__file__.replace("__init__", "phases")
    exec(compile("\n\ndef step(): over.wait(60)", place, "exec"), space)
    thread = blocked(space["step"])
    assert waits_for(thread.ident) == ("phases.py, line 3, step", False)
    over.set()


def test_it_speaks_after_a_while_again_when_that_doubled_and_of_the_present_wait(caplog):
    watchdog = Watchdog(seconds=0.4)
    trainer = SimpleNamespace(global_rank=0, world_size=1)
    before = threading.active_count()
    with caplog.at_level(logging.INFO, logger="gan3d"):
        watchdog.setup(trainer, None, "fit")
        assert threading.active_count() == before + 1
        for _ in range(6):  # iterations, each in time
            time.sleep(0.1)
            watchdog.on_train_batch_end(trainer, None, None, None, 0)
        assert not caplog.records
        begun = time.monotonic()
        times = []
        while time.monotonic() - begun < 1.3:
            time.sleep(0.01)
            if len(caplog.records) > len(times):
                times.append(time.monotonic() - begun)
        watchdog.on_train_batch_end(trainer, None, None, None, 0)
        assert [round(t, 1) for t in times] == pytest.approx([0.4, 0.8], abs=0.15)
        assert seen(lambda: len(caplog.records) == 3), "a new wait is said as early as the first"
    watchdog.teardown(trainer, None, "fit")
    assert threading.active_count() == before
    first = caplog.records[0].getMessage()
    assert "no iteration for 0 s (6 so far)" in first
    assert "test_watchdog.py" in first


def test_it_is_silent_beside_an_evaluation():
    watchdog = Watchdog()
    watchdog.setup(SimpleNamespace(global_rank=0, world_size=1), None, "validate")
    assert watchdog._thread is None
    with pytest.raises(ValueError, match="seconds is 0"):
        Watchdog(0)


@linux
def test_the_process_that_the_others_wait_for_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(os.getpid()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    watchdog = Watchdog(seconds=4.0)
    trainer = SimpleNamespace(global_rank=0, world_size=4)
    watchdog.setup(trainer, None, "fit")
    folder = folder_of_beats()
    own = {"pid": os.getpid(), "at": time.monotonic(), "what": "x", "is_other": True}
    stopped = os.fork()
    if stopped == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        assert seen(lambda: state_of(stopped).startswith("stopped"))
        folder.mkdir(exist_ok=True)
        told = {
            1: own,  # waits for the others, too
            2: own | {"is_other": False, "what": "the file 'a.png'"},
            3: own | {"pid": stopped, "at": time.monotonic() - 60},
        }
        for rank, beat in told.items():
            (folder / f"{rank}.json").write_text(json.dumps(beat))
        late = watchdog._late()
    finally:
        os.kill(stopped, signal.SIGKILL)
        os.waitpid(stopped, 0)
    assert late == (
        f"process 2 ({os.getpid()}) waits for the file 'a.png'; process 3 ({stopped}) is stopped "
        f"by a signal: kill -CONT {stopped} lets it go on"
    )
    watchdog.teardown(trainer, None, "fit")
    (folder / "2.json").unlink()
    assert "process 2 tells nothing" in watchdog._late()
    for beat in folder.iterdir():
        beat.unlink()
    watchdog.setup(trainer, None, "fit")
    assert seen(lambda: (folder / "0.json").exists(), 20)
    watchdog.teardown(trainer, None, "fit")
    assert not folder.exists()
