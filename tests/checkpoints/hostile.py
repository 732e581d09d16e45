"""Pickles to try a reader with: laid out like official snapshots, mutated, and watched while they are read.

Not a test; the tests read it by runpy, because test folders are no packages.
"""

import contextlib
import pickle
import pickletools
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

BOOBY_TRAP = "raise RuntimeError('the embedded source was executed')\n"
EVENTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "import",
    "exec",
    "compile",
    "pickle.find_class",
    "marshal.",
    "code.__new__",
)


def _audit(event: str, args: tuple) -> None:
    seen = getattr(sys, "_gan3d_seen", None)  # on sys: hooks stay for good, and runpy makes copies of this module
    if seen is not None and (event.startswith(EVENTS) or (event == "open" and str(args[1]).strip("rb"))):
        seen.append(f"{event} {args!r}"[:200])


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """What Python's audit hooks report of calls, imports, processes and writes while the block runs."""
    if not hasattr(sys, "_gan3d_seen"):
        sys.addaudithook(_audit)
    sys._gan3d_seen = found = []  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        sys._gan3d_seen = None  # type: ignore[attr-defined]


class Persistent:
    """Pickles like an object of torch_utils.persistence."""

    def __init__(self, class_name: str, state: dict[str, Any]):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {"type": "class", "version": 6, "module_src": BOOBY_TRAP, "class_name": self.class_name}
        return function, ({**meta, "state": self.state},)


def persistent(module: nn.Module, attributes: dict[str, dict[str, Any]] | None = None, path: str = "") -> Persistent:
    """A module as official code would pickle it; attributes by the dotted path of their module."""
    state = {name: getattr(module, name) for name in ("_parameters", "_buffers", "_non_persistent_buffers_set")}
    children = {
        name: None if child is None else persistent(child, attributes, f"{path}.{name}" if path else name)
        for name, child in module._modules.items()
    }
    return Persistent(type(module).__name__, {**state, "_modules": children, **(attributes or {}).get(path, {})})


def snapshot(content: dict[str, Any], protocol: int = 4) -> bytes:
    """A pickle of official layout."""
    parent, child = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        exec(meta["module_src"])

    _reconstruct_persistent_obj.__module__ = child.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    child._reconstruct_persistent_obj = _reconstruct_persistent_obj
    kept = {name: sys.modules.get(name) for name in (parent.__name__, child.__name__)}
    sys.modules |= {parent.__name__: parent, child.__name__: child}
    try:
        return pickle.dumps(content, protocol)
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Flipped bytes, deletions, insertions and swapped opcodes, one to three of them each; seeded."""
    draw = random.Random(seed)
    codes = [ord(op.code) for op in pickletools.opcodes]
    opcodes = [position for _, _, position in pickletools.genops(data)]
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            kind, at = draw.randrange(6), draw.randrange(len(changed))
            if kind == 0:
                changed[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del changed[at : at + draw.choice((1, 1, 4, 50))]
            elif kind == 2:
                changed[at:at] = draw.randbytes(draw.choice((1, 1, 4, 50)))
            elif kind == 3:
                changed[min(draw.choice(opcodes), len(changed) - 1)] = draw.choice(codes)
            elif kind == 4:
                source = draw.randrange(len(data))
                changed[at:at] = data[source : source + draw.randrange(200)]
            else:
                changed[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"))
            if not changed:
                changed = bytearray(b".")
        yield bytes(changed)
