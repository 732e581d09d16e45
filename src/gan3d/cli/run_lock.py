"""One run per folder: a lock that names who holds it, and since when.

    <run>/.gan3d-lock       {"host": .., "pid": .., "since": .., ..}, touched every ten seconds

A process on this host holds it while it lives; one on another host, or in another container, while
the file is touched. So what a killed run leaves is not in the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from gan3d.cli.messages import CommandError

LOCK_FILE = ".gan3d-lock"
HEARTBEAT, SILENCE = 10.0, 120.0  # seconds between two touches, and until a host counts as gone


@dataclass(frozen=True)
class Holder:
    """A process that trains.

    Args:
        host: its name.
        place: what makes a process number unique: the boot and the container of the host.
        pid: number of the process.
        started: when the process began, in the clock ticks of its host; 0 is not known.
        since: when it took the lock.
    """

    host: str
    place: str
    pid: int
    started: int
    since: str

    @classmethod
    def this(cls) -> Holder:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), _place(), os.getpid(), _started(os.getpid()), since)

    def is_alive(self, silent_for: float) -> bool:
        """Whether it still trains; `silent_for` seconds nothing was heard of it."""
        if (self.host, self.place) != (socket.gethostname(), _place()):
            return silent_for < SILENCE
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return self.started in (0, _started(self.pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock of a run folder. One thread touches it while it is held."""

    def __init__(self, folder: Path):
        self.path = folder / LOCK_FILE
        self._own: Holder | None = None
        self._over = threading.Event()

    def holder(self) -> Holder | None:
        """Who trains in the folder, this process aside."""
        try:
            holder = Holder(**json.loads(self.path.read_text()))
            silent_for = _now(self.path) - self.path.stat().st_mtime
        except (OSError, ValueError, TypeError):  # none, or half of one
            return None
        own = (socket.gethostname(), _place(), os.getpid())
        is_other = (holder.host, holder.place, holder.pid) != own
        return holder if is_other and holder.is_alive(silent_for) else None

    def refuse_held(self, *, patience: float = 0.0) -> None:
        """Refuses a folder in which another process trains.

        Args:
            patience: seconds to wait for one that may be gone: on another host.

        Raises:
            CommandError: naming it.
        """
        until = time.monotonic() + patience
        while (holder := self.holder()) is not None:
            if time.monotonic() >= until or holder.place == _place():
                raise CommandError(
                    f"another run trains in {self.path.parent}: {holder}",
                    "wait until it is over, or choose another folder: --run_dir ANOTHER_FOLDER",
                    f"if it is gone all the same, remove {self.path}",
                )
            time.sleep(1.0)

    def take(self) -> None:
        """Takes the lock for this process.

        Raises:
            CommandError: another process holds it.
        """
        self.refuse_held()
        self._own = Holder.this()
        fresh = self.path.with_name(f"{LOCK_FILE}.{self._own.pid}")
        fresh.write_text(json.dumps(asdict(self._own)) + "\n")
        is_left = self.path.exists()  # by a process that is gone
        self.path.unlink(missing_ok=True)
        try:
            _put_new(fresh, self.path)
            if is_left:  # and that another one may remove now
                time.sleep(0.2)
                self.refuse_held()
        except FileExistsError:  # another one was faster
            self._own = None
            self.refuse_held()
            raise
        finally:
            fresh.unlink(missing_ok=True)
        self._over.clear()
        threading.Thread(target=self._beat, name="gan3d-lock", daemon=True).start()

    def release(self) -> None:
        """Gives it back; nothing if it is not held."""
        if self._own is None:
            return
        self._over.set()
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self.path.read_text()) == asdict(self._own):
                self.path.unlink()
        self._own = None

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # the folder was moved
                os.utime(self.path)


def _put_new(fresh: Path, path: Path) -> None:
    """Gives a file its name, if no other has it."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        with path.open("x") as file:
            file.write(fresh.read_text())


def _now(path: Path) -> float:
    """The time by the clock of the disk, which may be another host's."""
    probe = path.with_name(f"{LOCK_FILE}.{os.getpid()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _place() -> str:
    """Boot and process namespace of this host, where the system tells them."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> int:
    """When a process began; 0 where the system does not tell, -1 for one that has ended."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if facts[0] == "Z" else int(facts[19])
    except (OSError, IndexError, ValueError):
        return 0
