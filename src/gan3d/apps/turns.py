"""Whose turn it is to use a model that several threads want to render."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """One job after the other, each in the thread that asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def run(self, job: Callable[[], T]) -> T | None:
        """The result of a job; None if there are no more turns."""
        with self._lock:
            return job()

    def close(self) -> None:
        """Gives no more turns; those who wait for one go without."""


class ServedTurns(Turns):
    """Jobs wait until the thread that owns the model calls `serve`, which does them there: a model
    in training is rendered between two iterations, never during one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()
        self._closed = False

    def run(self, job: Callable[[], T]) -> T | None:
        future: Future[T] = Future()
        with self._lock:  # none is put after those that `close` cancels
            if self._closed:
                return None
            self._waiting.put((job, future))
        try:
            return future.result()
        except CancelledError:
            return None

    def serve(self) -> int:
        """Does the jobs that wait now, in the thread that calls; returns how many."""
        num = self._waiting.qsize()
        for _ in range(num):
            job, future = self._waiting.get()
            try:
                future.set_result(job())
            except Exception as error:  # it is the asking thread's
                future.set_exception(error)
        return num

    def close(self) -> None:
        with self._lock:
            self._closed = True
        while not self._waiting.empty():
            self._waiting.get()[1].cancel()
