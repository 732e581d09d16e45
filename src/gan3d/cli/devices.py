"""Devices of a run: how many can share a batch, and what is chosen where nobody says.

A batch is shared evenly; each process splits its share into micro-batches, and minibatch standard
deviation compares groups of images, which are never split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from gan3d.cli.messages import CommandError

OPEN = ("auto", -1, "-1")  # of --trainer.devices: as many as there are


@dataclass(frozen=True)
class BatchSplit:
    """How the images of an iteration are split, in one stage of a run.

    Attributes:
        size: images per iteration, over all processes.
        micro: images per forward pass; None is the whole share of a process.
        group: images that are judged together.
    """

    size: int
    micro: int | None
    group: int

    def fits(self, processes: int) -> bool:
        """Whether that number of processes can share it."""
        if self.size < processes or self.size % processes:
            return False
        share = self.size // processes
        part = min(self.micro or share, share)
        return share % part == 0 and part % self.group == 0


def batches_of(model: Any, data: Any) -> list[BatchSplit]:
    """The batches of a GAN's stages on a data module."""
    group, micro = model.discriminator.group_size, given_micro_batch(model)
    return [
        BatchSplit(
            data.batch_size if stage.batch_size is None else stage.batch_size,
            stage.micro_batch_size or micro,
            group,
        )
        for stage in model.stages
    ]


def given_micro_batch(model: Any) -> int | None:
    """Images per forward pass, where a number is given; whatever fits (auto) can be all of them."""
    micro = model.run.micro_batch_size
    return None if micro == "auto" else micro


def kind_of(accelerator: Any) -> str:
    """cpu, cuda or mps, of `--trainer.accelerator`; others keep their name."""
    if accelerator in ("auto", "gpu"):
        if CUDAAccelerator.is_available():
            return "cuda"
        return "mps" if MPSAccelerator.is_available() else "cpu"
    return str(accelerator)


def asked_for(trainer: Any) -> int:
    """How many devices of this machine `--trainer.devices` asks for.

    Raises:
        CommandError: it is no number of devices.
    """
    devices, kind = trainer.devices, kind_of(trainer.accelerator)
    if devices in OPEN:
        return CUDAAccelerator.auto_device_count() if kind == "cuda" else 1
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, (list, tuple)):
        return len(devices)
    try:
        number = int(devices)
    except ValueError:
        number = 0
    if number < 1:
        raise CommandError(
            f"--trainer.devices {devices} is no number of devices",
            'write auto, a number, or which ones: "0,3"',
        )
    return number


def choose(trainer: Any, batches: Iterable[BatchSplit]) -> tuple[dict[str, Any], str]:
    """What `fit` gives to the Trainer in place of its own defaults.

    Args:
        trainer: the arguments of the Trainer: accelerator, devices, num_nodes, strategy.
        batches: of all stages.

    Returns:
        arguments of the Trainer, and what there is to say of them (nothing where nothing changed).

    Raises:
        CommandError: the batch cannot be shared as asked.
    """
    batches, nodes = list(batches), trainer.num_nodes
    asked, is_open = asked_for(trainer), trainer.devices in OPEN
    fitting = [n for n in range(1, max(asked, 8) + 1) if all(b.fits(n * nodes) for b in batches)]
    able = [n for n in fitting if (n <= asked if is_open else n == asked)]
    if not able:
        raise _refusal(batches, asked, nodes, fitting)
    number = max(able)
    if asked * nodes == 1 or trainer.strategy != "auto":
        return {}, ""
    arguments = {"devices": number if is_open else trainer.devices}
    if number * nodes > 1:
        arguments["strategy"] = "gan_ddp"
    return arguments, _said(number, asked, batches)


def _said(number: int, asked: int, batches: list[BatchSplit]) -> str:
    if number == asked:
        return f"{asked} devices share each batch (--trainer.strategy gan_ddp)"
    size, group = batches[0].size, batches[0].group
    how = "one device is" if number == 1 else f"{number} devices (--trainer.strategy gan_ddp) are"
    return (
        f"{how} used of {asked}: a batch of {size} images in groups of {group} cannot be shared by "
        f"more; for all of them: --data.batch_size {asked * group}, or a multiple of it"
    )


def _refusal(batches: list[BatchSplit], asked: int, nodes: int, fitting: list[int]) -> CommandError:
    wrong = next((b for b in batches if not b.fits(asked * nodes)), batches[0])
    if wrong.size < 1:
        return CommandError(
            f"--data.batch_size {wrong.size}: expected at least 1 image per iteration; use "
            f"{wrong.group} or a multiple of it"
        )
    among = f"{asked * nodes} processes" if asked * nodes > 1 else "one process"
    micro = "" if wrong.micro is None else f" in micro-batches of {wrong.micro}"
    several = f"--trainer.devices {' or '.join(map(str, fitting))}" if fitting else ""
    unit = asked * nodes * wrong.group
    return CommandError(
        f"a batch of {wrong.size} images{micro}, judged in groups of {wrong.group}, cannot be "
        f"shared by {among}: groups are not split",
        f"use --data.batch_size {max(round(wrong.size / unit), 1) * unit} (a multiple of {unit})"
        + (f", or {several}" if several and asked > 1 else ""),
        ""
        if wrong.micro is None
        else "and a --model.run.micro_batch_size that divides the share "
        f"of a process and is a multiple of {wrong.group}",
    )
