"""Numbers of a metric: sums in float64 on every device, and finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """x in float64, on its device or, where this has no float64 (Apple's GPUs), on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_finite(features: Tensor, what: str) -> None:
    """Raises ArithmeticError if a number of `features` (of `what`) is NaN or infinite."""
    if not bool(features.isfinite().all()):
        raise ArithmeticError(
            f"the features of the {what} are not finite, so there is no distance: an image has NaN "
            "or infinite pixels, or the feature network overflows"
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 on NVIDIA GPUs: it has 10 bits, equivariance beyond 60 dB and path steps of 1e-4 need
    more.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
