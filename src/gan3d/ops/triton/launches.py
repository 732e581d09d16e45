"""What the launches of all kernels share."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from gan3d.ops.backend import interprets


def accumulator(x: Tensor) -> tl.dtype:
    """The type that sums over x run in."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def dense(x: Tensor) -> Tensor:
    """x in one of the two orders of memory that kernels of images know: channels first or last."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def order_of(x: Tensor) -> torch.memory_format:
    """The order of memory of images that are `dense`."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def new_image(x: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """New memory of images [b c h w] in the order of `dense` images x; None: of their dtype."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=order_of(x))


def widened_precision(x: Tensor) -> str:
    """How x is multiplied as float32: in tf32, which has the bits of float16, if it is lower."""
    exact = interprets() or x.dtype == torch.float64
    if exact or (x.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"):
        return "ieee"
    return "tf32"
