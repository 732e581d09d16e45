"""Bytes of live tensors, operation by operation, of what runs on the pretended device; the work of
each operation beside it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gan3d.training.estimate.device import DEVICE

Split = Callable[[], dict[str, int]]
Noted = Callable[["Work"], None]


class Work:
    """What one operation does.

    Attributes:
        flops: of products and convolutions, 2 per multiply-add.
        moved: bytes read and written.
        dtype: of the factors of a product, else of the result.
        is_convolution: whether it is one.
    """

    def __init__(self, func: Any, inputs: list[Tensor], outputs: list[Tensor], flops: float):
        self.flops = flops
        self.moved = sum(map(_own_bytes, (*inputs, *outputs)))
        self.dtype = (inputs or outputs)[0].dtype
        self.is_convolution = "convolution" in str(func)


class LiveBytes(TorchDispatchMode):
    """Counts bytes of storages on the pretended device while they live, and notes each operation's
    work.

    Args:
        there: tensors that are there already.
        split: the bytes of parts, asked for where a new peak is at least 1 % above the last one.
        noted: called with the work of every operation that is more than a view.

    Attributes:
        live: bytes.
        peak: most bytes since `start_phase`.
        parts: what `split` said there.
    """

    def __init__(self, there: Iterable[Tensor], split: Split, noted: Noted):
        super().__init__()
        self.live, self.peak, self.parts = 0, 0, {}  # type: int, int, dict[str, int]
        self.split, self.noted = split, noted
        self._storages: dict[int, int] = {}
        self._split_at = 0
        for tensor in there:
            self._add(tensor)

    def start_phase(self) -> None:
        """The peak is looked for anew."""
        self.peak, self._split_at = 0, 0
        self._look()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.device == DEVICE]
        if not outputs:
            return result
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        inputs = [x for x in inputs if x.device == DEVICE]
        is_new = [self._add(x) for x in outputs]
        if any(is_new) or func._schema.is_mutable:
            self.noted(Work(func, inputs, outputs, _flops(func, args, kwargs, result)))
        self._look()
        return result

    def _add(self, tensor: Tensor) -> bool:
        """Counts the storage of a tensor until it is freed; whether it was new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return False
        self._storages[key] = storage.nbytes()
        self.live += storage.nbytes()
        weakref.finalize(storage, self._forget, key)
        return True

    def _forget(self, key: int) -> None:
        self.live -= self._storages.pop(key)

    def _look(self) -> None:
        if self.live <= self.peak:
            return
        self.peak = self.live
        if self.live >= 1.01 * self._split_at:
            self._split_at, self.parts = self.live, self.split()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of the storages of tensors, each counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _own_bytes(tensor: Tensor) -> int:
    """Of the numbers of a tensor; numbers that it repeats without memory count once."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    number = 1
    for size, stride in steps:
        number *= size if stride else 1
    return number * tensor.element_size()


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    count = flop_registry.get(getattr(func, "overloadpacket", None))
    return 0.0 if count is None else float(count(*args, **(kwargs or {}), out_val=result))
