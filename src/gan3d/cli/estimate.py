"""`estimate`: what `fit` would need, without training: memory, time, whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LightningArgumentParser

from gan3d.cli.devices import kind_of
from gan3d.cli.memory import estimator_of, memory_of_machine, spread_of
from gan3d.cli.messages import CommandError
from gan3d.cli.options import naming_options
from gan3d.cli.trainer import TrainerCLI, hush, refuse_lightnings
from gan3d.training.estimate.gpus import GIB, GPU, GPUS
from gan3d.training.estimate.micro_batch import largest_micro_batch
from gan3d.training.estimate.needs import Estimator, Needs, Spread

HOST = "this machine"


class EstimateCLI(TrainerCLI):
    """The command line of `fit`, of which only the model is made.

    Attributes:
        gpu: that the training is for; None is the processor of this machine.
        spread: of the training.
    """

    def __init__(self, arguments: list[str], configs: list[Path]):
        super().__init__("fit", ["fit", *arguments], configs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        names = Literal[tuple(GPUS)]  # type: ignore[valid-type]
        parser.add_argument("--gpu", type=names | None, default=None, help="GPU to train on")

    def before_instantiate_classes(self) -> None:
        given = self.config.fit
        refuse_lightnings(given.trainer)
        given.model.run.init_from = None  # what weights hold needs nothing
        self.record = self._plain_config()

    def instantiate_classes(self) -> None:
        with naming_options(self.record):
            self.config_init = self.parser.instantiate_classes(self.config)
        given = self.config_init.fit
        self.model, self.datamodule = given.model, given.data
        self.gpu = gpu_of(given)
        self.spread = spread_of(given, self.gpu)

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is trained."""


def gpu_of(given: Any) -> GPU | None:
    """The GPU that is named, else that of this machine; None: there is none.

    Raises:
        CommandError: this machine's GPU is not in the list.
    """
    if given.gpu is not None:
        return GPUS[given.gpu]
    if kind_of(given.trainer.accelerator) != "cuda":
        return None
    name = torch.cuda.get_device_name()
    plain = name.lower().replace(" ", "")
    found = next((gpu for key, gpu in GPUS.items() if key in plain), None)
    if found is None:
        raise CommandError(
            f"the rates of {name} are not known",
            f"name the nearest one: --gpu {'|'.join(GPUS)}",
        )
    return found


def run(arguments: list[str], configs: list[Path]) -> int:
    """Says what a training needs.

    Args:
        arguments: the words after the verb, as of `fit`; configs as paths.
        configs: these paths.
    """
    hush()
    cli = EstimateCLI(arguments, configs)
    estimator = estimator_of(cli.model, cli.gpu)
    there = cli.gpu.memory if cli.gpu else memory_of_machine()
    if cli.gpu and cli.model.run.micro_batch_size == "auto":
        size, _ = largest_micro_batch(cli.model, cli.spread, there)
        cli.spread = replace(cli.spread, micro_batch_size=size)
    needs = estimator.needs(cli.spread)
    name = " + ".join(path.stem for path in configs) or type(cli.model.generator).__name__
    seconds = estimator.seconds(cli.spread)
    print("\n".join(in_lines(name, needs, seconds, cli.gpu, there)))
    if needs.total > there:
        print("\n".join(ways(estimator, cli.spread, there)))
    return 0


def in_lines(
    name: str, needs: Needs, seconds: float | None, gpu: GPU | None, there: int
) -> Iterator[str]:
    """The estimate as text."""
    spread = needs.spread
    share = spread.batch_size // spread.devices
    each = "" if spread.devices == 1 else f", {share} on each of {spread.devices} devices"
    at_once = spread.micro_batch_size
    at_once_words = "" if at_once is None or at_once >= share else f", {at_once} at once"
    place = HOST if gpu is None else gpu.name
    yield f"{name} on {place}: batch {spread.batch_size}{each}{at_once_words}, {spread.precision}"
    yield f"memory of a device, at its peak (phase {needs.phase})"
    for part, size in needs.memory.items():
        yield f"  {part:12} {size / GIB:8.3f} GiB"
    verdict = "it fits" if needs.total <= there else "it does NOT fit"
    yield f"  {'in all':12} {needs.total / GIB:8.3f} GiB of {there / GIB:.3g}: {verdict}"
    if seconds:
        rate = needs.images / seconds
        yield (
            f"time: {rate:.3g} images/s, {needs.images / 1000:g} kimg in {_span(seconds)} "
            "(by the data sheet, operation by operation; not measured)"
        )


def ways(estimator: Estimator, spread: Spread, there: int) -> Iterator[str]:
    """What would make it fit, one line each; the search ends at the first that does."""
    yield "what needs less memory:"
    for words, other in estimator.remedies(spread):
        total = estimator.needs(other).total
        yield f"  {words:60} {total / GIB:8.3f} GiB{', it fits' if total <= there else ''}"
        if total <= there:
            return
    yield "  nothing of this is enough: another GPU, or a smaller model"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"
