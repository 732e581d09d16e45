"""Distributed strategies for a GAN: two optimizers, several backward passes per iteration, double
backward.

    gan_ddp         replicates both networks
    gan_fsdp        shards the generator and its average, replicates the discriminator
    gan_fsdp_both   shards both networks
    gan_hsdp        gan_fsdp within each machine, replicated between the machines
    gan_hsdp_both   gan_fsdp_both within each machine

All average gradients when the harness says that a phase's backward passes are done. There is no
DistributedDataParallel wrapper: it fails at the second backward pass of an iteration, and it cannot
know which network a phase trains. `sharding.py` has what sharded networks need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from gan3d.training.buckets import Reduction
from gan3d.training.checkpoint_file import WholeFileIO
from gan3d.training.processes import Launcher
from gan3d.training.sharding import gathered, is_sharded, mesh_of, reduce_shards, scattered, shard

if TYPE_CHECKING:
    from gan3d.training.gan import GAN


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
        self._additions: dict[str, list[int]] = {}  # to each gradient, by phase
        assert self.model is not None
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    @contextmanager
    def reducing(
        self, phase: str, network: nn.Module, parameters: Sequence[nn.Parameter]
    ) -> Iterator[None]:
        """Inside are the backward passes of a phase; after them its gradients are the means over
        the processes.

        Args:
            phase: its name.
            network: that it trains.
            parameters: those of the network that may have a gradient.
        """
        expected = self._additions.get(phase)
        known = expected is not None and len(expected) == len(parameters)
        reduction = Reduction(parameters, expected if known else None)
        with reduction.watching():
            yield
        self._additions[phase] = reduction.added


class GANFSDPStrategy(GANDDPStrategy):
    """Data parallel training with the generator and its average sharded over all processes
    (`--trainer.strategy gan_fsdp`), and the discriminator, too, where that is wanted
    (`gan_fsdp_both`). In `gan_hsdp` and `gan_hsdp_both` the processes of each machine share a copy,
    and the copies' gradients are averaged part by part.

    A run begins, and goes on from a checkpoint, with whole networks; they are sharded before the
    optimizers are made. Outside of training nothing is sharded. Checkpoints are those of one
    process.

    Args:
        shard_discriminator: whether the discriminator is sharded, too.
        copies: of the sharded networks that all processes have together, each shared out by
            processes of successive ranks; "machines" is one per machine.
        process_group_backend: of torch.distributed; None is nccl on GPUs and gloo on CPUs.
        timeout: after which a message that does not come ends the run.
    """

    strategy_name = "gan_fsdp"

    def __init__(
        self,
        shard_discriminator: bool = False,
        copies: int | Literal["machines"] = 1,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ):
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.shard_discriminator, self._copies = shard_discriminator, copies
        self.writes_parts = False  # checkpoints are folders to which every process adds its parts

    @property
    def sharded(self) -> tuple[str, ...]:
        """The networks that are sharded."""
        return ("generator", "discriminator") if self.shard_discriminator else ("generator",)

    @property
    def copies(self) -> int:
        """Copies of the sharded networks that all processes have together.

        Raises:
            ValueError: the processes cannot be shared by so many.
        """
        copies = self.num_nodes if self._copies == "machines" else self._copies
        if copies < 1 or self.world_size % copies:
            raise ValueError(
                f"{self.world_size} processes cannot keep {copies} copies of a sharded network, "
                "each of as many processes; set copies to a number that divides them"
            )
        return copies

    def configure_ddp(self) -> None:
        super().configure_ddp()
        module = cast("GAN", self.lightning_module)
        mesh = mesh_of(self.root_device.type, self.world_size, self.copies)
        shard(module.generator, mesh)
        shard(module.generator_ema, mesh)
        if self.shard_discriminator:
            shard(module.discriminator, mesh)

    @contextmanager
    def reducing(
        self, phase: str, network: nn.Module, parameters: Sequence[nn.Parameter]
    ) -> Iterator[None]:
        if is_sharded(network):
            yield
            reduce_shards(network)
        else:
            with super().reducing(phase, network, parameters):
                yield

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._kept(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._kept(super().optimizer_state(optimizer))

    def _kept(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.writes_parts else gathered(state, keep=self.is_global_zero)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Path | str, storage_options: Any = None
    ) -> None:
        if self.writes_parts and isinstance(self.checkpoint_io, WholeFileIO):
            self.checkpoint_io.save_shards(checkpoint, Path(filepath))
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.load_state_dict(scattered(state, parameters))


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


# Strategies of Lightning that cannot train a GAN, by how their names begin, and why.
UNFIT = {
    "fsdp": "FSDP1 reduces at the end of a backward pass, and a phase has several",
    "deepspeed": "it takes one optimizer, and a GAN has two",
    "modelparallel": "it reduces no gradients of networks that are not sharded",
    "ddp": "its wrapper expects one backward pass per iteration",
}


def refuse_strategy(strategy: Strategy | str) -> None:
    """Refuses strategies that cannot train a GAN as this harness does.

    Args:
        strategy: or its name; names that say nothing of this kind are left to Lightning.

    Raises:
        ValueError: saying why, and what to take.
    """
    if isinstance(strategy, (GANDDPStrategy, SingleDeviceStrategy)):
        return
    is_name = isinstance(strategy, str)
    name = str(strategy) if is_name else type(strategy).__name__
    word = name.rpartition(".")[2].lower().replace("_", "")
    reason = next((why for kind, why in UNFIT.items() if word.startswith(kind)), "")
    if is_name and not reason:
        return
    raise ValueError(
        f"strategy {name} cannot train two networks with several backward passes each"
        f"{f': {reason}' if reason else ''}; use --trainer.strategy gan_ddp (replicated), gan_fsdp "
        "(generator sharded) or gan_fsdp_both (both networks sharded); gan_hsdp and gan_hsdp_both "
        "shard within each machine"
    )


# Arguments of GANFSDPStrategy, by the name of the strategy.
SHARDED: dict[str, dict[str, Any]] = {
    "gan_fsdp": {},
    "gan_fsdp_both": {"shard_discriminator": True},
    "gan_hsdp": {"copies": "machines"},
    "gan_hsdp_both": {"shard_discriminator": True, "copies": "machines"},
}

StrategyRegistry.register(
    GANDDPStrategy.strategy_name, GANDDPStrategy, description=str(GANDDPStrategy.__doc__).strip()
)
for name, arguments in SHARDED.items():
    description = str(GANFSDPStrategy.__doc__).strip()
    StrategyRegistry.register(name, GANFSDPStrategy, description=description, **arguments)
