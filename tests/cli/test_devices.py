"""How many devices share a batch, on pretended machines."""

from types import SimpleNamespace

import pytest
import torch

from gan3d.cli import configs, devices
from gan3d.cli.devices import BatchSplit, asked_for, choose, kind_of
from gan3d.cli.messages import CommandError
from gan3d.cli.trainer import TrainerCLI


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: number)
        monkeypatch.setattr("lightning.pytorch.accelerators.cuda.num_cuda_devices", lambda: number)

    return pretend


def trainer(devices="auto", accelerator="auto", strategy="auto", num_nodes=1):
    return SimpleNamespace(
        devices=devices, accelerator=accelerator, strategy=strategy, num_nodes=num_nodes
    )


@pytest.mark.parametrize(
    ("number", "batch", "chosen"),
    [
        (1, BatchSplit(32, None, 4), {}),
        (2, BatchSplit(32, None, 4), {"devices": 2, "strategy": "gan_ddp"}),
        (3, BatchSplit(32, None, 4), {"devices": 2, "strategy": "gan_ddp"}),
        (8, BatchSplit(32, None, 4), {"devices": 8, "strategy": "gan_ddp"}),
        (8, BatchSplit(32, None, 8), {"devices": 4, "strategy": "gan_ddp"}),
        (8, BatchSplit(8, None, 4), {"devices": 2, "strategy": "gan_ddp"}),
        (2, BatchSplit(4, None, 4), {"devices": 1}),
        (3, BatchSplit(24, None, 4), {"devices": 3, "strategy": "gan_ddp"}),
        (8, BatchSplit(32, 16, 4), {"devices": 8, "strategy": "gan_ddp"}),  # a share is smaller
    ],
)
def test_several_devices_take_gan_ddp_with_as_many_as_whole_groups_allow(
    gpus, number, batch, chosen
):
    gpus(number)
    arguments, said = choose(trainer(), [batch])
    assert arguments == chosen
    assert bool(said) == (number > 1)
    if number > 1 and chosen["devices"] < number:
        assert f"used of {number}" in said
        unit = number * batch.group
        assert f"--data.batch_size {unit}, or a multiple" in said
        assert BatchSplit(unit, None, batch.group).fits(number)


def test_every_stage_of_a_run_is_shared(gpus):
    gpus(8)
    stages = [BatchSplit(64, None, 4), BatchSplit(16, None, 4)]
    assert choose(trainer(), stages)[0] == {"devices": 4, "strategy": "gan_ddp"}


def test_several_machines_share_a_batch(gpus):
    gpus(4)
    batch = BatchSplit(32, None, 4)
    assert choose(trainer(num_nodes=2), [batch])[0] == {"devices": 4, "strategy": "gan_ddp"}
    assert choose(trainer(num_nodes=4), [batch])[0] == {"devices": 2, "strategy": "gan_ddp"}


def test_what_is_asked_for_is_taken_or_refused_with_what_works(gpus):
    gpus(8)
    batch = BatchSplit(32, None, 4)
    assert choose(trainer(2), [batch])[0] == {"devices": 2, "strategy": "gan_ddp"}
    assert choose(trainer("0,3"), [batch])[0] == {"devices": "0,3", "strategy": "gan_ddp"}
    assert choose(trainer([5]), [batch]) == ({}, "")
    assert choose(trainer(2, strategy="gan_ddp"), [batch]) == ({}, "")
    with pytest.raises(CommandError) as refusal:
        choose(trainer(3), [batch])
    assert str(refusal.value).splitlines() == [
        "a batch of 32 images, judged in groups of 4, cannot be shared by 3 processes: groups are "
        "not split",
        "  use --data.batch_size 36 (a multiple of 12), or --trainer.devices 1 or 2 or 4 or 8",
    ]


def test_a_batch_that_one_device_cannot_split_is_refused(gpus):
    gpus(0)
    with pytest.raises(CommandError, match=r"use --data.batch_size 8 \(a multiple of 4\)$"):
        choose(trainer(), [BatchSplit(7, None, 4)])
    with pytest.raises(
        CommandError, match=r"in micro-batches of 6(.|\n)*micro_batch_size that divides"
    ):
        choose(trainer(), [BatchSplit(12, 6, 4)])
    with pytest.raises(CommandError, match=r"--data.batch_size 0: expected at least 1 image"):
        choose(trainer(), [BatchSplit(0, None, 4)])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_devices_are_counted_as_lightning_does(gpus, number):
    gpus(number)
    assert kind_of("auto") == kind_of("gpu") == ("cuda" if number else "cpu")
    assert asked_for(trainer()) == max(number, 1)
    assert asked_for(trainer(-1, "gpu")) == max(number, 1)
    assert asked_for(trainer("2", "cpu")) == asked_for(trainer(2, "cpu")) == 2
    assert asked_for(trainer([0, 2])) == asked_for(trainer("0,2")) == 2
    assert asked_for(trainer("1,")) == 1
    assert asked_for(trainer("auto", "cpu")) == 1
    for wrong in ("two", 0, -3):
        with pytest.raises(CommandError, match=f"--trainer.devices {wrong} is no number"):
            asked_for(trainer(wrong))


class Stop(Exception):
    """Where a Trainer would be made."""


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (2, "", {"devices": 2, "strategy": "gan_ddp"}),
        (3, "", {"devices": 2, "strategy": "gan_ddp"}),
        (8, "", {"devices": 2, "strategy": "gan_ddp"}),
        (8, "--data.batch_size 64", {"devices": 8, "strategy": "gan_ddp"}),
        (8, "--config ddp8.yaml --data.batch_size 64", {"devices": 8, "strategy": "gan_ddp"}),
        (1, "", {"devices": "auto", "strategy": "auto"}),
        (0, "", {"devices": "auto", "strategy": "auto"}),
    ],
)
def test_the_readmes_fit_works_on_a_machine_with_several_gpus(
    gpus, monkeypatch, tmp_path, posed_zip, number, words, expected
):
    gpus(number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = {}

    def make(self, config, callbacks):
        made.update(config)
        raise Stop

    monkeypatch.setattr("lightning.pytorch.cli.LightningCLI._instantiate_trainer", make)
    arguments = f"--config eg3d_heads32.yaml --data.path {posed_zip} {words}"
    resolved, paths = configs.resolve(arguments.split())
    with pytest.raises(Stop):
        TrainerCLI("fit", ["fit", *resolved], paths)
    assert {name: made[name] for name in expected} == expected


def test_the_batch_of_every_stage_is_that_of_the_config():
    stages = [SimpleNamespace(batch_size=None, micro_batch_size=None),
              SimpleNamespace(batch_size=16, micro_batch_size=8)]  # fmt: skip
    model = SimpleNamespace(
        discriminator=SimpleNamespace(group_size=4),
        run=SimpleNamespace(micro_batch_size=2),
        stages=stages,
    )
    found = devices.batches_of(model, SimpleNamespace(batch_size=32))
    assert found == [BatchSplit(32, 2, 4), BatchSplit(16, 8, 4)]
    model.run.micro_batch_size = "auto"  # what fits is known when training starts
    found = devices.batches_of(model, SimpleNamespace(batch_size=32))
    assert found == [BatchSplit(32, None, 4), BatchSplit(16, 8, 4)]


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_stage_2", "ddp"])
def test_strategies_that_cannot_train_a_gan_are_refused_before_lightning_makes_them(
    cli, tiny, name
):
    code, _, err = cli("fit", "--config", tiny, "--trainer.strategy", name)
    assert code == 2
    assert f"strategy {name} cannot train two networks" in err
    assert "gan_fsdp_both" in err
