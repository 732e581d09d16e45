"""Sharded networks and the strategies of several processes, in a group of one process.

tests/distributed has groups of two and four.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from gan3d.generators import GENERATORS, StyleGAN2
from gan3d.training.callbacks import LiveView
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.ema import EMA
from gan3d.training.nan_guard import GradientWatch
from gan3d.training.optimizers import Adam
from gan3d.training.sharding import gathered, reduce_shards, scattered, shard, whole
from gan3d.training.strategies import GANDDPStrategy, GANFSDPStrategy, refuse_strategy


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def generator(seed: int = 0) -> StyleGAN2:
    torch.manual_seed(seed)
    return StyleGAN2(**StyleGAN2.tiny)


def step(network, parameters, optimizer) -> None:
    """Two backward passes, one of them of a second derivative, and a step."""
    optimizer.zero_grad(set_to_none=True)
    z = torch.randn(2, network.z_dim, generator=torch.Generator().manual_seed(1))
    with whole(network):
        for k in range(2):
            ws = network.map(z)
            image = network.render(network.represent(ws)).image
            (slope,) = torch.autograd.grad(image.square().sum(), ws, create_graph=True)
            (slope.square().mean() + image[k].mean()).backward()
        if any(isinstance(p, DTensor) for p in parameters):
            reduce_shards(network)
    Adam(clip_norm=0.1).clip(parameters)
    optimizer.step()


def test_a_sharded_generator_learns_what_a_whole_one_does(mesh):
    plain, sharded, average = generator(), generator(), generator()
    norms, states = [], []
    for network in (plain, sharded):
        if network is sharded:
            shard(sharded, mesh)
            shard(average, mesh)
        parameters = list(network.parameters())
        optimizer = Adam().build(parameters)
        for _ in range(2):
            step(network, parameters, optimizer)
        norms.append(float(GradientWatch().watch("x", network)))
        states.append(gathered(optimizer.state_dict(), keep=True))
    assert all(isinstance(p, DTensor) for p in sharded.parameters())
    assert norms[0] == norms[1]
    for a, b in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(a, b.full_tensor())
    for key, moments in states[0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, states[1]["state"][key][name])
    EMA(ramp_up=0).update(average, sharded, images_seen=0, batch_size=5000)
    start = generator()
    for a, b, c in zip(average.parameters(), sharded.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a.full_tensor(), torch.lerp(c, b.full_tensor(), 1 - 0.5**0.5))


def test_a_sharded_network_keeps_its_name_and_is_no_new_model(mesh):
    before = dict(GENERATORS)
    network = generator()
    shard(network, mesh)
    first = type(network)
    shard(network, mesh)
    assert type(network) is first
    assert type(network).__name__ == "StyleGAN2"
    assert before == GENERATORS


def test_weights_are_whole_inside_and_parts_outside_even_after_an_error(mesh):
    network = generator()
    shard(network, mesh)

    def is_whole() -> bool:
        return not any(isinstance(p, DTensor) for p in network.parameters())

    assert not is_whole()
    with whole(network):
        assert is_whole()
    assert not is_whole()
    with pytest.raises(KeyError), whole(network):
        raise KeyError
    assert not is_whole()
    frozen = next(network.parameters()).requires_grad_(False)
    with whole(network):
        assert not next(network.parameters()).requires_grad
    assert frozen is next(network.parameters())


def test_state_of_an_optimizer_is_shared_out(mesh):
    plain, network = generator(), generator()
    optimizer = Adam().build(list(plain.parameters()))
    step(plain, list(plain.parameters()), optimizer)
    shard(network, mesh)
    parameters = list(network.parameters())
    state = scattered(optimizer.state_dict(), parameters)
    moments = state["state"][0]
    assert isinstance(moments["exp_avg"], DTensor)
    assert not isinstance(moments["step"], DTensor)
    assert torch.equal(
        moments["exp_avg"].full_tensor(), optimizer.state_dict()["state"][0]["exp_avg"]
    )
    assert gathered(moments["exp_avg"], keep=False).numel() == 0


def test_what_serves_all_the_time_needs_an_average_that_is_whole(mesh):
    network = generator()
    shard(network, mesh)
    with pytest.raises(ValueError, match=r"--view.*sharded.*gan_ddp"):
        LiveView().on_train_start(None, SimpleNamespace(generator_ema=network))


def test_parts_are_written_of_sharded_networks_only(tmp_path):
    trainer = SimpleNamespace(strategy=SingleDeviceStrategy("cpu"), callbacks=[])
    checkpoints = Checkpoints(tmp_path, sharded=True)
    with pytest.raises(ValueError, match=r"SingleDeviceStrategy shards none; set .* gan_fsdp"):
        checkpoints.setup(trainer, None, "fit")
    checkpoints.setup(trainer, None, "validate")
    trainer.strategy = GANFSDPStrategy()
    checkpoints.setup(trainer, None, "fit")
    assert trainer.strategy.writes_parts


# ------------------------------------------------------------ strategies


def test_both_networks_are_sharded_by_a_name():
    assert StrategyRegistry.get("gan_fsdp").shard_discriminator is False
    assert StrategyRegistry.get("gan_fsdp_both").shard_discriminator is True


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (FSDPStrategy, "FSDP1 reduces at the end of a backward pass"),
        (DeepSpeedStrategy, "it takes one optimizer"),
        (ModelParallelStrategy, "it reduces no gradients"),
        (DDPStrategy, "one backward pass per iteration"),
    ],
)
def test_strategies_that_cannot_train_a_gan_are_refused_with_a_reason(cls, reason):
    strategy = cls.__new__(cls)
    with pytest.raises(ValueError, match=f"{cls.__name__} cannot .*{reason}.*gan_ddp.*gan_fsdp"):
        refuse_strategy(strategy)


@pytest.mark.parametrize(
    "name",
    ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2", "ddp_spawn", "ddp", "model_parallel"],
)
def test_they_are_refused_by_their_names(name):
    with pytest.raises(ValueError, match=f"strategy {name} cannot"):
        refuse_strategy(name)


def test_ours_and_what_lightning_knows_better_pass():
    for strategy in (GANDDPStrategy(), GANFSDPStrategy(), SingleDeviceStrategy("cpu")):
        refuse_strategy(strategy)
    for name in ("auto", "gan_ddp", "gan_fsdp", "gan_fsdp_both", "gan3d.training.GANFSDPStrategy"):
        refuse_strategy(name)
