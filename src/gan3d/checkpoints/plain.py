"""Files that hold only data, read without running anything in them: the one place that opens
them.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.official.unpickle import UnsafePickleError

# What torch says of a global that it does not load.
ASKED = re.compile(r"GLOBAL ([^\s\x1b]+)")


def load_plain(path: Path | str, *, mmap: bool = False) -> Any:
    """The content of a file of `torch.save`: tensors, numbers, texts, lists and dictionaries, on
    the CPU.

    Args:
        path: the file.
        mmap: leave the tensors on the disk until they are used.

    Raises:
        UnsafePickleError: the file is broken, or asks for more than that.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,  # of some archives that were cut off
    ) as error:
        if asked := ASKED.search(str(error)):
            raise UnsafePickleError(
                f"{path} asks for {asked[1][:80]!r}, which is no tensor: it is hostile, or was "
                "made by another program; nothing was executed"
            ) from error
        raise UnsafePickleError(
            f"{path} is broken or holds more than tensors, and was not executed: {_problem(error)}"
        ) from error


def _problem(error: BaseException) -> str:
    """The problem alone. Torch puts it behind the advice to execute the file, and keeps the error
    without that advice as the context.
    """
    if isinstance(error, pickle.UnpicklingError) and error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load_safetensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
