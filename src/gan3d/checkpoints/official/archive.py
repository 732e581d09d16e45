"""Reads objects written by torch.save (modules, weight averages) as data, without executing them.

torch.save writes a ZIP archive: `<root>/data.pkl`, a pickle, and `<root>/data/<key>`, the numbers
of its storages. The pickle is read by the machine of `official.unpickle`: an object of a class of
`torch.nn`, `torch_ema` or any unknown code becomes a `Record`, its class name and attributes. No
module is imported, no class is instantiated, nothing is called.

    # Record("ExponentialMovingAverage", {"decay": 0.999, ..})
    average = load_objects("ema.pth")
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
    Global,
    Machine,
    StorageInfo,
    errors_as_unsafe_pickle,
    lookup,
)

LOCAL_HEADER = 30  # bytes
LOCAL_SIGNATURE = b"PK\x03\x04"
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    EOFError,
    struct.error,
    ValueError,
)


def load_objects(path: Path | str) -> Any:
    """Reads the content of a file written by torch.save.

    Returns:
        Plain values, Records and StridedTensors.

    Raises:
        UnsafePickleError: the file asks for more than data (named in the message), is broken, or
            was written by torch before 1.6, which made no archives.
    """
    data = memoryview(Path(path).read_bytes())
    with errors_as_unsafe_pickle():
        archive = _Archive(data)
        return Machine(archive.member("data.pkl"), _allowed, archive.storage).run()


class _Archive:
    """The members of a ZIP archive as slices of the file.

    Args:
        data: the file.
    """

    def __init__(self, data: memoryview):
        self.data = data
        self.storages: dict[str, Storage] = {}
        self.bytes_left = len(data)

        # the directory
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self.members = {info.filename: info for info in archive.infolist()}
        except _BROKEN_ARCHIVE as error:
            raise UnsafePickleError(
                f"the file is broken, or was not written by torch.save: {error}"
            ) from error

        # the root folder
        paths = [name.partition("/") for name in self.members]
        roots = [root for root, _, path in paths if path == "data.pkl"]
        require(len(roots) == 1, "an archive that torch.save did not write")
        self.root = roots[0]
        if f"{self.root}/byteorder" in self.members:
            require(bytes(self.member("byteorder")) == b"little", "numbers of another byte order")

    def member(self, name: str) -> memoryview:
        """The bytes of a member below the root."""
        info = self.members.get(f"{self.root}/{name}")
        if info is None:
            raise UnsafePickleError(f"refused: an archive without {shown(name)}")

        # stored as it is
        stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        stored = stored and info.compress_size == info.file_size
        require(stored, "an archive that is compressed or encrypted")

        # behind its local header
        at = info.header_offset
        head = bytes(self.data[at : at + LOCAL_HEADER]) if at >= 0 else b""
        valid = len(head) == LOCAL_HEADER and head[:4] == LOCAL_SIGNATURE
        require(valid, "an archive whose directory is broken")
        start = at + LOCAL_HEADER + sum(struct.unpack("<HH", head[26:30]))
        end = start + info.file_size
        require(end <= len(self.data), "an archive that is shorter than it states")
        return self.data[start:end]

    def storage(self, info: StorageInfo) -> Storage:
        """The numbers of a storage; each key is one storage."""
        known = self.storages.get(info.key)
        if known is not None:
            same = known.dtype == info.dtype and len(known) == info.length
            require(same, "one storage of two kinds")
            return known
        data = self.member(f"data/{info.key}")
        size = info.length * info.dtype.itemsize
        require(len(data) == size, "a storage of another size than the pickle states")
        self.bytes_left -= len(data)
        require(self.bytes_left >= 0, "storages that overlap")
        self.storages[info.key] = Storage(info.dtype, data)
        return self.storages[info.key]


# -- the globals -----------------------------------------------------------------------------------


def _device(machine: Machine, args: tuple) -> str:
    require(1 <= len(args) <= 2 and type(args[0]) is str, "a broken device")
    return args[0]


def _size(machine: Machine, args: tuple) -> tuple:
    require(len(args) == 1 and type(args[0]) in (tuple, list), "a broken size")
    return tuple(args[0])


TABLE: dict[tuple[str, str], Global] = {
    **GLOBALS,
    **STORAGES,
    ("__builtin__", "set"): GLOBALS["builtins", "set"],  # its name in protocol 2
    ("torch", "device"): Global("torch.device", call=_device),
    ("torch", "Size"): Global("torch.Size", call=_size),
}
# Packages whose classes do not become records. (A record is inert; this is a second barrier.)
# fmt: off
FOREIGN = sys.stdlib_module_names | {
    "__builtin__", "__main__", "copy_reg", "numpy", "torch", "gan3d",
}
# fmt: on


def _allowed(module: str, name: str) -> Global:
    """The entry of `TABLE`, or a class that cannot be called and whose instances become records."""
    own_code = module.partition(".")[0] not in FOREIGN
    if (module, name) not in TABLE and (own_code or module.startswith("torch.nn.modules.")):
        return Global(f"{module}.{name}", new=lambda: Record(name))
    return lookup(TABLE, module, name)
