"""Numbers of a metric: sums in float64 on every device, and finite."""

from __future__ import annotations

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
