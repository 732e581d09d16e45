"""What a training needs of each device, whether that is there, and what would make it fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from gan3d.training.estimate.gpus import GPU, seconds_on, seconds_to_share
from gan3d.training.estimate.live import Work, bytes_of
from gan3d.training.estimate.simulate import (
    PARTS,
    StageCost,
    peak_of,
    seconds_in_all,
    simulate,
)
from gan3d.training.gan import GAN

# Beside live tensors: what the allocator cannot use of its blocks, and the libraries' own memory.
FRAGMENTATION = 0.15  # of activations
CONTEXT = 700 * 2**20  # of CUDA, its libraries and their workspaces


@dataclass(frozen=True)
class Spread:
    """How a training is spread.

    Attributes:
        batch_size: images per iteration, over all devices.
        devices: number of them.
        micro_batch_size: images at once; None is the share of a device.
        precision: 32-true, bf16-mixed or 16-mixed.
        chunk: rays that are differentiated at once; None is as the harness has it.
        posed: whether the images have cameras.
        sharded: networks whose weights, average and optimizer state are shared out: generator,
            discriminator.
        copies: of the sharded networks that all devices have together.
    """

    batch_size: int
    devices: int = 1
    micro_batch_size: int | None = None
    precision: str = "32-true"
    chunk: int | None = None
    posed: bool = True
    sharded: tuple[str, ...] = ()
    copies: int = 1


@dataclass(frozen=True)
class Needs:
    """What one device needs.

    Attributes:
        spread: of the training.
        stages: what their iterations cost.
        memory: bytes by part, at the highest peak: `PARTS`, messages and workspace.
        phase: of that peak.
        images: of the whole run.
    """

    spread: Spread
    stages: list[StageCost]
    memory: dict[str, int]
    phase: str
    images: int

    @property
    def live(self) -> int:
        """Bytes of tensors."""
        return sum(size for part, size in self.memory.items() if part != "workspace")

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(self.memory.values())


@dataclass
class Estimator:
    """Asks what a training needs.

    Args:
        gan: the harness; it is left as it is.
        gpu: of each device; None is a CPU.
        context: bytes that the program needs before it trains.
    """

    gan: GAN
    gpu: GPU | None = None
    context: int = CONTEXT
    _without_numbers: GAN = field(init=False)

    def __post_init__(self) -> None:
        self._without_numbers = copy.deepcopy(self.gan).to("meta")

    def needs(self, spread: Spread) -> Needs:
        """What a training needs in some spread."""
        stages = self._simulate(spread, "cpu" if self.gpu is None else "cuda")
        top = peak_of(stages)
        phase = next(name for stage in stages for name, cost in stage.phases.items() if cost is top)
        memory = {part: top.parts.get(part, 0) for part in PARTS}
        if spread.devices > 1:
            memory["messages"] = max(map(bytes_of, self._trained()))
            self._share_out(memory, spread)
        spare = round(FRAGMENTATION * memory["activations"])
        memory["workspace"] = self.context + spare
        images = sum(stage.images for stage in stages)
        return Needs(spread, stages, memory, phase, images)

    def _simulate(self, spread: Spread, kind: str) -> list[StageCost]:
        gan, rays = self._without_numbers, self.gan.phases.rays
        gan.run = replace(self.gan.run, micro_batch_size=spread.micro_batch_size)
        if spread.chunk is not None:
            rays = replace(rays, mode="chunked", chunk=spread.chunk)
        gan.phases.rays = rays
        nothing: Callable[[Work], float] = lambda work: 0.0  # noqa: E731
        return simulate(
            gan,
            batch_size=spread.batch_size,
            processes=spread.devices,
            posed=spread.posed,
            precision=spread.precision,
            kind=kind,
            seconds_of=nothing if self.gpu is None else seconds_on(self.gpu),
        )

    def seconds(self, spread: Spread) -> float | None:
        """Of the whole run on the GPU, without our kernels, whose work is not counted; None without
        a GPU.
        """
        if self.gpu is None:
            return None
        stages = self._simulate(spread, "meta")
        seconds = seconds_in_all(stages)
        if spread.devices > 1:
            # one message per phase, of the gradients of the network that it trains
            of_generator, of_discriminator = map(bytes_of, self._trained())
            for stage in stages:
                iterations = stage.images / stage.batch
                for name, phase in stage.phases.items():
                    judged = name in ("discriminator", "r1")
                    size = of_discriminator if judged else of_generator
                    once = seconds_to_share(size, spread.devices, self.gpu)
                    seconds += iterations * once / phase.interval
        return seconds

    def _share_out(self, memory: dict[str, int], spread: Spread) -> None:
        """A phase has whole weights and gradients, beside a device's own part of the weights; of
        the average and of Adam's numbers a device has its part alone.
        """
        for name, parameters in zip(("generator", "discriminator"), self._trained(), strict=True):
            if name not in spread.sharded:
                continue
            size = bytes_of(parameters)
            elsewhere = size - size * spread.copies // spread.devices
            memory["weights"] += size - elsewhere
            memory["optimizers"] -= 2 * elsewhere
            if name == "generator":
                memory["average"] -= elsewhere

    def _trained(self) -> tuple[list, list]:
        gan = self._without_numbers
        return list(gan.generator.parameters()), list(gan.discriminator.parameters())

    def remedies(self, spread: Spread) -> Iterator[tuple[str, Spread]]:
        """Settings that need less memory, each with the option that makes it so, mildest first."""
        gan = self.gan
        if gan.phases.rays.mode == "full" and gan.generator.independent_pixels:
            yield "--model.rays.mode chunked", replace(spread, chunk=gan.phases.rays.chunk)
        share = spread.batch_size // spread.devices
        now = min(spread.micro_batch_size or share, share)
        group = gan.discriminator.group_size
        while now > group and now % 2 == 0 and (now // 2) % group == 0:
            now //= 2
            yield f"--model.run.micro_batch_size {now}", replace(spread, micro_batch_size=now)
        if spread.devices > 1 and not spread.sharded:
            yield "--trainer.strategy gan_fsdp", replace(spread, sharded=("generator",))
        precision = self._low_precision()
        if spread.precision == "32-true" and precision is not None:
            low = replace(spread, precision=precision)
            yield f"--trainer.precision {precision}", low
            if now != (spread.micro_batch_size or share):
                words = f"--trainer.precision {precision} --model.run.micro_batch_size {now}"
                yield words, replace(low, micro_batch_size=now)

    def _low_precision(self) -> str | None:
        """Of half as many bytes, fast on the GPU, and one that the networks train in."""
        if self.gpu is None or self.gpu.bf16 > self.gpu.fp32:
            return "bf16-mixed"
        networks = (self.gan.generator, self.gan.discriminator)
        return None if any(network.no_float16 for network in networks) else "16-mixed"
