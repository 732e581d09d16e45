"""Which implementation of an op runs: the equation, the fast form of torch, or a Triton kernel.

    backend      what it is                                             where
    reference    the equation, in torch                                 anywhere, any dtype
    fast         the same numbers in a better order, in torch           anywhere, any dtype
    triton       a kernel of `gan3d.ops.triton`                         CUDA, float16 to float32
    None         triton where that is possible, else fast

Kernels are imported with the first call that takes one: gan3d needs no Triton elsewhere. Under
`TRITON_INTERPRET=1` kernels also run on the CPU, slowly and in any dtype, for tests.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

import torch
from torch import Tensor

from gan3d.host import kind_of

Backend = Literal["reference", "fast", "triton"]
HAS_TRITON = importlib.util.find_spec("triton") is not None
LOWEST_CAPABILITY = (7, 0)  # of cards that Triton supports: V100


def choose(backend: Backend | None, x: Tensor) -> Backend:
    """The backend for x.

    Args:
        backend: asked for; None chooses.
        x: the op's first tensor, which says device and dtype.

    Raises:
        ValueError: there is no such backend, or it does not run here.
    """
    if backend is None:
        return "triton" if kind_of(x) == "cuda" and _is_missing(x) is None else "fast"
    if backend == "triton" and (why := _is_missing(x)):
        raise ValueError(f"backend triton does not run here: {why}; choose fast, or None")
    if backend not in ("reference", "fast", "triton"):
        raise ValueError(f"backend {backend!r} is unknown; choose reference, fast, triton, or None")
    return backend


def interprets() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def deterministic() -> bool:
    """Whether sums must come out the same in every run, so that kernels may not add by atomics."""
    return torch.are_deterministic_algorithms_enabled() and not interprets()


def lowered(x: Tensor) -> Tensor:
    """x in the precision that autocast has torch's products in: kernels have to be given it."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _is_missing(x: Tensor) -> str | None:
    """Why no kernel can take x; None: one can."""
    if not HAS_TRITON:
        return "there is no Triton (pip install triton)"
    if interprets():
        return None
    if kind_of(x) != "cuda":
        return f"the tensors are on {x.device}, kernels run on CUDA"
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"the tensors are {x.dtype}, kernels take float16, bfloat16 and float32"
    if x.is_meta:  # pretended: kernels only say what they would return
        return None
    if (capability := torch.cuda.get_device_capability(x.device)) < LOWEST_CAPABILITY:
        return f"the card has capability {capability}, Triton needs {LOWEST_CAPABILITY}"
    return None
