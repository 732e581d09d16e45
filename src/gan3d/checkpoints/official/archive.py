"""Reads whole objects that torch.save wrote (modules, weight averages) as data, without executing
anything.

torch.save writes a ZIP archive: `<root>/data.pkl`, a pickle, and `<root>/data/<key>`, the numbers
of its storages. The pickle is read by the machine of `checkpoints.unpickle`: an object of a class
of the file's own code, of `torch.nn` or `torch_ema` becomes a `Record`, its name and attributes. No
module is imported, no class is made, nothing is called.

    average = load_objects("ema.pth")                   # Record("ExponentialMovingAverage", {"decay": 0.999, ..})
    weights = state_dict(load_objects("generator.pth"))

Nothing is decompressed (torch.save does not compress), and all storages together are not larger
than the file.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

from gan3d.checkpoints.official.records import Record, Storage, UnsafePickleError, require, shown
from gan3d.checkpoints.official.unpickle import (
    GLOBALS,
    STORAGES,
    Claim,
    Global,
    Machine,
    lookup,
    refusing_what_is_broken,
)

LOCAL_HEADER, LOCAL_SIGNATURE = 30, b"PK\x03\x04"


def load_objects(path: Path | str) -> Any:
    """What a file of torch.save describes.

    Returns:
        plain values, Records and StridedTensors.

    Raises:
        UnsafePickleError: the file asks for more than data (named in the message), it is broken, or
            it is of a torch before 1.6, which wrote no archive.
    """
    data = memoryview(Path(path).read_bytes())
    with refusing_what_is_broken():
        archive = _Archive(data)
        return Machine(archive.member("data.pkl"), _allowed, archive.storage).run()


class _Archive:
    """The members of a ZIP archive as slices of the file.

    Args:
        data: the file.
    """

    def __init__(self, data: memoryview):
        self.data, self.storages, self.bytes_left = data, dict[str, Storage](), len(data)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self.members = {info.filename: info for info in archive.infolist()}
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            OSError,
            EOFError,
            struct.error,
            ValueError,
        ) as error:
            raise UnsafePickleError(
                f"the file is broken, or not one of torch.save: {error}"
            ) from error
        roots = [
            name.partition("/")[0] for name in self.members if name.partition("/")[2] == "data.pkl"
        ]
        require(len(roots) == 1, "an archive that torch.save did not write")
        self.root = roots[0]
        if f"{self.root}/byteorder" in self.members:
            require(bytes(self.member("byteorder")) == b"little", "numbers of another byte order")

    def member(self, name: str) -> memoryview:
        """The bytes of a member below the root."""
        info = self.members.get(f"{self.root}/{name}")
        if info is None:
            raise UnsafePickleError(f"refused: an archive without {shown(name)}")
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        require(
            stored and info.compress_size == info.file_size,
            "an archive that is compressed or encrypted",
        )
        at = info.header_offset
        head = bytes(self.data[at : at + LOCAL_HEADER]) if at >= 0 else b""
        require(
            len(head) == LOCAL_HEADER and head[:4] == LOCAL_SIGNATURE,
            "an archive whose directory is broken",
        )
        start = at + LOCAL_HEADER + sum(struct.unpack("<HH", head[26:30]))
        require(start + info.file_size <= len(self.data), "an archive that is shorter than it says")
        return self.data[start : start + info.file_size]

    def storage(self, claim: Claim) -> Storage:
        """The numbers of a storage; one key is one storage."""
        known = self.storages.get(claim.key)
        if known is not None:
            require(
                known.dtype == claim.dtype and len(known) == claim.length,
                "one storage of two kinds",
            )
            return known
        data = self.member(f"data/{claim.key}")
        require(
            len(data) == claim.length * claim.dtype.itemsize,
            "a storage that claims more or less than it holds",
        )
        self.bytes_left -= len(data)
        require(self.bytes_left >= 0, "storages that lie on top of each other")
        self.storages[claim.key] = Storage(claim.dtype, data)
        return self.storages[claim.key]


# ------------------------------------------------------------ the globals


def _device(machine: Machine, args: tuple) -> str:
    require(1 <= len(args) <= 2 and type(args[0]) is str, "a broken device")
    return args[0]


def _size(machine: Machine, args: tuple) -> tuple:
    require(len(args) == 1 and type(args[0]) in (tuple, list), "a broken size")
    return tuple(args[0])


TABLE: dict[tuple[str, str], Global] = {
    **GLOBALS,
    **STORAGES,
    ("__builtin__", "set"): GLOBALS["builtins", "set"],  # as Python 3 names it in protocol 2
    ("torch", "device"): Global("torch.device", call=_device),
    ("torch", "Size"): Global("torch.Size", call=_size),
}
# Names that are never a class of the file's own code. A record of them would be as inert as any.
FOREIGN = sys.stdlib_module_names | {
    "__builtin__",
    "__main__",
    "copy_reg",
    "numpy",
    "torch",
    "gan3d",
}


def _allowed(module: str, name: str) -> Global:
    """A class whose instances become records, and which can not be called; or what the table
    says.
    """
    own_code = module.partition(".")[0] not in FOREIGN
    if (module, name) not in TABLE and (own_code or module.startswith("torch.nn.modules.")):
        return Global(f"{module}.{name}", new=lambda: Record(name))
    return lookup(TABLE, module, name)
