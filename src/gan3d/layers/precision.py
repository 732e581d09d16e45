"""Where autocast is not wanted."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on x's device, for parts that low precision would hurt (mapping,
    styles, logits).
    """
    return torch.autocast(x.device.type, enabled=False)


def runs_in_half(x: Tensor) -> bool:
    """Whether a convolution of x is carried out in float16, whose range (65504) is easily left."""
    device = x.device.type
    autocast = (
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    )
    return x.dtype == torch.float16 or autocast
