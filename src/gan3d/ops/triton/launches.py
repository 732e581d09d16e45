"""What the launches of all kernels share."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor


def accumulator(x: Tensor) -> tl.dtype:
    """The type that sums over x run in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def dense(x: Tensor) -> Tensor:
    """x in one of the two orders of memory that kernels of images know: channels first or last."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()
