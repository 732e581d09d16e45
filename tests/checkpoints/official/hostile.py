"""Files to try a reader with: laid out like official ones, mutated, and watched while they are
read.

Not a test; the tests read it by runpy, because test folders are no packages.
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
    seen = getattr(
        sys, "_gan3d_seen", None
    )  # on sys: hooks stay for good, and runpy makes copies of this module
    if seen is not None and (
        event.startswith(EVENTS) or (event == "open" and str(args[1]).strip("rb"))
    ):
        seen.append(f"{event} {args!r}"[:200])


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """What Python's audit hooks report of calls, imports, processes and writes while the block
    runs.
    """
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
        meta = {
            "type": "class",
            "version": 6,
            "module_src": BOOBY_TRAP,
            "class_name": self.class_name,
        }
        return function, ({**meta, "state": self.state},)


def persistent(
    module: nn.Module, attributes: dict[str, dict[str, Any]] | None = None, path: str = ""
) -> Persistent:
    """A module as official code would pickle it; attributes by the dotted path of their module."""
    state = {
        name: getattr(module, name)
        for name in ("_parameters", "_buffers", "_non_persistent_buffers_set")
    }
    children = {
        name: None
        if child is None
        else persistent(child, attributes, f"{path}.{name}" if path else name)
        for name, child in module._modules.items()
    }
    return Persistent(
        type(module).__name__, {**state, "_modules": children, **(attributes or {}).get(path, {})}
    )


def snapshot(content: dict[str, Any], protocol: int = 4) -> bytes:
    """A pickle of official layout."""

    def _reconstruct_persistent_obj(meta):
        exec(meta["module_src"])

    with standing_in("torch_utils.persistence", _reconstruct_persistent_obj):
        return pickle.dumps(content, protocol)


@contextlib.contextmanager
def standing_in(path: str, thing: Any) -> Iterator[None]:
    """While the block runs, `thing` (a function or a class) is what an import of it from the module
    `path` gives.
    """
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
    """torch.save of a module of class `path.name` with these parameters; inner modules are plain
    ones of torch.
    """
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
    """The ZIP archive with other contents of these members (by the end of their names); None leaves
    one out.
    """
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
    """Flipped bytes, deletions, insertions and swapped opcodes, one to three of them each;
    seeded.
    """
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
                changed[at : at + 4] = draw.choice(
                    (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f")
                )
            if not changed:
                changed = bytearray(b".")
        yield bytes(changed)
