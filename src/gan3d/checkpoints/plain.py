"""Files that hold only data, read without running anything in them: the one place that opens
them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.official.unpickle import UnsafePickleError


def load_plain(path: Path | str) -> Any:
    """The content of a file of `torch.save`: tensors, numbers, texts, lists and dictionaries, on
    the CPU.

    Raises:
        UnsafePickleError: the file is broken, or asks for more than that.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsafePickleError(
            f"{path} is broken or holds more than tensors, and was not executed: {problem}"
        ) from error


def load_safetensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
