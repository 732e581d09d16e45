"""Functions recorded once as a CUDA graph and replayed: one launch in place of hundreds.

A single image is a few milliseconds of work on a GPU and hundreds of launches of the host, which
then is the slower one. A graph has the launches in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

WARM_UP = 3  # calls before the recording: torch chooses its kernels and asks for memory in them


class Graphed:
    """A function of tensors that replays what it did for tensors of the same shapes.

    The function must not read a value from the device, must do the same for the same shapes, and
    must not record a gradient. On a CPU it is called as it is.

    Args:
        function: tensors -> tensors, or anything that torch's pytrees know, such as a tuple.

    Example:
        >>> import torch
        >>> double = Graphed(lambda x: 2 * x)
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        """What the function returns, in tensors of its own: the next call leaves them alone."""
        if not all(tensor.is_cuda for tensor in tensors):
            return self.function(*tensors)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if key not in self._recorded:
            self._recorded[key] = self._record(tensors)
        graph, inputs, outputs = self._recorded[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, outputs)

    def _record(
        self, tensors: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        """The graph, with the tensors that it reads and those that it writes."""
        inputs = [tensor.clone() for tensor in tensors]
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.function(*inputs)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*inputs)
        return graph, inputs, outputs
