"""Precision of layers under autocast."""

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


def runs_in_half(x: Tensor) -> bool:
    """Whether a convolution of x runs in float16, which overflows above 65504."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return True
    return x.dtype == torch.float16
