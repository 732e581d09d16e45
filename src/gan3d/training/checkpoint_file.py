"""A checkpoint becomes a file: nothing that is not finite is saved, and a file is whole or not
there.

It is written beside its place, straight to the disk (Lightning makes a copy in memory and another
one in TMPDIR), flushed, read back by its checksums, and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from gan3d.checkpoints.runs import refuse_damaged
from gan3d.checkpoints.shards import REST, is_sharded_checkpoint, read_shards
from gan3d.training.nan_guard import NonFiniteError
from gan3d.training.shard_writer import write_shards
from gan3d.training.sharding import parts


class NotSavedError(OSError):
    """A checkpoint could not be written."""


class WholeFileIO(TorchCheckpointIO):
    """Lightning's reader, with `write_checked` as the writer.

    Only the first process writes, and all processes meet after it: an error is kept for
    `take_error`, as raising it here would leave the others waiting.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None
    ) -> None:
        try:
            refuse_non_finite(checkpoint)
            write_checked(checkpoint, Path(path))
        except (OSError, ArithmeticError, ValueError) as error:
            self._error = error

    def save_shards(self, checkpoint: dict[str, Any], folder: Path) -> None:
        """Writes a checkpoint with sharded tensors as a folder, to which all processes add."""
        try:
            bad = over_all(non_finite(checkpoint))
            refuse_names(bad)
            rest = write_shards(checkpoint, folder)
            if dist.get_rank() == 0:
                write_checked(rest, folder / REST)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))
            problem = _reason(first[0] if isinstance(first, tuple) else first)
            self._error = NotSavedError(f"{problem}{_room(checkpoint, folder.parent)}")
        except (OSError, ArithmeticError, ValueError) as error:
            self._error = error
        if self._error is not None and dist.get_rank() == 0:  # nothing half is left
            shutil.rmtree(folder, ignore_errors=True)

    def load_checkpoint(
        self,
        path: Path | str,
        map_location: Callable | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        if is_sharded_checkpoint(Path(path)):
            return read_shards(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)

    def take_error(self) -> Exception | None:
        error, self._error = self._error, None
        return error


def write_checked(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint, flushes it to the disk, and checks what lies there.

    Raises:
        NotSavedError: it could not be written; nothing of it is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        refuse_damaged(path)
    except (OSError, RuntimeError, ValueError) as error:
        problem = _reason(error)
        path.unlink(missing_ok=True)
        raise NotSavedError(f"{problem}{_room(content, path.parent)}") from error


def _reason(error: BaseException) -> str:
    """What the system said: torch raises an error of its own over it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if cause is None:
        return str(error).splitlines()[0]
    return cause.strerror or str(cause)


def _room(content: Mapping[str, Any], folder: Path) -> str:
    needed = sum(
        tensor.untyped_storage().nbytes() for _, t in _tensors(content) for tensor in parts([t])
    )
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # the folder is gone, too
        return f" (it needs {needed:,} bytes)"
    return f" (it needs {needed:,} bytes; {free:,} are free there)"


def refuse_non_finite(content: Mapping[str, Any]) -> None:
    """Checks all weights, averages and the state of the optimizers.

    Raises:
        NonFiniteError: naming the first tensors that hold NaN or infinity.
    """
    refuse_names(non_finite(content))


def refuse_names(bad: Sequence[str]) -> None:
    """Refuses a checkpoint whose tensors of some names are not finite."""
    if bad:
        names = [name.removeprefix("state_dict.") for name in bad]
        more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
        raise NonFiniteError(f"{', '.join(names[:3])}{more} is not finite")


def over_all(names: list[str]) -> list[str]:
    """Names that any process has, on all of them."""
    found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, names)
    return list(dict.fromkeys(name for of_one in found for name in of_one))


def non_finite(content: Mapping[str, Any]) -> list[str]:
    """Names of the weights, averages and states of optimizers that hold NaN or infinity; of sharded
    ones in this process's part.
    """
    checked = {key: content[key] for key in ("state_dict", "optimizer_states") if key in content}
    named = [
        (name, part)
        for name, t in _tensors(checked)
        for part in parts([t])
        if part.is_floating_point() and part.numel()
    ]
    bad: list[str] = []
    for device in {t.device for _, t in named}:
        some = [(name, t) for name, t in named if t.device == device]
        finite = torch.stack([torch.isfinite(t).all() for _, t in some]).tolist()  # one reading
        bad += [name for (name, _), is_finite in zip(some, finite, strict=True) if not is_finite]
    return bad


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries and lists, by their path."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}")
