"""A training checkpoint as a folder that all processes of a run write: each its parts of the
sharded tensors, the first one all else.

    kimg-000012.800.ckpt/
        shard-00001-model-00001-of-00001.safetensors    of the first process
        shard-00002-model-00001-of-00001.safetensors    of the second one, and so on
        rest.ckpt                                        all else, and the checksums of the others

The parts are written and read by `torch.distributed.checkpoint`, in its form that holds only data:
nothing in the folder is ever executed. What is read is the checkpoint of one process, whatever the
number of those that wrote it. `training/shard_writer.py` writes it.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gan3d.checkpoints.plain import load_plain

REST = "rest.ckpt"
SHARDS_KEY = "gan3d_shards"  # {"places": [path of keys, ..], "checksums": {file: crc32}}
CHUNK = 1 << 20


def is_sharded_checkpoint(path: Path) -> bool:
    return (path / REST).is_file()


def name_of(place: Sequence[Any]) -> str:
    """The name in the files of the tensor to which these keys lead."""
    return "/".join(map(str, place))


def checksum(path: Path) -> int:
    """crc32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            crc = zlib.crc32(block, crc)
    return crc


def refuse_damaged_shards(folder: Path) -> None:
    """Compares the files of a checkpoint with its checksums; its `REST` is the caller's to check.

    Raises:
        ValueError: one is missing, was cut off, or holds other bits than were written.
    """
    rest = load_plain(folder / REST, mmap=True)
    for name, crc in _facts(rest, folder)["checksums"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ValueError(f"{folder} is not whole: {name} is missing")
        if checksum(path) != crc:
            raise ValueError(f"{folder} is damaged: the checksum of {name} in it is wrong")


def read_shards(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint with whole tensors, on the CPU.

    Raises:
        ValueError: it is broken.
    """
    content = load_plain(folder / REST)
    facts = _facts(content, folder)
    # Here, not above: most programs never need it, and it takes a while.
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        reader = HuggingFaceStorageReader(str(folder))
        tensors: dict[str, Tensor] = {
            name: torch.empty(found.size, dtype=found.properties.dtype)
            for name, found in reader.read_metadata().state_dict_metadata.items()
            if isinstance(found, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            dcp.load(tensors, storage_reader=reader, no_dist=True)
        for place in facts["places"]:
            *way, last = place
            inner: Any = content
            for key in way:
                inner = inner[key]
            inner[last] = tensors[name_of(place)]
    except (SafetensorError, LookupError, TypeError, OSError, RuntimeError) as error:
        raise ValueError(f"{folder} is broken: {error!r}") from error
    except dcp.CheckpointException as error:
        raise ValueError(f"{folder} is broken: {error.failures}") from error
    return content


def _facts(rest: Any, folder: Path) -> dict[str, Any]:
    facts = rest.get(SHARDS_KEY) if isinstance(rest, dict) else None
    if not (isinstance(facts, dict) and facts.keys() >= {"places", "checksums"}):
        raise ValueError(f"{folder / REST} does not say which parts belong to it")
    return facts
