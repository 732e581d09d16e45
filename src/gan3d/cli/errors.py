"""Errors that are foreseen, in words: a data worker that was killed, a lost process, memory
that is used up. They end a run, and need no traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gan3d.cli.messages import wants_traceback

GO_ON = "go on from the last checkpoint, if there is one: the same command with --ckpt_path last"
WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited)"
)
MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory|ALLOC_FAILED",
    re.IGNORECASE,
)
ASKED = re.compile(r"allocate (?:(\d+) bytes|([\d.]+ [KMGT]i?B))")
# Options that a run's memory follows from, and what makes each smaller.
BIG = {
    "model.run.micro_batch_size": "images at once; the result stays that of the whole batch",
    "model.rays.mode": "chunked takes the gradient of few rays at once; the result stays the same",
    "data.batch_size": "images per iteration; changes the result",
    "snapshots.batch_size": "heads of a picture at once",
    "evaluation.batch_size": "fakes of an evaluation at once",
}


class RunFailed(RuntimeError):
    """A run failed as it may; the message says why. Args: its lines."""

    def __init__(self, *lines: str):
        super().__init__("\n  ".join(line for line in lines if line))


def exit_code(error: BaseException) -> int | None:
    """2 for what the user can mend, 1 for a run that failed as it may, None for what is not
    foreseen.
    """
    if isinstance(error, RunFailed):
        return 1
    if isinstance(error, (ValueError, OSError)):
        return 2
    if type(error).__name__ == "MisconfigurationException":
        return 2
    failed = isinstance(error, ArithmeticError) or type(error).__name__ == "WorkerDied"
    return 1 if failed else None


def in_words(error: Exception, config: Mapping[str, Any] | None = None) -> Exception:
    """A foreseen error as one that says so, else the error itself.

    Args:
        error: any.
        config: of the run, as plain values under dotted names; None for a verb.
    """
    if isinstance(error, RunFailed):
        return error
    text = str(error)
    if found := WORKER.search(text):
        return worker_killed(found[1].strip(), found[2], config or {})
    is_memory = type(error).__name__ in ("OutOfMemoryError", "MemoryError") or (
        isinstance(error, RuntimeError) and MEMORY.search(text)
    )
    return out_of_memory(text, config) if is_memory else error


def worker_killed(pid: str, by: str | None, config: Mapping[str, Any]) -> RunFailed:
    """A process that reads images is gone."""
    names = {"Killed": "SIGKILL; out of memory?", "Terminated": "SIGTERM"}
    how = f"was killed ({names.get(by, by)})" if by else "ended (out of memory?)"
    now = config.get("data.num_workers")
    fewer = "--data.num_workers smaller" + (f" (now {now})" if now else "")
    shared = "bus" in (by or "").lower()
    return RunFailed(
        f"a data worker (process {pid}) {how}",
        "the shared memory of /dev/shm is too small: enlarge it, or --data.num_workers 0"
        if shared
        else f"if the memory is used up: {fewer}, 0 reads in the training process",
        GO_ON,
    )


def out_of_memory(text: str, config: Mapping[str, Any] | None) -> RunFailed:
    """The memory of the CPU or of a GPU is used up."""
    found = ASKED.search(text)
    amount = ""
    if found:
        size = found[2] or f"{int(found[1]) / 2**30:.2f} GiB"
        amount = f" ({size} more were asked for)"
    place = "of the GPU " if "cuda" in text.lower() or "hip" in text.lower() else ""
    first = f"the memory {place}is used up{amount}"
    if config is None:
        return RunFailed(first, "make --batch_size, --num or --resolution smaller")
    rows = [
        f"--{name} {'' if name.endswith('mode') else 'smaller '}(now {config[name]}): {what}"
        for name, what in BIG.items()
        if name in config
    ]
    return RunFailed(first, *rows, GO_ON)


@contextmanager
def explaining(
    config: Mapping[str, Any], flat: Callable[..., Iterator], strategy: Callable[[], Any]
) -> Iterator[None]:
    """Says in words what ends a run.

    Args:
        config: the whole config, as plain values.
        flat: names its leaves.
        strategy: of the trainer, once there is one.
    """
    parent = os.getppid()
    try:
        yield
    except Exception as error:
        if wants_traceback():
            raise
        from gan3d.training.processes import first_cause, leave_word, lost_connection

        strategy_now = strategy()
        rank = getattr(strategy_now, "global_rank", 0)
        several = getattr(strategy_now, "world_size", 1) > 1
        if several and lost_connection(error):
            cause = first_cause(strategy_now, parent)
            if not cause:
                raise Silent from error
            raise RunFailed(cause, GO_ON) from error
        told = in_words(error, dict(flat(config)))
        if several and rank:
            kind = f"{type(told).__name__}: " if exit_code(told) is None else ""
            leave_word(rank, f"{kind}{told}")
        if told is error:
            raise
        raise told from error


class Silent(RunFailed):
    """Another process says what happened."""
