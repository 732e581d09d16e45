"""Reads pickled snapshots of official code as data, without executing anything.

A pickle is a program for a stack machine; `pickle.load` lets it import and call anything. The
machine here has its own, smaller instruction set and never imports a name: a global of the file
becomes an entry of the table `GLOBALS`, or the file is refused. Calls of entries make plain values,
`Record` (an object as data: class name and attributes), `Storage` and `StridedTensor` (numbers of
the file, not yet copied).

    snapshot = load("ffhq512-128.pkl")              # dict of Records
    weights = state_dict(snapshot["G_ema"])         # {"backbone.mapping.fc0.weight": tensor, ..}

Memory is bounded by the size of the file: lengths and shapes that the file states are checked
before anything is allocated.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gan3d.checkpoints.official.records import (
    LONGEST_NAME,
    Record,
    Storage,
    StridedTensor,
    UnsafePickleError,
    require,
    shown,
)
from gan3d.checkpoints.official.records import state_dict as state_dict  # for callers

MAX_OPERATIONS = 1_000_000  # published snapshots: about 60,000
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of a legacy torch.save
# What a broken pickle can raise in the machine.
# fmt: off
_BROKEN_PICKLE = (
    ArithmeticError, LookupError, TypeError, ValueError, struct.error, MemoryError, RecursionError,
)
# fmt: on


def load(source: Path | str | bytes) -> Any:
    """Reads the content of a pickle.

    Args:
        source: a file, or its bytes.

    Returns:
        Plain values, Records and StridedTensors; byte strings are memoryviews.

    Raises:
        UnsafePickleError: the file asks for more than data (named in the message), or it is broken.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with errors_as_unsafe_pickle():
        return Machine(memoryview(data), _allowed).run()


@contextmanager
def errors_as_unsafe_pickle() -> Iterator[None]:
    """Turns every error that a broken pickle can cause in the machine into UnsafePickleError."""
    try:
        yield
    except UnsafePickleError:
        raise
    except _BROKEN_PICKLE as error:
        raise UnsafePickleError(
            f"the pickle is broken: {type(error).__name__} while reading it"
        ) from error


# -- the globals -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Global:
    """The meaning of a global name of the file; None where the use is refused."""

    name: str
    call: Callable[[Machine, tuple], Any] | None = None  # the result of a call
    new: Callable[[], Any] | None = None  # an empty instance
    dtype: torch.dtype | None = None  # for a class of storages


@dataclass(eq=False, repr=False, slots=True)
class _DType:
    code: str


def _record_of(machine: Machine, args: tuple) -> Record:
    """torch_utils.persistence; the source code of the module in the file is ignored."""
    (meta,) = args
    is_class = type(meta) is dict and meta.get("type") == "class"
    require(is_class, "a persistent object that is not a class")
    name, state = meta.get("class_name"), meta.get("state")
    complete = type(name) is str and type(state) is dict
    require(complete, "a persistent object without a name or a state")
    return Record(name, state, complete=True)


def _ordered_dict(machine: Machine, args: tuple) -> dict:
    require(len(args) <= 1, "an OrderedDict of several arguments")
    pairs = args[0] if args else []
    require(type(pairs) is list, "a broken OrderedDict")
    require(all(type(p) in (list, tuple) and len(p) == 2 for p in pairs), "a broken OrderedDict")
    return {_key(name): value for name, value in pairs}


def _set(machine: Machine, args: tuple) -> set:
    require(len(args) <= 1 and all(type(items) is list for items in args), "a broken set")
    return {_key(item) for items in args for item in items}


def _tensor(machine: Machine, args: tuple) -> StridedTensor:
    """torch._utils._rebuild_tensor_v2; shape and stride must stay inside the storage."""
    require(6 <= len(args) <= 7 and type(args[0]) is Storage, "a tensor without a storage")
    storage, offset, shape, stride = args[:4]
    require(type(shape) is tuple and type(stride) is tuple, "a tensor's shape")
    require(len(shape) == len(stride) <= 8, "a tensor's shape")
    numbers = (offset, *shape, *stride)
    require(all(type(n) is int and 0 <= n < 2**48 for n in numbers), "a tensor's shape")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride)) if count else offset - 1
    require(count <= len(storage) and last < len(storage), "a tensor larger than its storage")
    return StridedTensor(storage, offset, shape, stride)


def _parameter(machine: Machine, args: tuple) -> StridedTensor:
    require(len(args) == 3 and type(args[0]) is StridedTensor, "a parameter without a tensor")
    return args[0]


def _storage(machine: Machine, args: tuple) -> Storage:
    """torch.storage._load_from_bytes: a legacy torch.save of one storage.

    The file has five pickles (magic number, protocol, system, storage, keys), followed by the
    length and the numbers. It is read by this machine instead of torch.load, so that the same
    limits apply.
    """
    require(len(args) == 1 and type(args[0]) is memoryview, "a storage that is not bytes")
    blob = args[0]
    reader = Machine(blob, _allowed_storage, lambda info: info, machine.operations)

    # header; all storages of a snapshot have the same
    head = machine.storage_head
    if head is not None and blob[: len(head)] == head:
        reader.position = len(head)
    else:
        magic, protocol, system = reader.run(), reader.run(), reader.run()
        valid = type(magic) is int and magic == MAGIC and protocol == PROTOCOL
        require(valid, "a storage not written by torch.save")
        little = type(system) is dict and system.get("little_endian") is True
        require(little, "a storage of another byte order")
        machine.storage_head = blob[: reader.position]

    # numbers
    info, keys = reader.run(), reader.run()
    one = type(info) is StorageInfo and type(keys) is list and keys == [info.key]
    require(one, "a storage without its numbers")
    length = int.from_bytes(reader.take(8), "little")
    require(length == info.length, "a storage whose two lengths differ")
    data = reader.take(length * info.dtype.itemsize)
    require(reader.position == len(blob), "data behind the numbers of a storage")
    machine.operations = reader.operations
    return Storage(info.dtype, data)


def _dtype(machine: Machine, args: tuple) -> _DType:
    known = bool(args) and type(args[0]) is str and args[0] in NUMBERS
    require(known, "a numpy type that is not a number")
    return _DType(args[0])


def _number(machine: Machine, args: tuple) -> int | float | bool:
    """numpy.core.multiarray.scalar, as a Python number."""
    valid = len(args) == 2 and type(args[0]) is _DType and type(args[1]) is memoryview
    require(valid, "a broken numpy number")
    dtype = np.dtype(args[0].code)
    require(len(args[1]) == dtype.itemsize, "a broken numpy number")
    return np.frombuffer(args[1], dtype)[0].item()


NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
GLOBALS: dict[tuple[str, str], Global] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Global(
        "persistent object", call=_record_of
    ),
    ("dnnlib.util", "EasyDict"): Global("EasyDict", new=dict),
    ("collections", "OrderedDict"): Global("OrderedDict", call=_ordered_dict),
    ("builtins", "set"): Global("set", call=_set),  # pickles of protocol 3, Python 3.7
    ("torch._utils", "_rebuild_tensor_v2"): Global("tensor", call=_tensor),
    ("torch._utils", "_rebuild_parameter"): Global("parameter", call=_parameter),
    ("torch.storage", "_load_from_bytes"): Global("storage", call=_storage),
    ("numpy", "dtype"): Global("dtype", call=_dtype),
    ("numpy.core.multiarray", "scalar"): Global("scalar", call=_number),
    ("numpy._core.multiarray", "scalar"): Global("scalar", call=_number),
    ("torch.nn.modules.container", "Sequential"): Global(
        "Sequential", new=lambda: Record("Sequential")
    ),
    ("torch.nn.modules.activation", "Softplus"): Global("Softplus", new=lambda: Record("Softplus")),
}
STORAGES: dict[tuple[str, str], Global] = {
    ("torch", f"{name}Storage"): Global(name, dtype=dtype)
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
    }.items()
}


def _allowed(module: str, name: str) -> Global:
    if module.startswith("training."):  # classes of official code without embedded source
        return Global(name, new=lambda: Record(name))
    return lookup(GLOBALS, module, name)


def _allowed_storage(module: str, name: str) -> Global:
    return lookup(STORAGES, module, name)


def lookup(table: dict[tuple[str, str], Global], module: str, name: str) -> Global:
    found = table.get((module, name))
    if found is None:
        raise UnsafePickleError(
            f"refused: the pickle asks for the global {shown(f'{module}.{name}')}, which no "
            "snapshot needs; nothing was executed. Get the file from its authors, or convert it to "
            "safetensors"
        )
    return found


# -- the machine -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StorageInfo:
    """A storage as the file states it: its type, its key and its number of elements."""

    dtype: torch.dtype
    key: str
    length: int


def _key(value: Any) -> Any:
    """A key that is safe to hash; nested tuples would recurse in C, large integers can collide."""
    if type(value) is str or (type(value) is int and -(2**31) <= value < 2**31) or value is None:
        return value
    raise UnsafePickleError(f"refused: a key of type {type(value).__name__}")


_Operation = Callable[["Machine"], None]
NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
_CODES = {name: code for code, name in NAMES.items()}
_STOP, _PROTO = _CODES["STOP"], _CODES["PROTO"]


def _refuse(m: Machine) -> None:
    code = m.data[m.position - 1]
    raise UnsafePickleError(
        f"refused: the pickle uses {NAMES.get(code, f'code {code}')}, which no snapshot needs"
    )


OPERATIONS: list[_Operation] = [_refuse] * 256  # by code


def _operation(*names: str) -> Callable[[_Operation], _Operation]:
    def enter(function: _Operation) -> _Operation:
        for name in names:
            OPERATIONS[_CODES[name]] = function
        return function

    return enter


class Machine:
    """Reads consecutive pickles from `data`.

    Args:
        data: the bytes.
        find: looks up a global by module and name, or raises.
        persistent: makes a value of a storage outside the pickle; None refuses it.
        operations: maximum number of operations.
    """

    def __init__(
        self,
        data: memoryview,
        find: Callable[[str, str], Global],
        persistent: Callable[[StorageInfo], Any] | None = None,
        operations: int = MAX_OPERATIONS,
    ):
        self.data = data
        self.find = find
        self.persistent = persistent
        self.operations = operations
        self.position = 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}
        self.storage_head: memoryview | None = None  # header of the last storage

    def run(self) -> Any:
        """The value of the pickle at the current position."""
        self.stack, self.outer, self.memo = [], [], {}
        data = self.data
        starts = self.position < len(data) and data[self.position] == _PROTO
        require(starts, "this is not a pickle of protocol 2 to 5")
        for done in range(self.operations):
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                one = len(self.stack) == 1 and not self.outer
                require(one, "a pickle of more than one value")
                self.operations -= done + 1
                return self.stack[0]
            OPERATIONS[code](self)
        raise UnsafePickleError(f"refused: the pickle has more than {MAX_OPERATIONS} operations")

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, checked against the length of the file, not copied."""
        start, end = self.position, self.position + count
        if end > len(self.data):
            raise UnsafePickleError("refused: the pickle reads more bytes than the file has")
        self.position = end
        return self.data[start:end]

    def integer(self, size: int) -> int:
        start = self.position
        if size == 1:
            self.position = start + 1
            return self.data[start]  # IndexError beyond the end is handled in `load`
        return int.from_bytes(self.take(size), "little")

    def marked(self) -> list[Any]:
        """Pops the items above the last mark, and the mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def line(self) -> str:
        end = bytes(self.data[self.position : self.position + LONGEST_NAME]).index(b"\n")
        return str(self.take(end + 1)[:-1], "ascii")


def _pushing(make: Callable[[], Any]) -> _Operation:
    return lambda m: m.stack.append(make())


def _text(size: int) -> _Operation:
    return lambda m: m.stack.append(str(m.take(m.integer(size)), "utf-8"))


def _bytes(size: int) -> _Operation:
    return lambda m: m.stack.append(m.take(m.integer(size)))


def _number_of(size: int) -> _Operation:
    return lambda m: m.stack.append(m.integer(size))


def _put(size: int) -> _Operation:
    return lambda m: m.memo.__setitem__(m.integer(size), m.stack[-1])


def _get(size: int) -> _Operation:
    return lambda m: m.stack.append(m.memo[m.integer(size)])


for _name, _function in {
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_DICT": _pushing(dict),
    "EMPTY_SET": _pushing(set),
    "BININT1": _number_of(1),
    "BININT2": _number_of(2),
    "SHORT_BINUNICODE": _text(1),
    "BINUNICODE": _text(4),
    "BINUNICODE8": _text(8),
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES": _bytes(4),
    "BINBYTES8": _bytes(8),
    "BINPUT": _put(1),
    "LONG_BINPUT": _put(4),
    "BINGET": _get(1),
    "LONG_BINGET": _get(4),
}.items():
    _operation(_name)(_function)


@_operation("PROTO")
def _proto(m: Machine) -> None:
    require(2 <= m.integer(1) <= 5, "a pickle of another protocol than 2 to 5")


@_operation("FRAME")
def _frame(m: Machine) -> None:
    require(m.integer(8) <= len(m.data) - m.position, "a frame that is longer than the file")


@_operation("MARK")
def _mark(m: Machine) -> None:
    m.outer.append(m.stack)
    m.stack = []


@_operation("POP")
def _pop(m: Machine) -> None:
    m.stack.pop()


@_operation("POP_MARK")
def _pop_mark(m: Machine) -> None:
    m.marked()


@_operation("MEMOIZE")
def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


@_operation("BININT")
def _binint(m: Machine) -> None:
    m.stack.append(int.from_bytes(m.take(4), "little", signed=True))


@_operation("LONG1")
def _long1(m: Machine) -> None:
    m.stack.append(int.from_bytes(m.take(m.integer(1)), "little", signed=True))


@_operation("BINFLOAT")
def _binfloat(m: Machine) -> None:
    m.stack.append(struct.unpack(">d", m.take(8))[0])


@_operation("TUPLE1", "TUPLE2", "TUPLE3")
def _short_tuple(m: Machine) -> None:
    count = m.data[m.position - 1] - _CODES["TUPLE1"] + 1
    require(len(m.stack) >= count, "a tuple of more than there is")
    m.stack[-count:] = [tuple(m.stack[-count:])]


@_operation("TUPLE")
def _tuple(m: Machine) -> None:
    items = m.marked()
    m.stack.append(tuple(items))


def _extend(m: Machine, items: list[Any]) -> None:
    require(type(m.stack[-1]) is list, "an item for what is not a list")
    m.stack[-1].extend(items)


@_operation("APPEND")
def _append(m: Machine) -> None:
    _extend(m, [m.stack.pop()])


@_operation("APPENDS")
def _appends(m: Machine) -> None:
    _extend(m, m.marked())


@_operation("ADDITEMS")
def _add_items(m: Machine) -> None:
    items = m.marked()
    require(type(m.stack[-1]) is set, "an item for what is not a set")
    m.stack[-1].update(_key(item) for item in items)


def _update(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    require(type(target) is dict and len(items) % 2 == 0, "an item for what is not a dictionary")
    for k in range(0, len(items), 2):
        target[_key(items[k])] = items[k + 1]


@_operation("SETITEM")
def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _update(m, [key, value])


@_operation("SETITEMS")
def _set_items(m: Machine) -> None:
    _update(m, m.marked())


@_operation("GLOBAL")
def _global(m: Machine) -> None:
    m.stack.append(m.find(m.line(), m.line()))


@_operation("STACK_GLOBAL")
def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    require(type(module) is str and type(name) is str, "a global whose name is not text")
    m.stack.append(m.find(module, name))


@_operation("REDUCE")
def _reduce(m: Machine) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    require(type(function) is Global and type(args) is tuple, "a call of what is not a function")
    if function.call is None:
        raise UnsafePickleError(
            f"refused: the pickle calls {shown(function.name)}; nothing was executed"
        )
    m.stack.append(function.call(m, args))


@_operation("NEWOBJ")
def _newobj(m: Machine) -> None:
    args, cls = m.stack.pop(), m.stack.pop()
    is_class = type(cls) is Global and cls.new is not None and args == ()
    require(is_class, "an instance of what is not a class")
    m.stack.append(cls.new())


@_operation("BUILD")
def _build(m: Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if type(target) is _DType:
        little = type(state) is tuple and len(state) >= 2 and state[1] in ("<", "|", "=")
        require(little, "numbers of another byte order")
        return
    fresh = type(target) is Record and not target.complete
    require(fresh, "a state for what is not a fresh object")
    require(type(state) is dict, "a state that is not a dictionary")
    target.state, target.complete = state, True


@_operation("BINPERSID")
def _persistent(m: Machine) -> None:
    if m.persistent is None:
        raise UnsafePickleError("refused: an object outside the file")
    m.stack.append(m.persistent(_storage_info(m.stack.pop())))


def _storage_info(persistent_id: Any) -> StorageInfo:
    """Reads the persistent id of a storage."""
    valid = type(persistent_id) is tuple and 5 <= len(persistent_id) <= 6
    require(valid and persistent_id[5:] in ((), (None,)), "a broken storage")
    kind, cls, key, location, length = persistent_id[:5]
    require(type(cls) is Global and cls.dtype is not None, "a storage of no type")
    require(kind == "storage" and type(key) is str, "a broken storage")
    require(type(location) is str and type(length) is int, "a broken storage")
    return StorageInfo(cls.dtype, key, length)
