"""The files of a data set, in a folder or in a zip: listed once, read by name, never extracted.

Convention: a name is a path relative to the root of the set, with '/', as in dataset.json.
"""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any

MAX_MEMBER_BYTES = 2**30


class DataError(ValueError):
    """Something is wrong with the data; the message names the archive, the file in it, and what to
    do.
    """

    def __init__(self, message: str):
        # torch re-raises the exception of a data worker as type("Caught ... Original Traceback ...
        # <name>: <message>"). The message is for the user, the worker's stack is not.
        relayed = message.startswith(f"Caught {type(self).__name__} in ")
        super().__init__(
            message.rpartition(f"{type(self).__name__}: ")[2].rstrip() if relayed else message
        )


class Archive(ABC):
    """A read-only set of named files. Pickles, and survives a fork: nothing open is shared between
    processes.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names: list[str] = sorted(name for name in self._list() if not _is_junk(name))

    @abstractmethod
    def _list(self) -> list[str]: ...

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file. Raises: DataError, naming archive and file, where it can not be read."""

    def _unreadable(self, name: str, why: object) -> DataError:
        return DataError(
            f"{self.path}: can not read {name} ({why}); replace the file, or copy the data set "
            "again"
        )


class FolderArchive(Archive):
    """A folder and all that lies below it."""

    def _list(self) -> list[str]:
        names = []
        for folder, _, files in os.walk(self.path, onerror=self._refuse):
            names += [(Path(folder) / file).relative_to(self.path).as_posix() for file in files]
        return names

    def _refuse(self, error: OSError) -> None:
        raise DataError(
            f"{self.path}: can not list {error.filename} ({error.strerror}); check its permissions"
        )

    def read(self, name: str) -> bytes:
        try:
            file = self.path / name
            if file.stat().st_size > MAX_MEMBER_BYTES:
                raise self._unreadable(
                    name, f"{file.stat().st_size} bytes, the limit is {MAX_MEMBER_BYTES}"
                )
            return file.read_bytes()
        except OSError as error:
            raise self._unreadable(name, error.strerror) from error


class ZipArchive(Archive):
    """A zip file, opened when first needed, once per process."""

    def __init__(self, path: Path):
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        super().__init__(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_pid": -1}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker would share the parent's file position, and read another member's bytes.
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                raise DataError(
                    f"{self.path} is not a zip archive, or was cut short ({error}); copy or "
                    "download it again"
                ) from error
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
            size = archive.getinfo(name).file_size
            if size > MAX_MEMBER_BYTES:
                raise self._unreadable(
                    name, f"{size} bytes unpacked, the limit is {MAX_MEMBER_BYTES}"
                )
            return archive.read(name)
        except KeyError as error:
            raise self._unreadable(name, "no such file in the zip") from error
        # RuntimeError: encrypted; NotImplementedError: a compression that Python does not know.
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            OSError,
            EOFError,
            RuntimeError,
        ) as error:
            raise self._unreadable(name, error) from error


def open_archive(path: str | Path) -> Archive:
    """The folder or zip at `path` ('~' is the home folder).

    Raises:
        DataError: where there is neither.
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
    """Files in a zip, stored: PNGs do not shrink, and a reader can seek. Fixed dates: equal data,
    equal bytes.
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
