"""Processes that share out the batches of a measurement (`gan3d bench eval --processes N`)."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any

from gan3d.metrics.exact import full_precision

_mine: Any = None  # what this process works on


class Workers:
    """Processes that are given work batch by batch. Whoever is done takes the next batch, and the
    results come in the order of the batches: none is there twice, and none is missing.

    Args:
        make: device -> what a process works on; called once in each. It can be imported.
        devices: of the processes, one each.
    """

    def __init__(self, make: Callable[[str], Any], devices: Sequence[str]):
        context = get_context("spawn")
        places: SimpleQueue[str] = context.SimpleQueue()
        for device in devices:
            places.put(device)
        self._pool = ProcessPoolExecutor(len(devices), context, _begin, (make, places))

    def map(self, work: Callable[..., Any], batches: Iterable[Any], *args: Any) -> Iterator[Any]:
        """Yields work(mine, batch, *args) of every batch, in order; `mine` is what `make` gave.

        Raises:
            concurrent.futures.process.BrokenProcessPool: a process was killed.
        """
        for packed in self._pool.map(partial(_do, work, args), batches):
            yield pickle.loads(packed)

    def close(self) -> None:
        """Ends the processes; what they have not begun is not done."""
        self._pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[str], Any], places: SimpleQueue[str]) -> None:
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the first one speaks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _mine = make(places.get())


def _end_with_parent() -> None:
    """A parent that is killed cannot end the others."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(work: Callable[..., Any], args: Sequence[Any], batch: Any) -> bytes:
    """A result as bytes: tensors in a pipe would take a file descriptor each."""
    with full_precision():
        return pickle.dumps(work(_mine, batch, *args))
