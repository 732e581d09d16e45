"""Pickled objects as data: class names, attributes and numbers, without making the objects.

`official.unpickle` and `official.archive` read files into these types; `state_dict` extracts the
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
MAX_DEPTH = 32  # of nested modules
MAX_SHARED_BYTES = 2**26  # of further tensors on one storage
LONGEST_NAME = 512


class UnsafePickleError(ValueError):
    """A pickle is refused because it asks for more than data, or because it is broken."""


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """An object of the file as data: the name of its class, and its attributes."""

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Storage:
    """Numbers of one type, a slice of the file."""

    dtype: torch.dtype
    data: memoryview

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize

    def tensor(self) -> Tensor:
        """A copy."""
        if not self.data:
            return torch.empty(0).to(self.dtype)
        return torch.frombuffer(bytearray(self.data), dtype=self.dtype)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StridedTensor:
    """A tensor of the file, not yet copied: element i is storage[offset + sum(i * stride)]."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def tensor(self) -> Tensor:
        """A contiguous copy."""
        return self.storage.tensor().as_strided(self.shape, self.stride, self.offset).contiguous()


def state_dict(record: Record) -> dict[str, Tensor]:
    """The state dict of a module's record, in the order of the module's own `state_dict()`.

    Raises:
        UnsafePickleError: the record is not a module, or has more modules or numbers than the file
            holds.
    """
    found: dict[str, StridedTensor] = {}
    modules = [(record, "", 0)]
    count = 0
    while modules:
        module, prefix, depth = modules.pop()
        require(type(module) is Record, f"{shown(prefix)} is not a module")
        children = _dictionary(module.state.get("_modules", {}))
        count += len(children)
        require(depth < MAX_DEPTH and count < MAX_MODULES, "modules are nested without end")

        # its own tensors
        left_out = module.state.get("_non_persistent_buffers_set", set())
        require(type(left_out) in (set, list), "the names of non-persistent buffers are not a set")
        for kind in ("_parameters", "_buffers"):
            for name, value in _dictionary(module.state.get(kind, {})).items():
                if value is None or (kind == "_buffers" and name in left_out):
                    continue
                is_tensor = type(name) is str and type(value) is StridedTensor
                require(is_tensor, f"{shown(prefix)} holds more than tensors")
                found[prefix + name] = value

        # its modules; the last one is visited last
        for name, child in reversed(children.items()):
            if child is not None:
                is_name = type(name) is str and len(prefix) < LONGEST_NAME
                require(is_name, "a module has no valid name")
                modules.append((child, f"{prefix}{name}.", depth + 1))
    return dict(zip(found, copies(list(found.values()))))


def copies(tensors: Sequence[StridedTensor]) -> list[Tensor]:
    """Copies of tensors.

    Raises:
        UnsafePickleError: the tensors have many more numbers than their storages hold.
    """
    needed = sum(t.nbytes for t in tensors)
    held = sum({id(t.storage): len(t.storage.data) for t in tensors}.values())
    require(needed - held <= MAX_SHARED_BYTES, "tensors have more numbers than the file holds")
    return [tensor.tensor() for tensor in tensors]


def require(condition: bool, problem: str) -> None:
    """Raises UnsafePickleError unless the condition holds."""
    if not condition:
        raise UnsafePickleError(f"refused: {problem}")


def _dictionary(value: Any) -> dict:
    require(type(value) is dict, "a module without a dictionary of its parts")
    return value


def shown(name: str) -> str:
    """A name of the file, shortened for a message."""
    return repr(name[:80] + "..." if len(name) > 80 else name)
