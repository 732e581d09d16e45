"""One run per folder: who holds it is named, and a run that is gone is not in the way."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from gan3d.cli import run_lock
from gan3d.cli.messages import CommandError
from gan3d.cli.run_lock import LOCK_FILE, Holder, RunLock


@pytest.fixture
def lock(tmp_path):
    lock = RunLock(tmp_path)
    yield lock
    lock.release()


@pytest.fixture
def process():
    """A process that lives as long as the test wants."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def held(folder, silent_for: float = 0.0, **facts) -> None:
    """Writes the lock of another run."""
    holder = replace(Holder.this(), **facts)
    (folder / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    then = time.time() - silent_for
    os.utime(folder / LOCK_FILE, (then, then))


def started(pid: int) -> int:
    return run_lock._started(pid)


def test_a_live_process_is_named_with_its_host_and_since_when(lock, process, tmp_path):
    held(tmp_path, pid=process.pid, started=started(process.pid), silent_for=600)
    with pytest.raises(CommandError) as refused:
        lock.take()
    said = str(refused.value)
    assert f"process {process.pid} on {Holder.this().host}, since 20" in said
    assert "--run_dir ANOTHER_FOLDER" in said
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == process.pid
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_FILE]


@pytest.mark.parametrize("end", ["dead", "zombie", "number used again"])
def test_a_process_that_is_gone_is_not_in_the_way_however_short_ago(lock, process, tmp_path, end):
    began = started(process.pid)
    if end == "number used again":
        began -= 1
    else:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if end == "dead":
            process.wait()
    held(tmp_path, pid=process.pid, started=began)
    lock.take()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("where", [{"host": "elsewhere"}, {"place": "another container"}])
def test_another_host_holds_it_until_it_has_been_silent_for_two_minutes(lock, tmp_path, where):
    held(tmp_path, silent_for=110, **where)
    with pytest.raises(CommandError, match="another run trains"):
        lock.refuse_held()
    held(tmp_path, silent_for=130, **where)
    lock.take()


def test_a_requeued_job_waits_for_a_host_that_may_be_gone(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "SILENCE", 2.0)
    held(tmp_path, host="elsewhere", place="there")
    began = time.monotonic()
    lock.refuse_held(patience=10)
    assert 1 < time.monotonic() - began < 6


def test_nobody_waits_for_a_process_of_this_host(lock, process, tmp_path):
    held(tmp_path, pid=process.pid, started=started(process.pid))
    began = time.monotonic()
    with pytest.raises(CommandError):
        lock.refuse_held(patience=10)
    assert time.monotonic() - began < 2


def test_it_is_touched_by_one_thread_and_given_back(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.05)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    lock.take()
    path = tmp_path / LOCK_FILE
    os.utime(path, (0, 0))
    time.sleep(0.5)
    assert time.time() - path.stat().st_mtime < 10
    assert threading.active_count() == threads + 1
    assert len(os.listdir("/proc/self/fd")) == descriptors
    lock.release()
    assert not path.exists()
    time.sleep(0.2)
    assert threading.active_count() == threads


def test_the_lock_of_another_is_not_removed_nor_half_a_lock_believed(lock, tmp_path):
    path = tmp_path / LOCK_FILE
    lock.take()
    path.write_text('{"host": "els')  # another one is about to write
    assert lock.holder() is None
    lock.release()
    assert path.exists()
