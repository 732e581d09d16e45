"""Official-looking and hostile files to test readers with, and a watch on what readers do.

Not a test; the tests load it with runpy, because test folders are not packages.
"""

import contextlib
import io
import pickle
import pickletools
import random
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BOOBY_TRAP = "raise RuntimeError('the embedded source was executed')\n"
# fmt: off
EVENTS = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir",
    "subprocess.", "socket.", "shutil.", "ctypes.", "import", "exec", "compile",
    "pickle.find_class", "marshal.", "code.__new__",
)
# fmt: on


def _audit(event: str, args: tuple) -> None:
    # The list is an attribute of sys: hooks are permanent, and runpy makes copies of this module.
    seen = getattr(sys, "_gan3d_seen", None)
    writes = event == "open" and bool(str(args[1]).strip("rb"))
    if seen is not None and (event.startswith(EVENTS) or writes):
        seen.append(f"{event} {args!r}"[:200])


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """Calls, imports, processes and writes in the block, as reported by Python's audit hooks."""
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
        self.class_name = class_name
        self.state = state

    def __reduce__(self):
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {
            "type": "class",
            "version": 6,
            "module_src": BOOBY_TRAP,
            "class_name": self.class_name,
            "state": self.state,
        }
        return function, (meta,)


def persistent(
    module: nn.Module, attributes: dict[str, dict[str, Any]] | None = None, path: str = ""
) -> Persistent:
    """A module as official code would pickle it; attributes by the dotted path of their module."""
    kinds = ("_parameters", "_buffers", "_non_persistent_buffers_set")
    state: dict[str, Any] = {name: getattr(module, name) for name in kinds}
    state["_modules"] = children = {}
    for name, child in module._modules.items():
        inner = f"{path}.{name}" if path else name
        children[name] = None if child is None else persistent(child, attributes, inner)
    return Persistent(type(module).__name__, {**state, **(attributes or {}).get(path, {})})


def snapshot(content: dict[str, Any], protocol: int = 4) -> bytes:
    """A pickle of official layout."""

    def _reconstruct_persistent_obj(meta):
        exec(meta["module_src"])

    with standing_in("torch_utils.persistence", _reconstruct_persistent_obj):
        return pickle.dumps(content, protocol)


@contextlib.contextmanager
def standing_in(path: str, thing: Any) -> Iterator[None]:
    """Lets imports from the module `path` find `thing`, a function or a class, in the block."""
    thing.__module__, thing.__qualname__ = path, thing.__name__
    words = path.split(".")
    names = [".".join(words[: i + 1]) for i in range(len(words))]
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules |= {name: types.ModuleType(name) for name in names}
    setattr(sys.modules[path], thing.__name__, thing)
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def saved_module(state: Mapping[str, Tensor], path: str, name: str, **attributes: Any) -> bytes:
    """torch.save of a module of class `path.name`, with these parameters in plain nn.Modules."""
    root = type(name, (nn.Module,), {})()
    for key, tensor in state.items():
        *words, last = key.split(".")
        module = root
        for word in words:
            if word not in module._modules:
                module.add_module(word, nn.Module())
            module = module._modules[word]
        module.register_parameter(last, nn.Parameter(tensor))
    root.__dict__ |= attributes
    with standing_in(path, type(root)):
        return saved(root)


def saved_average(tensors: Sequence[Tensor], **attributes: Any) -> bytes:
    """torch.save of a torch_ema.ExponentialMovingAverage."""
    average = type("ExponentialMovingAverage", (), {})()
    average.__dict__ |= {
        "decay": 0.999,
        "num_updates": 7,
        "shadow_params": list(tensors),
        "collected_params": [],
    }
    average.__dict__ |= attributes
    with standing_in("torch_ema.ema", type(average)):
        return saved(average)


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def rewritten(
    archive: bytes, changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """The ZIP archive with changed members, by the ends of their names; None removes one."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(file, "w", compression) as new,
    ):
        for name in old.namelist():
            data: bytes | None = old.read(name)
            for end, other in changes.items():
                data = other if name.endswith(end) else data
            if data is not None:
                new.writestr(name, data)
    return file.getvalue()


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies with one to three flipped bits, deletions, insertions or swapped opcodes each."""
    draw = random.Random(seed)
    codes = [ord(op.code) for op in pickletools.opcodes]
    opcodes = [position for _, _, position in pickletools.genops(data)]
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            kind = draw.randrange(6)
            at = draw.randrange(len(changed))
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
                extremes = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f")
                changed[at : at + 4] = draw.choice(extremes)
            if not changed:
                changed = bytearray(b".")
        yield bytes(changed)
