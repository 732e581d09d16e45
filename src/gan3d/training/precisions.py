"""Precisions that a run can have, and the right one for a card instead of those that it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

MatmulPrecision = Literal["highest", "high"]

# Compute capability from which on cards compute bfloat16: Ampere, A100 and RTX 30. Older ones
# (V100, T4, RTX 20) emulate it, more slowly than float32.
BFLOAT16_CAPABILITY = (8, 0)

# Why a run would fail, or train nonsense.
LOW = (
    "the average of the generator and ADA's p would stand still: their small steps are lost in "
    "numbers of so few bits"
)
REFUSED = {
    "bf16-true": LOW,
    "16-true": LOW,
    "16-mixed": "its gradient scaler hides infinite gradients, and float16 is not supported yet",
    "transformer-engine": LOW,
    "transformer-engine-float16": LOW,
}


def advised(device: torch.device) -> tuple[str, str]:
    """The fastest precision that a device computes well, and why it is that one."""
    if device.type != "cuda":
        return "32-true", "float32"
    name = torch.cuda.get_device_name(device)
    if computes(device) < BFLOAT16_CAPABILITY:
        return "32-true", f"float32: this card ({name}) only emulates bfloat16"
    return "bf16-mixed", f"bfloat16 where it is safe, which this card ({name}) computes"


def computes(device: torch.device) -> tuple[int, int]:
    """Compute capability of a card, (8, 0) for an A100."""
    return torch.cuda.get_device_capability(device)


def refuse_unfit(precision: str, device: torch.device) -> None:
    """Refuses a precision in which a run cannot train.

    Args:
        precision: as Lightning names it.
        device: that trains.

    Raises:
        ValueError: naming the precision to set on this device.
    """
    if precision in REFUSED:
        instead, why = advised(device)
        raise ValueError(
            f"precision {precision} is not possible: {REFUSED[precision]}; set "
            f"--trainer.precision {instead} ({why})"
        )


def slow(precision: str, device: torch.device) -> str | None:
    """A sentence if a device only emulates a precision; else None."""
    if precision != "bf16-mixed" or device.type != "cuda":
        return None
    if computes(device) >= BFLOAT16_CAPABILITY:
        return None
    instead, why = advised(device)
    return f"precision bf16-mixed is slow here; set --trainer.precision {instead} ({why})"


@contextmanager
def float32_products(precision: MatmulPrecision | None, device: torch.device) -> Iterator[None]:
    """Products and convolutions of float32 on a CUDA device in full precision or in TF32; before
    and after, and on other devices, they are as torch has them.
    """
    products, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    convolutions = cudnn.allow_tf32
    if precision is not None and device.type == "cuda":
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32 = precision != "highest"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions
