"""A run under faults for half an hour ends bit for bit as one that nothing happened to.

    python benchmarks/soak.py --minutes 30 --unbroken_minutes 15

Two trainings of small EG3D heads go side by side. One is left alone: resident memory, descriptors
and threads of each of its processes are watched. The other is killed, told to stop, robbed of its
data processes and of its disk, and goes on every time with `--resume auto` and another number of
data processes, until it has seen as many images. Then weights, optimizers and metrics are compared.
Writes results/<machine>/soak.json, prints OK or FAULT; the exit code is 0 or 1.
"""

from __future__ import annotations

import argparse
import csv
import errno
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from machine import facts, write

FULL_DISK = "SOAK_FULL_DISK"  # so many checkpoints fit; read by this program alone
HEADS, HELDOUT, BATCH = 120, 20, 8
CHECKPOINTS, LOGS, EVALUATIONS, PICTURES = 0.16, 0.04, 0.32, 0.64  # every so many kimg
ENDLESS = 1e4  # kimg
MARGIN = 400  # images of a session
MOST_GROWTH = 0.02
# Faults and the exit codes that they may end with; 0: the run was over before.
EXPECTED = {
    "SIGKILL": (-signal.SIGKILL,),
    "SIGTERM": (128 + signal.SIGTERM,),
    "SIGUSR1": (128 + signal.SIGUSR1,),
    "SIGINT": (128 + signal.SIGINT,),
    "worker killed": (1, 2),
    "full disk": (2,),
    "none": (0,),
}
COMPARED = ("state_dict", "optimizer_states", "running_means")


# ------------------------------------------------------------ a training


def train(arguments: list[str]) -> int:
    """`gan3d fit` in this process, on a disk that may be full."""
    from gan3d.cli import main

    room = os.environ.get(FULL_DISK)
    if room is not None:
        _fill_disk(int(room))
    return main(["fit", *arguments])


def _fill_disk(checkpoints: int) -> None:
    """Lets the disk be full in the middle of a checkpoint, after so many that fit."""
    real, begun = Path.open, []

    class Full:
        def __init__(self, file):
            self._file, self._room = file, 200_000

        def write(self, data) -> int:
            self._room -= memoryview(data).nbytes
            if self._room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

    def opened(path, *arguments, **named):
        file = real(path, *arguments, **named)
        if path.suffix != ".partial" or "wb" not in arguments:
            return file
        begun.append(path)
        return Full(file) if len(begun) > checkpoints else file

    Path.open = opened  # type: ignore[method-assign]


class Training:
    """One `fit` as a process.

    Args:
        folder: of the run.
        config: of all runs.
        num_workers: data processes.
        total_kimg: length of the run.
        options: more words.
        room: so many checkpoints fit on the disk; None: all.
    """

    def __init__(
        self,
        folder: Path,
        config: Path,
        num_workers: int,
        total_kimg: float,
        *options: str,
        room: int | None = None,
    ):
        self.folder, self.begun_at = folder, last_step(folder)
        words = [sys.executable, __file__, "fit", "--config", config, "--run_dir", folder]
        words += ["--resume", "auto", "--data.num_workers", num_workers]
        words += ["--model.run.total_kimg", total_kimg, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if room is not None:
            environment[FULL_DISK] = str(room)
        self.log = folder.with_name(f"{folder.name}.log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, words)), stdout=log, stderr=log, env=environment
            )

    def wait_for_training(self, patience: float = 300.0) -> bool:
        """Until this session has logged; False if it ended before."""
        until = time.monotonic() + patience
        lock = self.folder / ".gan3d-lock"
        while self.process.poll() is None and time.monotonic() < until:
            is_ours = lock.exists() and f'"pid": {self.process.pid},' in lock.read_text()
            if is_ours and last_step(self.folder) > self.begun_at:
                return True
            time.sleep(0.2)
        return False

    def live(self, seconds: float) -> None:
        """Until so much time has passed, or it ended."""
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)

    def end(self, patience: float = 300.0) -> int:
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return 124


def last_step(folder: Path) -> int:
    """Images of the last row of a run's metrics."""
    try:
        return max((int(row["step"]) for row in rows_of(folder)), default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The metrics, less what measures the machine."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith(("speed/", "memory/"))}
            for row in csv.DictReader(file)
        ]


# ------------------------------------------------------------ faults


def harass(
    folder: Path, config: Path, seed: int, minutes: float, reference: Reference
) -> list[dict[str, Any]]:
    """Trains under faults until the run is complete; returns its sessions."""
    rng, began, sessions = random.Random(seed), time.monotonic(), []
    while True:
        passed = (time.monotonic() - began) / 60
        total = reference.images
        # It must not overtake the unbroken run in this session, however long that takes.
        ahead = last_step(folder) + MARGIN > 0.8 * last_step(reference.folder)
        if total is None and ahead:
            time.sleep(1)
            continue
        # The run is to last as long as it should: rest little where it is fast.
        goal = total or reference.expected()
        is_early = last_step(folder) / max(goal, 1) > passed / minutes
        workers = rng.choice((0, 1, 2))
        names = [name for name in EXPECTED if name != "none" and (workers or "worker" not in name)]
        fault = "none" if total is not None and passed > minutes else rng.choice(names)
        room = rng.choice((0, 1)) if fault == "full disk" else None
        kimg = ENDLESS if total is None else total / 1000
        training = Training(folder, config, workers, kimg, room=room)
        start = time.monotonic()
        if fault != "none" and training.wait_for_training() and fault != "full disk":
            training.live(rng.uniform(1, 8) if is_early else rng.uniform(5, 30))
            strike(training.process, fault, rng)
        code = training.end(patience=60 * minutes + 600)
        done = code == 0
        session = {
            "fault": fault,
            "exit_code": code,
            "as_expected": code in EXPECTED[fault] or done,
            "num_workers": workers,
            "seconds": round(time.monotonic() - start, 1),
            "images": last_step(folder),
        }
        sessions.append(session)
        print(session, flush=True)
        if done or not session["as_expected"]:
            return sessions


def strike(process: subprocess.Popen, fault: str, rng: random.Random) -> None:
    """Does something to a training."""
    if process.poll() is not None:
        return
    if fault == "worker killed":
        children = list(children_of(process.pid))
        if children:
            os.kill(rng.choice(children), signal.SIGKILL)
        return
    process.send_signal(getattr(signal, fault))


def children_of(pid: int) -> Iterator[int]:
    """The data processes of a training."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return
    yield from map(int, text.split())


# ------------------------------------------------------------ the run that is left alone


class Reference(threading.Thread):
    """The unbroken run, and what its processes hold.

    Attributes:
        images: it has seen when it was over; None: not yet.
    """

    def __init__(self, folder: Path, config: Path, minutes: float, every: float):
        super().__init__(name="reference")
        self.folder, self.minutes, self.every = folder, minutes, every
        self.images: int | None = None
        self.samples: dict[int, list[tuple[float, int, int, int]]] = {}
        seconds = round(minutes * 60)
        limit = f"00:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        self.training = Training(folder, config, 1, ENDLESS, "--trainer.max_time", limit)
        self.began = time.monotonic()

    def run(self) -> None:
        process = self.training.process
        while process.poll() is None:
            for pid in (process.pid, *children_of(process.pid)):
                if (held := held_by(pid)) is not None:
                    seconds = time.monotonic() - self.began
                    self.samples.setdefault(pid, []).append((seconds, *held))
            time.sleep(self.every)
        self.images = last_step(self.folder)

    def expected(self) -> float:
        """Images that it will have seen."""
        passed = (time.monotonic() - self.began) / 60
        return last_step(self.folder) * max(self.minutes / max(passed, 0.1), 1)

    def verdict(self) -> list[dict[str, Any]]:
        """For each process that lived long: what it held after the first minutes, and in the
        last.
        """
        end = max((s[0] for samples in self.samples.values() for s in samples), default=0.0)
        settled = max(end / 4, 20)
        window = max(end / 8, 10)
        rows = []
        for pid, samples in self.samples.items():
            early = [s for s in samples if settled <= s[0] <= settled + window]
            late = [s for s in samples if s[0] >= end - window]
            if not early or not late:
                continue
            mib, descriptors, threads = (
                [statistics.median(s[k] for s in some) for some in (early, late)] for k in (1, 2, 3)
            )
            growth = mib[1] / mib[0] - 1
            rows.append(
                {
                    "process": "training" if pid == self.training.process.pid else "data",
                    "resident_mib": [round(value / 1024, 1) for value in mib],
                    "growth": round(growth, 4),
                    "descriptors": descriptors,
                    "threads": threads,
                    "ok": growth <= MOST_GROWTH
                    and descriptors[0] == descriptors[1]
                    and threads[0] == threads[1],
                }
            )
        return rows


def held_by(pid: int) -> tuple[int, int, int] | None:
    """Resident memory in KiB, descriptors and threads of a process; None: it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        resident, threads = int(found["VmRSS"].split()[0]), int(found["Threads"])
        return resident, len(os.listdir(f"/proc/{pid}/fd")), threads
    except (OSError, KeyError):  # its memory goes first
        return None


# ------------------------------------------------------------ the comparison


def same(a: Any, b: Any) -> bool:
    """Bit equality of nested values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def compare(one: Path, other: Path) -> dict[str, bool]:
    a, b = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (one, other)
    )
    equal = {part: same(a[part], b[part]) for part in COMPARED}
    return equal | {"metrics.csv": rows_of(one) == rows_of(other)}


def config_at(path: Path, data: Path) -> Path:
    """The config of both runs."""
    base = yaml.safe_load((Path(__file__).parents[1] / "configs" / "eg3d_heads32.yaml").read_text())
    base["model"]["run"] = {"total_kimg": ENDLESS, "log_every_kimg": LOGS}
    base["data"] = {"path": str(data), "batch_size": BATCH, "heldout": HELDOUT, "num_workers": 1}
    base["snapshots"] = {"every_kimg": PICTURES, "num_heads": 2, "video_every": 0}
    base["evaluation"] = {"every_kimg": EVALUATIONS, "num_images": HELDOUT}
    base["checkpoints"] = {"every_kimg": CHECKPOINTS}
    base["trainer"] = {"accelerator": "cpu", "devices": 1}
    base["threads"] = 1
    path.write_text(yaml.safe_dump(base))
    return path


def soak(work: Path, minutes: float, unbroken_minutes: float, seed: int) -> dict[str, Any]:
    """Both runs in a folder, and what came of them."""
    from gan3d.data.heads import write_heads

    write_heads(work / "heads32.zip", num=HEADS, resolution=32)
    config = config_at(work / "soak.yaml", work / "heads32.zip")
    began = time.monotonic()
    reference = Reference(work / "unbroken", config, unbroken_minutes, unbroken_minutes / 2)
    reference.start()
    sessions = harass(work / "broken", config, seed, minutes, reference)
    reference.join()
    processes, code = reference.verdict(), reference.training.process.returncode
    equal = compare(work / "unbroken", work / "broken") if sessions[-1]["exit_code"] == 0 else {}
    counts = {fault: sum(s["fault"] == fault for s in sessions) for fault in EXPECTED}
    is_ok = (
        code == 0
        and bool(equal)
        and all(equal.values())
        and bool(processes)
        and all(row["ok"] for row in processes)
        and all(session["as_expected"] for session in sessions)
    )
    return {
        "verdict": "OK" if is_ok else "FAULT",
        "minutes": round((time.monotonic() - began) / 60, 1),
        "unbroken_minutes": unbroken_minutes,
        "images": reference.images,
        "bit_equal": equal,
        "faults": counts,
        "unbroken": {"exit_code": code, "processes": processes},
        "sessions": sessions,
        "seed": seed,
    }


def main() -> int:
    if sys.argv[1:2] == ["fit"]:
        return train(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--unbroken_minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of both runs, which stays")
    given = parser.parse_args()
    unbroken = given.unbroken_minutes or given.minutes / 2
    with tempfile.TemporaryDirectory() as folder:
        work = given.keep or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        result = soak(work, given.minutes, unbroken, given.seed)
        if result["verdict"] != "OK":
            for log in sorted(work.glob("*.log")):
                print(f"--- the end of {log.name}\n{log.read_text()[-4000:]}")
    print(f"{write('soak', facts() | result, given.out)}: {result['verdict']}")
    return int(result["verdict"] != "OK")


if __name__ == "__main__":
    sys.exit(main())
