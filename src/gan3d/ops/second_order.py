"""A derivative that is itself differentiated: through a form of torch, recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def recorded(
    form: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor],
    *options: Any,
) -> list[Tensor | None]:
    """Gradients of `form(*inputs, *options)`, which can be differentiated again.

    Args:
        form: the function of the kernel, in torch; gives as many tensors as there are grads.
        inputs: its tensors.
        needed: of which a gradient is wanted.
        grads: of its results.
        options: further arguments.

    Returns:
        a gradient per input; None where none is needed or the input needs none.
    """
    wanted = [
        tensor
        for tensor, is_needed in zip(inputs, needed, strict=True)
        if is_needed and tensor is not None and tensor.requires_grad
    ]
    with torch.enable_grad():
        outputs = form(*inputs, *options)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        found = torch.autograd.grad(
            outputs, wanted, tuple(grads), create_graph=True, allow_unused=True
        )
    by_input = dict(zip(map(id, wanted), found, strict=True))
    return [None if tensor is None else by_input.get(id(tensor)) for tensor in inputs]
