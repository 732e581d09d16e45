"""Precisions that a run can have, and the right one for a card instead of those that it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from gan3d.discriminators import Discriminator
from gan3d.generators import Generator

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
    "transformer-engine": LOW,
    "transformer-engine-float16": LOW,
}

Networks = Sequence[Generator | Discriminator]


def advised(device: torch.device, networks: Networks = ()) -> tuple[str, str]:
    """The fastest precision that a device computes well, and why it is that one.

    Args:
        device: that trains.
        networks: that are trained; none are such as do not train in float16.
    """
    if device.type != "cuda":
        return "32-true", "float32"
    name = torch.cuda.get_device_name(device)
    if computes(device) >= BFLOAT16_CAPABILITY:
        return "bf16-mixed", f"bfloat16 where it is safe, which this card ({name}) computes"
    half = bool(networks) and not any(network.no_float16 for network in networks)
    instead, dtype = ("16-mixed", "float16 as published") if half else ("32-true", "float32")
    return instead, f"{dtype}: this card ({name}) only emulates bfloat16"


def computes(device: torch.device) -> tuple[int, int]:
    """Compute capability of a card, (8, 0) for an A100."""
    return torch.cuda.get_device_capability(device)


def refuse_unfit(precision: str, device: torch.device, networks: Networks = ()) -> None:
    """Refuses a precision in which a run cannot train.

    Args:
        precision: as Lightning names it.
        device: that trains.
        networks: that are trained.

    Raises:
        ValueError: naming the precision to set on this device.
    """
    reason = REFUSED.get(precision)
    if precision == "16-mixed":
        reasons = (f"{type(n).__name__}: {n.no_float16}" for n in networks if n.no_float16)
        reason = next(reasons, None)
    if reason is not None:
        instead, why = advised(device, networks)
        raise ValueError(
            f"precision {precision} is not possible: {reason}; set --trainer.precision {instead} "
            f"({why})"
        )


def slow(precision: str, device: torch.device, networks: Networks = ()) -> str | None:
    """A sentence if a device only emulates a precision; else None.

    Args:
        precision: as Lightning names it.
        device: that trains.
        networks: that are trained.
    """
    if precision != "bf16-mixed" or device.type != "cuda":
        return None
    if computes(device) >= BFLOAT16_CAPABILITY:
        return None
    instead, why = advised(device, networks)
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
