"""A pretended device: tensors on `meta` are on it, tensors on the CPU are on the host.

Shapes, dtypes and devices are those of a real run, values are not: what the host reads is 0.5, True
or 4 (integers, and float64, in which images are counted). `watching()` notes, with the place in
gan3d where it happens:

    mixed     an operation that sees both, which fails on a GPU
    read      the host reads from the device: it waits for all work queued so far
    upload    the host's pageable memory is copied to the device: it waits, too
    size      the size of a result depends on values: the host waits for them
    pinned    a copy from pinned memory, for which nobody waits

A real GPU tells the same by `torch.cuda.set_sync_debug_mode`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gan3d.host
from gan3d.host import PINNED

DEVICE = torch.device("meta")
SOURCE = gan3d.__path__[0]
Kind = Literal["mixed", "read", "upload", "size", "pinned"]
WAITS: tuple[Kind, ...] = ("read", "upload", "size")
aten = torch.ops.aten

# Operations with numbers of the host among their tensors: most take them as arguments of the
# kernel, these copy them to the device first.
COPIES_NUMBERS = {aten.where.self, aten.index_put.default, aten.index_put_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
OF_UNKNOWN_SIZE = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
}


@dataclass(frozen=True)
class Event:
    """Something that a GPU fails at or waits for.

    Attributes:
        kind: see above.
        what: the operation and the shapes.
        where: the innermost lines of gan3d, `file:line < file:line`.
    """

    kind: Kind
    what: str
    where: str


@dataclass
class Log:
    """What was noted, in order, and nothing of what happens while it is silent."""

    events: list[Event] = field(default_factory=list)
    is_silent: bool = False

    def note(self, kind: Kind, what: str) -> None:
        if not self.is_silent:
            self.events.append(Event(kind, what, place()))

    def of(self, *kinds: Kind, since: int = 0) -> Counter[Event]:
        """The events of some kinds, and how often each was noted, from event number `since` on."""
        return Counter(event for event in self.events[since:] if event.kind in kinds)

    @contextmanager
    def silent(self) -> Iterator[None]:
        before, self.is_silent = self.is_silent, True
        try:
            yield
        finally:
            self.is_silent = before


def in_lines(events: Counter[Event]) -> str:
    """Events, one to a line."""
    lines = [f"{n} x {e.kind}: {e.what} | {e.where}" for e, n in events.items()]
    return "\n".join(["", *lines])


def place() -> str:
    """The three innermost lines of gan3d on the stack, the innermost first."""
    lines: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(lines) < 3:
        name = frame.f_code.co_filename
        if name.startswith(SOURCE):
            lines.append(f"{name.removeprefix(SOURCE)[1:]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines) or "outside gan3d"


def shapes(tensors: list[Tensor]) -> str:
    return ", ".join(f"{tuple(t.shape)} on the {side(t)}" for t in tensors)


def side(tensor: Tensor) -> str:
    return "device" if tensor.device == DEVICE else "host"


def pretended(shape: Any, dtype: torch.dtype) -> Tensor:
    """What the host reads."""
    value = 0.5 if dtype.is_floating_point and dtype != torch.float64 else 4
    return torch.full(tuple(shape), value, dtype=dtype)


class Operations(TorchDispatchMode):
    """Notes what operations do, of the forward and of the backward passes."""

    def __init__(self, log: Log):
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if x.device == DEVICE]
        here = [x for x in tensors if x.device != DEVICE]
        name = str(func)
        if there and func is aten._local_scalar_dense.default:
            self.log.note("read", f"{name} of {there[0].dtype}")
            return pretended((), there[0].dtype).item()
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            source, target = args[0], torch.device(kwargs["device"])
            if source.device == DEVICE and target != DEVICE:
                self.log.note("read", f"{name}: {shapes(tensors)}")
                return pretended(source.shape, kwargs.get("dtype") or source.dtype)
            if here and target == DEVICE:
                is_pinned = getattr(source, "is_pretended_pinned", False)
                kind: Kind = "pinned" if is_pinned and kwargs.get("non_blocking") else "upload"
                self.log.note(kind, f"{name}: {shapes(tensors)}")
            return func(*args, **kwargs)
        if func is aten.copy_.default and there and here:
            if args[0].device == DEVICE:
                self.log.note("upload", f"{name}: {shapes(tensors)}")
                return func(*args, **kwargs)
            self.log.note("read", f"{name}: {shapes(tensors)}")
            return args[0].copy_(pretended(args[1].shape, args[1].dtype))
        if there and here:
            args = self._meeting(func, args, name, tensors, here)
        if there and (func in OF_UNKNOWN_SIZE or is_masked(func, args)):
            self.log.note("size", f"{name}: {shapes(tensors)}")
            if func is aten.nonzero.default:
                return everywhere(args[0])
            if func is aten.equal.default:
                return True
            if func in INDEXING:
                args = (args[0], unmasked(args[1]), *args[2:])
        return func(*args, **kwargs)

    def _meeting(self, func, args, name: str, tensors: list[Tensor], here: list[Tensor]):
        """Notes an operation on tensors of both sides; its arguments, as a GPU goes on with."""
        if func in INDEXING and any(x.ndim for x in here):
            self.log.note("upload", f"{name}: {shapes(tensors)}")
            moved = [i.to(DEVICE) if isinstance(i, Tensor) else i for i in args[1]]
            return (args[0], moved, *args[2:])
        if any(x.ndim for x in here):
            self.log.note("mixed", f"{name}: {shapes(tensors)}")
        elif func in COPIES_NUMBERS:
            self.log.note("upload", f"{name}: {shapes(tensors)}")
        return args


def is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def is_masked(func, args) -> bool:
    return func in INDEXING and any(map(is_mask, args[1]))


def everywhere(mask: Tensor) -> Tensor:
    """`nonzero` of a mask that is True everywhere, [n dimensions]."""
    return torch.empty(mask.numel(), mask.ndim, dtype=torch.int64, device=DEVICE)


def unmasked(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices in place of masks that are True everywhere."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and is_mask(index):
            found += everywhere(index).unbind(dim=1)
        else:
            found.append(index)
    return found


class Makers(TorchFunctionMode):
    """Notes tensors that are made on the device from numbers or arrays of the host."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)

    def __init__(self, log: Log):
        super().__init__()
        self.log = log

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in self.MAKERS and isinstance(made, Tensor) and made.device == DEVICE:
            data = args[1] if func is Tensor.new_tensor else args[0]
            if not isinstance(data, Tensor):
                self.log.note("upload", f"{func.__name__} of {data!r:.40}")
        return made


@contextmanager
def watching() -> Iterator[Log]:
    """Notes what happens inside."""
    log = Log()
    with Makers(log), Operations(log):
        yield log


# ------------------------------------------------------------ what lets `meta` pass for a device


class Autocast(torch.autocast):
    """autocast that takes the pretended device for a CPU."""

    def __init__(self, device_type: str, *args: Any, **options: Any):
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **options)


def pinned(tensor: Tensor) -> Tensor:
    """`Tensor.pin_memory` without a GPU."""
    copy = tensor.clone()
    copy.is_pretended_pinned = True  # type: ignore[attr-defined]
    return copy


@contextmanager
def pretending(kind: str = DEVICE.type) -> Iterator[None]:
    """torch and gan3d take `meta` for a device that computes.

    Args:
        kind: cpu or cuda: ops take the form that is theirs there, on cuda with our kernels; meta
            is a device of neither kind.
    """
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def name(device: str | None) -> str:
        return "cpu" if device in (None, DEVICE.type) else device

    with ExitStack() as stack:
        for target, attribute, value in (
            (torch, "autocast", Autocast),
            (torch.amp, "autocast", Autocast),
            (torch.amp, "is_autocast_available", lambda device: True),
            (torch, "is_autocast_enabled", lambda device=None: enabled(name(device))),
            (torch, "get_autocast_dtype", lambda device: dtype(name(device))),
            (Tensor, "pin_memory", pinned),
            (gan3d.host, "PINNED", (*PINNED, DEVICE.type)),
            (gan3d.host, "PRETENDED", kind),
        ):
            stack.enter_context(patch.object(target, attribute, value))
        yield


class PretendedAccelerator(Accelerator):
    """Lightning's view of the device."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def name() -> str:
        return "pretended"


class PretendedStrategy(SingleDeviceStrategy):
    """One device. The copies of the model and of batches are not noted."""

    def __init__(self, log: Log):
        super().__init__(DEVICE, accelerator=PretendedAccelerator())
        self.notes = log

    def model_to_device(self) -> None:
        with self.notes.silent():
            super().model_to_device()

    def teardown(self) -> None:
        with self.notes.silent():
            super().teardown()

    def batch_to_device(self, *args: Any, **options: Any) -> Any:
        with self.notes.silent():
            return super().batch_to_device(*args, **options)
