"""What the launches of all kernels share."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor


def accumulator(x: Tensor) -> tl.dtype:
    """The type that sums over x run in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32
