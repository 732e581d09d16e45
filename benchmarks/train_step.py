"""One training iteration on one CPU thread, phase by phase, against the published order.

    python benchmarks/train_step.py [--subjects eg3d-reduced ..] [--pairs 3] [--out FOLDER]
    python benchmarks/train_step.py --device cuda [--seconds 60] [--tiny] [--out FOLDER]

Both forms train the same weights through `gan3d.training.phases` with the same draws. Losses and
gradients are compared first (to 1e-3 of the largest gradient, pi-GAN's in float64, because its
sines amplify rounding); then each phase is timed A B A B.
CPU seconds are medians. Memory is the peak of live tensor bytes above the start of the phase, and
the bytes that are kept for the backward pass. Seconds are measured twice, each time in a process of
its own: with the allocator as it is, and keeping memory (`gan3d.allocator`). An iteration is
generator, discriminator, Adam and the average; `amortized` adds the lazy phases by their intervals.
Where R1 is of every step, it is part of the discriminator's.
One subject is one JSON, train_step_SUBJECT.json.

With `--device`, medians on that device in float32, TF32 and bfloat16, with and without the Triton
kernels, beside the published order: one JSON, train_step_on_device.json.

`shared` compares discriminators with R1 in every step: one pass over the reals, and two.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import published_training
import torch
from machine import RESULTS, facts, machine_name, write
from timing import forms, milliseconds, peak_megabytes, precision, started
from torch import Tensor

from gan3d.allocator import VARIABLE, keep_memory
from gan3d.camera import GaussianPose
from gan3d.discriminators import DISCRIMINATORS, DualDiscriminator, StyleGAN2Discriminator
from gan3d.generators import EG3D, GENERATORS, StyleGAN2
from gan3d.generators.eg3d import BackboneOptions
from gan3d.layers.precision import full_precision
from gan3d.layers.superresolution import SuperResolutionOptions
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, DensityRegularization, PathLength
from gan3d.training.micro_batches import Part
from gan3d.training.ray_gradients import RayGradients

TOLERANCE = 1e-3
CPU = torch.device("cpu")
SETTINGS = ("default", "kept")  # the allocator's
Form = Callable[[], None]


@dataclass(frozen=True)
class Member:
    """A pair of networks.

    Attributes:
        build: makes the harness.
        batch: images per iteration.
        lazy: the generator's lazy regularizer; None: neither network has a lazy phase, and R1 is
            part of the discriminator's step.
        in_double: compare the numbers in float64, because the network amplifies rounding.
    """

    build: Callable[[], GAN]
    batch: int
    lazy: str | None = None
    in_double: bool = False


def eg3d(sizes: dict[str, Any], of_discriminator: dict[str, Any]) -> GAN:
    generator = EG3D(**sizes)
    with torch.no_grad():
        generator.decoder.net[2].bias[0] = 3.0  # a visible density
    return GAN(
        generator,
        DualDiscriminator(img_resolution=generator.img_resolution, **of_discriminator),
        fakes=Fakes(poses=GaussianPose()),
        r1=R1(1.0),
        density=DensityRegularization(0.25),
    )


def stylegan2(sizes: dict[str, Any], of_discriminator: dict[str, Any]) -> GAN:
    generator = StyleGAN2(**sizes)
    discriminator = StyleGAN2Discriminator(
        img_resolution=generator.img_resolution, **of_discriminator
    )
    return GAN(
        generator,
        discriminator,
        fakes=Fakes(poses=GaussianPose()),
        r1=R1(1.0, of="image"),
        path_length=PathLength(2.0),
    )


def pair(
    maker: str, of_maker: dict[str, Any], judge: str, of_judge: dict[str, Any], rays: int = 0
) -> GAN:
    """Any pair, with R1 in every step; with `rays`, only so many carry the gradient."""
    return GAN(
        GENERATORS[maker](**of_maker),
        DISCRIMINATORS[judge](**of_judge),
        fakes=Fakes(poses=GaussianPose()),
        rays=RayGradients(mode="partial", num_rays=rays) if rays else RayGradients(),
        r1=R1(10.0, interval=1, of="image"),
    )


def of_size(maker: str, judge: str, side: int, rays: int = 0) -> Callable[[], GAN]:
    """A published pair that makes images of some size."""
    size = {"img_resolution": side}
    return lambda: pair(maker, size, judge, size, rays)


def tiny_pair(maker: str, judge: str, rays: int = 0) -> Callable[[], GAN]:
    return lambda: pair(maker, GENERATORS[maker].tiny, judge, DISCRIMINATORS[judge].tiny, rays)


SMALL_EG3D = {
    "img_resolution": 128,
    "raw_resolution": 32,
    "backbone": BackboneOptions(channel_base=4096, channel_max=64),
    "superresolution": SuperResolutionOptions(layout="8X", channels=(64, 32)),
}
TINY_EG3D = EG3D.tiny | {
    "img_resolution": 64,
    "superresolution": replace(EG3D.tiny["superresolution"], layout="8X"),
}
TINY_JUDGE = {"channel_base": 256, "channel_max": 16, "mapping_layers": 2, "group_size": 2}
MEMBERS = {
    "eg3d-tiny": Member(lambda: eg3d(TINY_EG3D, TINY_JUDGE), 2, "density"),
    "eg3d-reduced": Member(
        lambda: eg3d(SMALL_EG3D, {"channel_base": 4096, "channel_max": 64}), 2, "density"
    ),
    "eg3d-full": Member(lambda: eg3d({"raw_resolution": 64}, {}), 1, "density"),
    "stylegan2-tiny": Member(
        lambda: stylegan2(StyleGAN2.tiny, TINY_JUDGE | {"conv_clamp": None}), 2, "path_length"
    ),
    "stylegan2-reduced": Member(
        lambda: stylegan2(
            {"img_resolution": 64, "channel_base": 4096}, {"channel_base": 4096, "group_size": 2}
        ),
        4,
        "path_length",
    ),
    "stylegan2-full": Member(lambda: stylegan2({}, {}), 2, "path_length"),
    "stylegan3-tiny": Member(tiny_pair("StyleGAN3", "StyleGAN2Discriminator"), 2),
    "stylegan3-reduced": Member(
        lambda: pair(
            "StyleGAN3",
            {"img_resolution": 64, "channel_base": 4096},
            "StyleGAN2Discriminator",
            {"img_resolution": 64, "channel_base": 4096, "group_size": 2},
        ),
        2,
    ),
    "cips3d-tiny": Member(tiny_pair("CIPS3D", "CIPS3DDiscriminator", rays=256), 2),
    "cips3d-partial": Member(of_size("CIPS3D", "CIPS3DDiscriminator", 64, rays=32**2), 2),
    "gram-tiny": Member(tiny_pair("GRAM", "GRAMDiscriminator"), 2),
    "gram-32": Member(of_size("GRAM", "GRAMDiscriminator", 32), 2),
    "pigan-tiny": Member(tiny_pair("PiGAN", "PiGANDiscriminator"), 2, in_double=True),
    "pigan-32": Member(of_size("PiGAN", "PiGANDiscriminator", 32), 2, in_double=True),
}
# What is measured on a device.
ON_DEVICE = ("eg3d-full", "stylegan2-full", "stylegan3-reduced", "cips3d-partial", "pigan-32")
# Discriminators whose recipes have R1 in every step, at full width and at 32 px.
SHARED = {
    "cips3d": ("CIPS3D", "CIPS3DDiscriminator", {"img_resolution": 32}),
    "gram": ("GRAM", "GRAMDiscriminator", {"img_resolution": 32}),
    "pigan": ("PiGAN", "PiGANDiscriminator", {"img_resolution": 32}),
}
SHARED_BATCH = 4


# ------------------------------------------------------------ what is timed


def part_of(gan: GAN, batch: int) -> Part:
    """Reals of a batch, with cameras."""
    side = gan.discriminator.img_resolution
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    draw = gan.draws(range(batch), "reals")
    image = image.clamp(-1, 1).to(gan.device, gan.dtype)
    return Part(image, GaussianPose().sample(draw), list(range(batch)))


def run(gan: GAN, terms: Iterator[Tensor], of_generator: bool) -> None:
    """Backward through the terms of a loss; gradients are left in one network."""
    for network in (gan.generator, gan.discriminator):
        network.requires_grad_((network is gan.generator) == of_generator)
        network.zero_grad(set_to_none=True)
    for term in terms:
        with full_precision(term):
            term.backward()
    gan.phases.tracked = []


def phases_of(gan: GAN, member: Member) -> dict[str, Form]:
    """The phases of an iteration, by name."""
    part = part_of(gan, member.batch)
    gan.phases.batch_size = member.batch

    def phase(name: str) -> Form:
        loss = getattr(gan.phases, f"{name}_loss")
        of_generator = name not in ("discriminator", "r1")
        return lambda: run(gan, loss(part, {}), of_generator)

    lazily = [] if member.lazy is None else [member.lazy]
    names = ["generator", *lazily, "discriminator", *(["r1"] if gan.losses.lazy_d else [])]
    return {name: phase(name) for name in names}


def updates(gan: GAN, theirs: bool) -> Form:
    """Both optimizers and the average, on gradients that are there already."""
    networks, average = (gan.generator, gan.discriminator), gan.generator_ema
    lists = [[p for p in net.parameters() if p.grad is not None] for net in networks]
    if theirs:
        optimizers = [published_training.adam(some, 0.0) for some in lists]
    else:
        rates = (gan.optimizer_g, gan.optimizer_d)
        optimizers = [replace(adam, lr=0.0).build(p) for adam, p in zip(rates, lists, strict=True)]

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()
        if theirs:
            published_training.move_average(average, gan.generator, 0.5)
        else:
            gan.ema.update(average, gan.generator, images_seen=1000, batch_size=50)

    return step


def gradients(gan: GAN) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in gan.named_parameters() if p.grad is not None}


def difference(gan: GAN, ours: Form, theirs: Form) -> float:
    """Largest difference of the gradients of two forms, relative to the largest gradient; one that
    is not there is 0.
    """
    ours()
    mine = gradients(gan)
    theirs()
    other = gradients(gan)
    scale = max(float(g.abs().max()) for g in other.values())
    zero = torch.zeros(())
    names = mine.keys() | other.keys()
    most = max(float((mine.get(n, zero) - other.get(n, zero)).abs().max()) for n in names)
    return most / max(scale, 1e-30)


# ------------------------------------------------------------ measuring


def kept_bytes(work: Form, there_anyway: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward passes of `work`, at most at one time, beside
    those of some tensors.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in there_anyway}
    storages: dict[int, int] = {}
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            most = max(most, sum(storages.values()))
        return tensor

    backward = Tensor.backward

    def backward_then_forget(tensor: Tensor, *args: Any, **options: Any) -> None:
        backward(tensor, *args, **options)
        storages.clear()

    Tensor.backward = backward_then_forget  # type: ignore[method-assign]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            work()
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]
    return most


def compare(
    forms: dict[str, Form],
    around: dict[str, AbstractContextManager],
    pairs: int,
    weighed: GAN | None = None,
) -> dict[str, Any]:
    """CPU seconds of each form, A B A B, medians; with a harness, the memory of each beside it."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(pairs):
        for name, work in forms.items():
            with around[name]:
                start = time.process_time()
                work()
                seconds[name].append(time.process_time() - start)
    row: dict[str, Any] = {name: statistics.median(some) for name, some in seconds.items()}
    if weighed is not None:
        weights = [*weighed.parameters(), *weighed.buffers()]
        for name, work in forms.items():
            with around[name]:
                row[f"{name}_kept_mb"] = kept_bytes(work, weights) / 1e6
                row[f"{name}_peak_mb"] = peak_megabytes(work, CPU)
    return row


class Published(AbstractContextManager):
    """`published_training.operations`, to be entered many times."""

    def __enter__(self) -> None:
        self._within = published_training.operations()
        self._within.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._within.__exit__(*error)


def measure(name: str, pairs: int, memory: bool) -> dict[str, Any]:
    """All phases of a member, and its whole iteration."""
    torch.manual_seed(0)
    member = MEMBERS[name]
    gan = member.build()
    theirs = Published()

    # the same numbers
    errors: dict[str, float] = {}
    for phase, work in phases_of(gan.double() if member.in_double else gan, member).items():

        def published_work(work: Form = work) -> None:
            with theirs:
                work()

        errors[phase] = error = difference(gan, work, published_work)
        if not error <= TOLERANCE:
            raise SystemExit(f"{name} {phase}: the two forms differ by {error:.2g}; not measured")

    # in turn
    phases = phases_of(gan.float(), member)
    around: dict[str, AbstractContextManager] = {"ours": nullcontext(), "published": theirs}
    rows: dict[str, Any] = {}
    for phase, work in phases.items():
        forms = {"ours": work, "published": work}
        rows[phase] = compare(forms, around, pairs, gan if memory else None)
        rows[phase]["difference"] = errors[phase]

    # Gradients of both networks, for the optimizers.
    phases["generator"]()
    of_generator = {p: p.grad for p in gan.generator.parameters()}
    phases["discriminator"]()
    for p, gradient in of_generator.items():
        p.grad = gradient
    none = {"ours": nullcontext(), "published": nullcontext()}
    forms = {"ours": updates(gan, False), "published": updates(gan, True)}
    rows["updates"] = compare(forms, none, max(pairs, 3))

    losses = gan.losses
    intervals = {"r1": losses.r1.interval, "density": losses.density.interval}
    intervals["path_length"] = losses.path_length.interval
    lazy = [phase for phase in phases if phase in intervals]
    for form in ("ours", "published"):
        once = sum(rows[phase][form] for phase in ("generator", "discriminator", "updates"))
        rows.setdefault("iteration", {})[form] = once
        if lazy:
            lazily = sum(rows[phase][form] / intervals[phase] for phase in lazy)
            rows.setdefault("amortized", {})[form] = once + lazily
    for row in rows.values():
        row["ratio"] = row["ours"] / row["published"]
    return {"batch": member.batch, "rows": rows}


def measure_shared(name: str, pairs: int, tiny: bool = False) -> dict[str, float]:
    """A discriminator's step with R1: its pass over the reals shared, and made twice."""
    torch.manual_seed(0)
    maker, judge, sizes = SHARED[name]
    cls = DISCRIMINATORS[judge]
    gan = GAN(
        GENERATORS[maker](**GENERATORS[maker].tiny),
        cls(**(cls.tiny if tiny else sizes)),
        fakes=Fakes(poses=GaussianPose()),
        r1=R1(10.0, interval=1, of="image"),
    )
    part = part_of(gan, SHARED_BATCH)
    without = replace(gan.losses, r1=R1(0.0, interval=1))
    alone = replace(copy.copy(gan.phases), losses=without)

    def twice() -> Iterator[Tensor]:
        yield from alone.discriminator_loss(part, {})
        yield from gan.phases.r1_loss(part, {})

    forms: dict[str, Form] = {
        "ours": lambda: run(gan, gan.phases.discriminator_loss(part, {}), False),
        "twice": lambda: run(gan, twice(), False),
    }
    error = difference(gan, forms["ours"], forms["twice"])
    if not error <= TOLERANCE:
        raise SystemExit(f"{name}: shared and separate passes differ by {error:.2g}")
    row = compare(forms, {"ours": nullcontext(), "twice": nullcontext()}, pairs)
    return row | {"difference": error, "ratio": row["ours"] / row["twice"]}


# ------------------------------------------------------------ on a device


def measure_on(name: str, device: torch.device, deadline: float) -> Iterator[dict[str, Any]]:
    """The phases of a member in every precision, with and without kernels, and as published."""
    torch.manual_seed(0)
    member = MEMBERS[name]
    gan = member.build().to(device)
    phases, theirs = phases_of(gan, member), Published()
    around: dict[str, Callable[[], AbstractContextManager]] = {
        **forms(device),
        "published, tf32": lambda: _both(precision("tf32", device), theirs),
    }
    is_half = not (gan.generator.no_float16 or gan.discriminator.no_float16)
    for form, context in around.items():
        if form.startswith("fp16") and not is_half:
            continue  # as published
        for phase, work in phases.items():
            if time.perf_counter() > deadline:
                return
            with context():
                took = milliseconds(work, device, most=10)
                row = {"subject": name, "batch": member.batch, "form": form, "phase": phase}
                yield row | took | {"peak_mb": peak_megabytes(work, device)}


@contextmanager
def _both(*contexts: AbstractContextManager) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def run_on(device: torch.device, seconds: float, tiny: bool, out: Path) -> None:
    """Measures members on a device, and writes after every row."""
    deadline = started() + seconds
    result: dict[str, Any] = facts(device) | {"rows": []}
    for name in ("eg3d-tiny",) if tiny else ON_DEVICE:
        for row in measure_on(name, device, deadline):
            result["rows"].append(row)
            print(row, flush=True)
            write("train_step_on_device", result, out)
    result["cut_short"] = time.perf_counter() > deadline
    print(write("train_step_on_device", result, out))


# ------------------------------------------------------------ the command


def measured(subject: str, pairs: int, memory: bool) -> dict[str, Any]:
    """What a process measures of a subject."""
    result: dict[str, Any] = {"memory_is_kept": keep_memory()}
    if subject == "shared":
        return result | {"rows": {name: measure_shared(name, pairs) for name in SHARED}}
    return result | measure(subject, pairs, memory)


def in_own_process(subject: str, setting: str, pairs: int) -> dict[str, Any]:
    """The same with one of the allocator's settings, in a new process."""
    command = [sys.executable, __file__, "--child", setting, "--pairs", str(pairs)]
    env = {name: value for name, value in os.environ.items() if name != VARIABLE}
    env |= {VARIABLE: "default"} if setting == "default" else {}
    done = subprocess.run(
        [*command, "--subjects", subject], check=True, stdout=subprocess.PIPE, text=True, env=env
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    subjects = [*MEMBERS, "shared"]
    default = [name for name in subjects if not name.endswith("tiny")]
    add("--subjects", nargs="+", choices=subjects, default=default)
    add("--pairs", type=int, default=3, help="how often A B is repeated")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    add("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    add("--device", help="measure on this device in all precisions")
    add("--seconds", type=float, default=120.0, help="no further row is begun after these")
    add("--tiny", action="store_true", help="with --device: a tiny pair, anywhere in seconds")
    options = parser.parse_args()
    if options.device:
        device = torch.device(options.device)
        folder = options.out or RESULTS / machine_name(device)
        return run_on(device, options.seconds, options.tiny, folder)
    torch.set_num_threads(1)
    if options.child:  # memory is the same with either setting
        memory = options.child == "default"
        print(json.dumps(measured(options.subjects[0], options.pairs, memory)))
        return
    for subject in options.subjects:
        result: dict[str, Any] = facts() | {"pairs": options.pairs, "tolerance": TOLERANCE}
        result["subject"] = subject
        result["allocator"] = {
            setting: in_own_process(subject, setting, options.pairs) for setting in SETTINGS
        }
        print(write(f"train_step_{subject}", result, options.out))


if __name__ == "__main__":
    main()
