"""A convolution with a 1x1 kernel as a product of matrices.

    y_bohw = sum_i w_(b)oi x_bihw

With one thread torch convolves 1x1 kernels channels first: it copies what is channels last, and
back. A product reads either order where it lies, and may have a kernel for each image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.host import kind_of


def is_product(x: Tensor) -> bool:
    """Whether `pointwise` is the faster form for x: on one CPU thread, and in float32 or more. A
    compiler, which cannot trace the number of threads, is given the convolution.
    """
    if kind_of(x) != "cpu" or torch.compiler.is_compiling():
        return False
    low = x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(x.device.type)
    return torch.get_num_threads() == 1 and not low


def pointwise(x: Tensor, w: Tensor) -> Tensor:
    """Every pixel times a matrix; differentiable any number of times.

    Args:
        x: [b i h w], channels first or last.
        w: [o i], or one for each image, [b o i].

    Returns:
        [b o h w], in the memory format of x.
    """
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        pixels = x.permute(0, 2, 3, 1)  # b h w i
        y = F.linear(pixels, w) if w.ndim == 2 else pixels.flatten(1, 2) @ w.mT
        return y.view(*pixels.shape[:3], w.shape[-2]).permute(0, 3, 1, 2)
    y = torch.bmm(w.expand(len(x), -1, -1), x.flatten(2))
    return y.unflatten(2, x.shape[2:])
