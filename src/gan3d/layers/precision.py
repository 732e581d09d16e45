"""Precision of layers under autocast.

float16 has 10 bits of mantissa and ends at 65504; bfloat16 has 7, and ends where float32 ends. The
StyleGAN family was published with float16 in its four finest resolutions only, with clamped
activations (conv_clamp), and with float32 elsewhere.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager:
    """A context that disables autocast on x's device; for mapping networks, styles and logits."""
    device = x.device.type
    available = torch.amp.is_autocast_available(device)  # not on the device meta
    if not available or not torch.is_autocast_enabled(device):  # to enter autocast takes time
        return nullcontext()
    return torch.autocast(device, enabled=False)


def coarsest_in_float16(finest: int) -> int:
    """The coarsest side that computes in float16: the fourth resolution, counted from the finest,
    but no side below 8 (as StyleGAN2-ADA, StyleGAN3 and EG3D have num_fp16_res 4).
    """
    return max(finest // 8, 8)


def without_float16(x: Tensor) -> AbstractContextManager:
    """A context that disables autocast to float16 on x's device, and leaves that to bfloat16 as it
    is: for layers whose activations are not bounded, or that are coarse.
    """
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return full_precision(x) if torch.get_autocast_dtype(device) == torch.float16 else nullcontext()


def runs_in_half(x: Tensor) -> bool:
    """Whether a convolution of x runs in float16, which overflows above 65504."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return True
    return x.dtype == torch.float16
