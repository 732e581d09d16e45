"""Distributed strategies for a GAN: two optimizers, several backward passes per iteration, double
backward.

`gan_ddp` replicates the networks and averages gradients when the harness says that a phase's
backward passes are done. There is no DistributedDataParallel wrapper: it fails at the second
backward pass of an iteration, and it cannot know which network a phase trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from gan3d.training.processes import Launcher


class GANDDPStrategy(DDPStrategy):
    """Data parallel training in which the harness asks for the reduction (`--trainer.strategy
    gan_ddp`).
    """

    strategy_name = "gan_ddp"

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if isinstance(self._launcher, _SubprocessScriptLauncher):
            launcher = self._launcher
            self._launcher = Launcher(
                launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
            )

    def configure_ddp(self) -> None:
        """Instead of wrapping the model: every process starts from the first one's weights and
        buffers.
        """
        assert self.model is not None
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages gradients over the processes, one flat message per dtype."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            some = [g for g in gradients if g.dtype == dtype]
            flat = _flatten_dense_tensors(some)
            dist.all_reduce(flat)
            flat /= self.world_size
            for gradient, mean in zip(some, _unflatten_dense_tensors(flat, some), strict=True):
                gradient.copy_(mean)


@torch.no_grad()
def mean_over_processes(values: Sequence[Tensor]) -> list[Tensor]:
    """Means of tensors over the processes, in one message.

    Before each message of Lightning's `reduce` there is a barrier, at which the host waits for the
    device.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(values)
    dtype = reduce(torch.promote_types, (value.dtype for value in values))
    flat = torch.cat([value.flatten().to(dtype) for value in values])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    means = flat.split([value.numel() for value in values])
    return [mean.view_as(value).to(value) for mean, value in zip(means, values, strict=True)]


@torch.no_grad()
def over_processes(value: Tensor) -> Tensor:
    """A tensor [n ..] of every process, concatenated; n is the same on all."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


StrategyRegistry.register(
    GANDDPStrategy.strategy_name,
    GANDDPStrategy,
    description="DDP for GANs: replicated networks, explicit reduction",
)
