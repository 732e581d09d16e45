"""What is left of an object that was pickled when nothing of it is made: names, attributes and
numbers, as data.

`checkpoints.unpickle` and `checkpoints.archive` read files into these; `state_dict` gives the
weights of a module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_MODULES = 20_000
MAX_DEPTH = 32  # of modules
MAX_SHARED_BYTES = 2**26  # of tensors under a second name
LONGEST_NAME = 512


class UnsafePickleError(ValueError):
    """A pickle that is refused: it asks for more than data, or it is broken."""


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """An object of the file that is not made: the name of its class, and its attributes."""

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Storage:
    """Numbers of one type, as they lie in the file."""

    dtype: torch.dtype
    data: memoryview

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize

    def tensor(self) -> Tensor:
        """A copy."""
        return (
            torch.frombuffer(bytearray(self.data), dtype=self.dtype)
            if self.data
            else torch.empty(0).to(self.dtype)
        )


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StridedTensor:
    """A tensor of the file before it is copied: element i of it is storage[offset + sum i
    stride].
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def tensor(self) -> Tensor:
        """A copy with memory of its own."""
        return self.storage.tensor().as_strided(self.shape, self.stride, self.offset).contiguous()


def state_dict(record: Record) -> dict[str, Tensor]:
    """Names and tensors of a module's record, exactly as (and in the order that) its own
    state_dict() would give them.

    Raises:
        UnsafePickleError: the record is no module, or claims more modules or numbers than the file
        holds.
    """
    found: dict[str, StridedTensor] = {}
    modules, count = [(record, "", 0)], 0
    while modules:
        module, prefix, depth = modules.pop()
        require(type(module) is Record, f"{shown(prefix)} is not a module")
        children = _dictionary(module.state.get("_modules", {}))
        count += len(children)
        require(depth < MAX_DEPTH and count < MAX_MODULES, "modules are nested without end")
        left_out = module.state.get("_non_persistent_buffers_set", set())
        require(type(left_out) in (set, list), "the names of non-persistent buffers are not a set")
        for kind in ("_parameters", "_buffers"):
            for name, value in _dictionary(module.state.get(kind, {})).items():
                if value is None or (kind == "_buffers" and name in left_out):
                    continue
                require(
                    type(name) is str and type(value) is StridedTensor,
                    f"{shown(prefix)} holds more than tensors",
                )
                found[prefix + name] = value
        for name, child in reversed(children.items()):
            if child is not None:
                require(
                    type(name) is str and len(prefix) < LONGEST_NAME, "a module has no proper name"
                )
                modules.append((child, f"{prefix}{name}.", depth + 1))
    return dict(zip(found, copies(list(found.values()))))


def copies(tensors: Sequence[StridedTensor]) -> list[Tensor]:
    """The tensors with memory of their own, refused if they claim many more numbers than their
    storages hold.
    """
    claimed = sum(t.nbytes for t in tensors)
    held = sum({id(t.storage): len(t.storage.data) for t in tensors}.values())
    require(claimed - held <= MAX_SHARED_BYTES, "tensors claim more numbers than the file holds")
    return [tensor.tensor() for tensor in tensors]


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise UnsafePickleError(f"refused: {problem}")


def _dictionary(value: Any) -> dict:
    require(type(value) is dict, "a module without a dictionary of its parts")
    return value


def shown(name: str) -> str:
    """A name of the file for a message."""
    return repr(name[:80] + "..." if len(name) > 80 else name)
