"""Sharded networks: of each parameter, its gradient, its moments in Adam and its average, a process
keeps its own part, rows of the first dimension.

    with whole(G, D):          all-gather: every process has all weights, as ordinary parameters
        backward passes        gradients gather on them
        reduce_shards(G)       reduce-scatter: each process has its part of the mean gradient
    norm, clipping, step       on the parts: whatever goes tensor by tensor needs no message

The parts are those of FSDP2 (`torch.distributed.fsdp.fully_shard`), whose hooks would gather before
and reduce after every forward and backward pass. A phase of a GAN has several of both, some of them
differentiated twice, and a generator is called by `map`, `represent` and `render`. So the hooks are
switched off: a network is gathered once and reduced once per phase, whatever happens in between.
Between the phases only the parts are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS

SETTLE = "settle"  # of a sharded network: a forward pass that uses no weight


def mesh_of(device: str, processes: int, copies: int = 1) -> DeviceMesh:
    """The processes, in one dimension; with several copies of what is sharded, in two: the copies,
    and the processes that share one.

    Args:
        device: kind of device, cpu or cuda.
        processes: number of all.
        copies: that divide them.
    """
    if copies == 1:
        return init_device_mesh(device, (processes,))
    names = ("replicate", "shard")
    return init_device_mesh(device, (copies, processes // copies), mesh_dim_names=names)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves every process its part of a network's parameters; buffers stay whole.

    A network that is sharded already is left alone. It cannot be copied any more.

    Args:
        network: the same on all processes.
        mesh: the processes (`mesh_of`).
    """
    if isinstance(network, FSDPModule):
        return
    cls = type(network)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    sharded = cast(FSDPModule, network)
    sharded.set_reshard_after_backward(False)
    sharded.set_requires_gradient_sync(False)
    # fully_shard gives the network a new class, a subclass of its own: it is no new model.
    made = type(network)
    for registry in (GENERATORS, DISCRIMINATORS):
        for name in [name for name, known in registry.items() if known is made]:
            del registry[name]
    made.__name__, made.__qualname__ = cls.__name__, cls.__qualname__
    setattr(network, SETTLE, torch.clone)
    register_fsdp_forward_method(network, SETTLE)


def is_sharded(network: nn.Module) -> bool:
    return isinstance(network, FSDPModule)


@contextmanager
def whole(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks have all their weights, as ordinary parameters; all processes enter and
    leave together. Nothing happens to networks that are not sharded.

    Which parameters want a gradient is decided before, and kept inside.
    """
    sharded = [network for network in networks if isinstance(network, FSDPModule)]
    for network in sharded:
        network.unshard()
    try:
        yield
    finally:
        for network in sharded:
            network.reshard()


def reduce_shards(network: nn.Module) -> None:
    """Takes what gathered in the gradients of a sharded network inside `whole`, and gives every
    process its part of the mean over all of them.
    """
    sharded = cast(FSDPModule, network)
    sharded.set_requires_gradient_sync(True)
    # FSDP2 reduces where a backward pass through the network ends: this one computes nothing.
    device = next(network.parameters()).device
    getattr(network, SETTLE)(torch.zeros((), device=device, requires_grad=True)).backward()
    sharded.set_requires_gradient_sync(False)


def parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of sharded tensors; others as they are."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each tensor, [k]; of sharded ones over the processes that share a copy."""
    own = torch.stack(torch._foreach_norm(parts(tensors)))
    mesh = next((t.device_mesh for t in tensors if isinstance(t, DTensor)), None)
    if mesh is None:
        return own
    squares = own.square()
    dist.all_reduce(squares, group=mesh.get_group(mesh.ndim - 1))
    return squares.sqrt()


def gathered(state: Any, keep: bool) -> Any:
    """Nested dictionaries and lists with whole tensors, on the CPU, in place of sharded ones; all
    processes call it.

    Args:
        state: of a module or an optimizer.
        keep: whether this process wants them; others get empty tensors.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()  # a message to all
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(state, dict):
        return {key: gathered(value, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gathered(value, keep) for value in state)
    return state


def scattered(state: dict[str, Any], parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    """State of an optimizer with whole tensors -> what belongs to this process's parts.

    Args:
        state: as `Optimizer.state_dict` gives it; its numbers are places in `parameters`.
        parameters: of the optimizer.
    """
    moments = {
        number: {
            name: part_of(value, parameters[number])
            if value.shape == parameters[number].shape
            else value
            for name, value in of_one.items()
        }
        for number, of_one in state["state"].items()
    }
    return state | {"state": moments}


def part_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a tensor that every process has, sharded as a parameter is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
