"""Host and device: numbers that go from one to the other without anybody waiting.

A device works through what the host has queued. Reading a number from it, and copying ordinary
memory of the host to it, waits until all of that is done; the device then waits for the host. So a
training iteration reads once, at its end, and

    upload      copies small tensors through pinned memory, where there is CUDA
    constant    fills constants on the device
    number      is what the host knows of a counter of the device
    free_memory is what the host knows of the device's memory
    unshared_memory is what other processes leave of it
    kind_of     says what a device is, also a pretended one

`tests/training/test_pretended_gpu.py` counts how often an iteration waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Devices that copy from pinned memory while the host goes on.
PINNED: tuple[str, ...] = ("cuda",)
# What `meta` stands for; gan3d.training.estimate.device sets it, and nothing else.
PRETENDED = "meta"


def kind_of(place: Tensor | torch.device) -> str:
    """The type of a device, or of a tensor's: cpu, cuda, ..; of a pretended one what it stands for.

    Ask it where the form of a computation depends on the device, not where values are needed.
    """
    kind = (place.device if isinstance(place, Tensor) else place).type
    return PRETENDED if kind == "meta" else kind


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take of a CUDA device's memory; None on others, and while
    a compiler traces.

    What torch keeps for later tensors is free, what other processes hold is not seen. Nobody waits.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return total - torch.cuda.memory_allocated(device)


def unshared_memory(device: torch.device) -> int | None:
    """Bytes of a CUDA device's memory that no other process holds; None on other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def upload(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device."""
    device = torch.device(device)
    if values.is_cpu and device.type in PINNED:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def constant(numbers: Sequence[float], like: Tensor) -> Tensor:
    """A vector [n] of numbers, with the device and dtype of `like`."""
    return torch.stack([like.new_full((), number) for number in numbers])


# What the host knows of scalar buffers: their version when it was true, and the number.
_KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def number(buffer: Tensor) -> float:
    """The number in a scalar buffer. It is read from the device only if it was changed otherwise
    than by `set_number` since it was last known: by a checkpoint, or by a kernel.
    """
    version, value = _KNOWN.get(buffer, (-1, 0.0))
    if version != buffer._version:
        value = buffer.item()
        note_number(buffer, value)
    return value


def set_number(buffer: Tensor, value: float) -> None:
    """Writes a number, without waiting."""
    buffer.fill_(value)
    note_number(buffer, value)


def note_number(buffer: Tensor, value: float) -> None:
    """Tells the host what a buffer holds now: it has read it together with other values."""
    _KNOWN[buffer] = (buffer._version, value)
