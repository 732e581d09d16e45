"""What a training needs beside what is there: for `estimate`, and for `fit` before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gan3d.bench.machine import resident
from gan3d.cli.devices import OPEN, asked_for, given_micro_batch, kind_of
from gan3d.cli.messages import CommandError, log, say
from gan3d.training.estimate.gpus import GIB, GPU, GPUS
from gan3d.training.estimate.needs import CONTEXT, Estimator, Spread
from gan3d.training.gan import GAN
from gan3d.training.strategies import SHARDED, GANFSDPStrategy

LARGE = 128  # pixels, from which on `fit` asks before it starts: seconds beside hours


def spread_of(given: Any, gpu: GPU | None) -> Spread:
    """How a training is spread, from the values of the command line.

    Raises:
        CommandError: the batch cannot be shared.
    """
    is_open = given.trainer.devices in OPEN
    devices = 1 if is_open and gpu is not None else asked_for(given.trainer)
    devices *= given.trainer.num_nodes
    batch = given.data.batch_size
    if batch % devices:
        raise CommandError(
            f"a batch of {batch} images cannot be shared by {devices} devices",
            f"use --data.batch_size {devices * max(1, round(batch / devices))}",
        )
    precision = str(given.trainer.precision or "32-true")
    return Spread(
        batch,
        devices,
        given_micro_batch(given.model),
        {"bf16": "bf16-mixed", "16": "16-mixed"}.get(precision, precision),
        posed=given.data.use_labels,
        **_sharing(given.trainer),
    )


def _sharing(trainer: Any) -> dict[str, Any]:
    """What the strategy of the command line shares out, by the words of `Spread`."""
    given = trainer.strategy
    arguments = SHARDED.get(str(given))
    if getattr(given, "class_path", "").endswith(GANFSDPStrategy.__name__):
        arguments = vars(given.init_args)
    if arguments is None:
        return {}
    copies = arguments.get("copies", 1)
    networks = ("generator", "discriminator")
    return {
        "sharded": networks if arguments.get("shard_discriminator") else networks[:1],
        "copies": trainer.num_nodes if copies == "machines" else copies,
    }


def estimator_of(gan: GAN, gpu: GPU | None) -> Estimator:
    """Of a GPU, or of a process like this one."""
    return Estimator(gan, gpu, CONTEXT if gpu is not None else resident())


def memory_of_machine() -> int:
    """Bytes of memory of this machine.

    Raises:
        CommandError: the system does not say.
    """
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise CommandError("the memory of this machine is not known", f"--gpu {'|'.join(GPUS)}")


def warn_of_memory(gan: GAN, given: Any) -> None:
    """Says it if a large model will not have the memory that it needs. It never ends a run: what
    cannot be estimated is tried.
    """
    if gan.generator.img_resolution < LARGE:
        return
    try:
        kind = kind_of(given.trainer.accelerator)
        if kind == "cuda" and gan.run.micro_batch_size == "auto":
            return  # the run says what it takes
        there = (
            torch.cuda.get_device_properties(0).total_memory
            if kind == "cuda"
            else memory_of_machine()
        )
        on_gpu = next(iter(GPUS.values())) if kind == "cuda" else None  # for what it has besides
        needs = estimator_of(gan, on_gpu).needs(spread_of(given, None))
    except Exception as error:  # of someone's own network, too
        log.info("memory: not estimated (%s: %s)", type(error).__name__, error)
        return
    if needs.total > there:
        say(
            f"memory: about {needs.total / GIB:.1f} GiB are needed on each device, there are "
            f"{there / GIB:.1f}; gan3d estimate, with the same options, says what needs less"
        )
