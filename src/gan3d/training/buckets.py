"""Gradients sent while the backward pass that makes them still runs.

The gradients of a phase are divided into buckets, the last parameters first: about the order in
which a backward pass makes them. A bucket is sent as soon as all that it waits for is there, in the
order of the buckets, so that all processes send the same.

A phase has several backward passes: of micro-batches, of views, of chunks of rays. A gradient is
there when it has been added to as often as in the phase's last time; the first time, buckets are
sent at the end. Processes run the same program, so what one waits for, all do. If more is added
to a gradient that was sent, its bucket is sent once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

BUCKET_BYTES = 25 * 2**20


@dataclass
class Bucket:
    """Some parameters, and what is under way.

    Attributes:
        places: of its parameters in the list of all.
        waits_for: places of gradients that are not there yet.
        sent: message and copy of the gradients that are sent; None: not sent.
    """

    places: list[int]
    waits_for: set[int] = field(default_factory=set)
    sent: list[tuple[dist.Work, Tensor, list[Tensor]]] | None = None


class Reduction:
    """The mean over all processes of a phase's gradients.

    Args:
        parameters: that may have a gradient.
        expected: times that each parameter's gradient is added to; None: not known.
        bucket_bytes: of a message, about.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        expected: Sequence[int] | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ):
        self.parameters = list(parameters)
        self.added = [0] * len(self.parameters)
        self._expected = expected
        self._buckets = list(self._divided(bucket_bytes))
        self._bucket_of = {k: bucket for bucket in self._buckets for k in bucket.places}
        if expected is not None:
            for bucket in self._buckets:
                bucket.waits_for = {k for k in bucket.places if expected[k] > 0}

    def _divided(self, bucket_bytes: int) -> Iterator[Bucket]:
        """Buckets of one dtype each; the last parameters come first."""
        last = len(self.parameters) - 1
        places: list[int] = []
        size, dtype = 0, None
        for k in range(last, -1, -1):
            parameter = self.parameters[k]
            if places and (size >= bucket_bytes or parameter.dtype != dtype):
                yield Bucket(places)
                places, size = [], 0
            places.append(k)
            size, dtype = size + parameter.numel() * parameter.element_size(), parameter.dtype
        if places:
            yield Bucket(places)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside are the phase's backward passes; at the end, gradients are the means."""
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._add, k))
            for k, parameter in enumerate(self.parameters)
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._finish()

    def _add(self, place: int, parameter: Tensor) -> None:
        self.added[place] += 1
        bucket = self._bucket_of[place]
        if bucket.sent is not None:  # more than was expected: it is sent again, in the end
            list(self._await(bucket))
            bucket.waits_for.add(place)
        elif self._expected is not None and self.added[place] == self._expected[place]:
            bucket.waits_for.discard(place)
            self._send_ready()

    def _send_ready(self) -> None:
        for bucket in self._buckets:
            if bucket.waits_for:
                return
            if bucket.sent is None:
                self._send(bucket)

    def _send(self, bucket: Bucket) -> None:
        grads = [self.parameters[k].grad for k in bucket.places]
        gradients = [gradient for gradient in grads if gradient is not None]
        bucket.sent = []
        if gradients:
            flat = _flatten_dense_tensors(gradients)
            bucket.sent.append((dist.all_reduce(flat, async_op=True), flat, gradients))

    def _finish(self) -> None:
        for bucket in self._buckets:
            if bucket.sent is None:
                self._send(bucket)
        for bucket in self._buckets:
            for flat, gradients in self._await(bucket):
                flat /= dist.get_world_size()
                for gradient, mean in zip(
                    gradients, _unflatten_dense_tensors(flat, gradients), strict=True
                ):
                    gradient.copy_(mean)

    def _await(self, bucket: Bucket) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yields the sums that a bucket's messages bring, and the gradients that they are of."""
        messages, bucket.sent = bucket.sent or [], None
        for work, flat, gradients in messages:
            work.wait()
            yield flat, gradients
