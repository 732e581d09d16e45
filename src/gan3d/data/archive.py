"""The files of a data set, in a folder or a zip: listed once, read by name, never extracted.

Convention: a name is a path relative to the root of the set, separated by '/', as in dataset.json.
"""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any

MAX_MEMBER_BYTES = 2**30
# A member that is larger than this, and packed by more than this factor, holds nothing.
BOMB_BYTES, BOMB_RATIO = 2**24, 100
SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What zipfile raises for a damaged member. RuntimeError: it is encrypted; its subclass
# NotImplementedError: Python does not support the compression method.
_BROKEN_MEMBER = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    RuntimeError,
)


class DataError(ValueError):
    """Invalid data. The message names the archive, the file in it, and how to repair it."""

    def __init__(self, message: str):
        # torch re-raises the exception of a data worker as
        #     type("Caught ... Original Traceback ... <name>: <message>").
        # Only the original message helps the user; the worker's stack is dropped.
        name = type(self).__name__
        if message.startswith(f"Caught {name} in "):
            message = message.rpartition(f"{name}: ")[2].rstrip()
        super().__init__(message)


class Archive(ABC):
    """A read-only set of named files.

    It can be pickled and forked: processes share no open file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names: list[str] = sorted(name for name in self._list() if not _is_junk(name))
        for name in self.names:
            if not name.isprintable():
                raise DataError(
                    f"{path}: the file name {ascii(name)[:80]} has characters that cannot be "
                    "printed; rename it"
                )

    @abstractmethod
    def _list(self) -> list[str]: ...

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Returns the whole file.

        Raises:
            DataError: the file cannot be read.
        """

    @abstractmethod
    def stamp(self, name: str) -> tuple[int, ...]:
        """Numbers in which files of different content mostly differ, without reading them: the size
        and, in a zip, the checksum.
        """

    def _unreadable(self, name: str, why: object) -> DataError:
        return DataError(
            f"{self.path}: cannot read {name} ({why}); replace the file, or copy the data set again"
        )


class FolderArchive(Archive):
    """A folder and everything below it."""

    def _list(self) -> list[str]:
        names = []
        for folder, _, files in os.walk(self.path, onerror=self._raise_unlistable):
            for file in files:
                path = Path(folder) / file
                name = path.relative_to(self.path).as_posix()
                if not _is_junk(name):
                    self._refuse_special(path, path.lstat().st_mode)
                names.append(name)
        return names

    def _refuse_special(self, path: Path, mode: int) -> None:
        """Refuses what is no file: reading a pipe or a device does not end."""
        kind = next((kind for is_kind, kind in SPECIAL if is_kind(mode)), None)
        if kind is not None:
            raise DataError(f"{self.path}: {path.name!r} is {kind}, no file; take it out")

    def _raise_unlistable(self, error: OSError) -> None:
        raise DataError(
            f"{self.path}: cannot list {error.filename} ({error.strerror}); check its permissions"
        )

    def read(self, name: str) -> bytes:
        try:
            file = self.path / name
            state = file.stat()  # of what a link points to
            self._refuse_special(file, state.st_mode)
            size = state.st_size
            if size > MAX_MEMBER_BYTES:
                raise self._unreadable(name, f"{size} bytes, the limit is {MAX_MEMBER_BYTES}")
            return file.read_bytes()
        except OSError as error:
            raise self._unreadable(name, error.strerror) from error

    def stamp(self, name: str) -> tuple[int, ...]:
        try:
            return ((self.path / name).stat().st_size,)
        except OSError as error:
            raise self._unreadable(name, error.strerror) from error


class ZipArchive(Archive):
    """A zip file, opened on first use, once per process."""

    def __init__(self, path: Path):
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        super().__init__(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_pid": -1}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share the parent's file position and read another member's bytes.
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                raise DataError(
                    f"{self.path} is not a zip archive, or was cut short ({error}); copy or "
                    "download it again"
                ) from error
            self._pid = os.getpid()
        return self._zip

    def _list(self) -> list[str]:
        names = [info.filename for info in self._open().infolist() if not info.is_dir()]
        for name in names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
                raise DataError(
                    f"{self.path}: unsafe file name {name!r} (absolute, with '..' or '\\'); zip it "
                    "again"
                )
        return names

    def read(self, name: str) -> bytes:
        archive = self._open()
        try:
            info = archive.getinfo(name)
            size = info.file_size
            if size > BOMB_BYTES and size > BOMB_RATIO * info.compress_size:
                raise self._unreadable(name, f"a bomb: {info.compress_size} bytes make {size}")
            if size > MAX_MEMBER_BYTES:
                why = f"{size} bytes unpacked, the limit is {MAX_MEMBER_BYTES}"
                raise self._unreadable(name, why)
            return archive.read(name)
        except KeyError as error:
            raise self._unreadable(name, "no such file in the zip") from error
        except _BROKEN_MEMBER as error:
            raise self._unreadable(name, error) from error

    def stamp(self, name: str) -> tuple[int, ...]:
        info = self._open().getinfo(name)
        return info.file_size, info.CRC


def open_archive(path: str | Path) -> Archive:
    """Opens the folder or zip at `path` ('~' is the home folder).

    Raises:
        DataError: there is neither.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        return FolderArchive(path)
    if path.is_file():
        return ZipArchive(path)
    raise DataError(
        f"no data set at {path}: expected a folder or a .zip of square images with a dataset.json; "
        f"`gan3d data heads --out {path}` makes the procedural heads, docs/data.md says how to "
        "bring FFHQ"
    )


def _is_junk(name: str) -> bool:
    """Files that operating systems leave behind (.DS_Store, ._name, __MACOSX/)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class StoredZip:
    """Writes files into an uncompressed zip: PNGs do not shrink, and a reader can seek.

    All dates are fixed, so equal data gives equal bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> StoredZip:
        self.file = zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED)
        return self

    def put(self, name: str, data: bytes) -> None:
        self.file.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)

    def __exit__(self, *_: object) -> None:
        self.file.close()
