"""Writing a checkpoint as a folder of parts (gan3d.checkpoints.shards describes it)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from gan3d.checkpoints.shards import SHARDS_KEY, checksum, name_of

PATTERN = "shard-{:05d}-*.safetensors"  # those of a process, counted from 1


def write_shards(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the parts of all sharded tensors of a checkpoint; all processes call it.

    Args:
        content: of the checkpoint, with DTensors.
        folder: what is in it is removed.

    Returns:
        the rest, which the first process is to write to `folder / REST`.

    Raises:
        CheckpointException: on all processes, if one of them could not write.
    """
    if dist.get_rank() == 0 and folder.exists():
        shutil.rmtree(folder)
    dist.barrier()
    sharded = dict(_sharded(content))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save({name_of(place): tensor for place, tensor in sharded.items()}, storage_writer=writer)

    own = {path.name: checksum(path) for path in folder.glob(PATTERN.format(dist.get_rank() + 1))}
    found: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, own)
    sums = {name: crc for of_one in found for name, crc in of_one.items()}
    rest = _without_sharded(content)
    return rest | {SHARDS_KEY: {"places": [list(place) for place in sharded], "checksums": sums}}


def _sharded(value: Any, place: tuple = ()) -> Iterator[tuple[tuple, DTensor]]:
    """The sharded tensors in nested dictionaries and lists, by the keys that lead to them."""
    if isinstance(value, DTensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _sharded(item, (*place, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _sharded(item, (*place, index))


def _without_sharded(value: Any) -> Any:
    """The same with None in place of sharded tensors."""
    if isinstance(value, DTensor):
        return None
    if isinstance(value, Mapping):
        return {key: _without_sharded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_sharded(item) for item in value)
    return value
