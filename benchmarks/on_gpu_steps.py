"""The steps of `on_gpu.py` that are no benchmarks of their own.

python benchmarks/on_gpu_steps.py data|members|profile|train [--device cuda] [--tiny]
    [--seconds 60] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from machine import facts, write
from PIL import Image
from recipes import gan_of, random_reals
from timing import milliseconds, peak_megabytes, started, tf32, wait
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gan3d.apps.pictures import enlarge, grid, to_uint8
from gan3d.apps.samples import sample_turned
from gan3d.camera import GaussianPose
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.heads import head_camera, write_heads
from gan3d.discriminators import DISCRIMINATORS, check_pair
from gan3d.generators import GENERATORS, Generator
from gan3d.host import set_number
from gan3d.metrics import FrechetDistance, SmallFeatures
from gan3d.metrics.heads import measure_heads
from gan3d.metrics.measure import Protocol, fake_pictures
from gan3d.randomness import Randomness
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1
from gan3d.zoo import configs

# The published recipe of each generator.
FULL = {
    "EG3D": "eg3d_ffhq512",
    "CIPS3D": "cips3d_ffhq256",
    "GRAM": "gram_ffhq256",
    "GRAMHD": "gramhd_ffhq256",
    "PiGAN": "pigan_celeba128",
    "StyleGAN2": "stylegan2_ffhq256",
    "StyleGAN3": "stylegan3t_ffhq256",
}
# Largest difference of an image from the CPU's, in units of its range.
MOST_DIFFERENCE = 0.02
YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)


@dataclass(frozen=True)
class Options:
    """What a step is given."""

    device: torch.device
    tiny: bool
    seconds: float
    data: Path
    out: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "begin", started())

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.perf_counter() - self.begin)  # type: ignore[attr-defined]


def trainer_for(
    options: Options, iterations: int, *callbacks: Callback, half: bool = False
) -> Trainer:
    """Lightning's trainer on one device, which writes nothing; with `half` in float16."""
    return Trainer(
        plugins=MixedPrecision("16-mixed", options.device.type) if half else None,
        accelerator="gpu" if options.device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=-1,
        max_steps=iterations,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


# ------------------------------------------------------------ data


def heads_of(options: Options) -> tuple[Path, int, int, int]:
    """The data set: file, number of heads, side, and how many are held out."""
    if options.tiny:
        return options.data / "heads32.zip", 40, 32, 8
    number = max(1000, min(8000, 400 * len(os.sched_getaffinity(0))))
    return options.data / "heads64.zip", number, 64, 500


def data(options: Options) -> int:
    """Procedural heads to train on; the file appears when it is complete."""
    path, number, side, _ = heads_of(options)
    workers = max(len(os.sched_getaffinity(0)) - 2, 1)
    if not path.exists():
        write_heads(path, number, side, workers=workers, ground_truth=False)
    return 0


# ------------------------------------------------------------ members


def tiny_gan(name: str) -> GAN:
    """A tiny generator with a tiny discriminator: that of its published training, if it judges what
    is that small, else the first that does.
    """
    generator = GENERATORS[name](**GENERATORS[name].tiny)
    published = configs.read(configs.find(FULL[name]))["model"]["discriminator"]["class_path"]
    others = [cls for key, cls in sorted(DISCRIMINATORS.items()) if key != published]
    for cls in (DISCRIMINATORS[published], *others):
        discriminator = cls(**cls.tiny)
        try:
            check_pair(generator, discriminator)
        except ValueError:
            continue
        return GAN(generator, discriminator, fakes=Fakes(poses=GaussianPose()), r1=R1(1.0))
    raise ValueError(f"no discriminator judges {name}")


class LastStage(Callback):
    """Makes every iteration the first one of the last stage, in which all phases run, and notes how
    long each took.
    """

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        last = [stage.from_kimg for stage in pl_module.stages][-1]
        set_number(pl_module.images_seen, round(1000 * last))
        set_number(pl_module.iterations, 0)
        wait(self.device)
        self.begin = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self.begin)


def inputs_of(generator: Generator, device: torch.device, batch: int) -> tuple[Tensor, Any]:
    """z and cameras, the same on every device."""
    draw = Randomness(0, range(batch))
    camera = GaussianPose().sample(draw) if generator.has_camera else None
    z = draw.normal("z", generator.z_dim)
    return z.to(device), None if camera is None else camera.to(device)


@torch.no_grad()
def difference_from_cpu(generator: Generator, device: torch.device) -> float:
    """Largest difference of an image from the same one on the CPU, in units of its range."""
    z, camera = inputs_of(generator, torch.device("cpu"), 2)
    expected = generator.cpu().eval()(z, camera).image
    z, camera = inputs_of(generator, device, 2)
    with tf32(False):
        found = generator.to(device)(z, camera).image.cpu()
    span = float(expected.max() - expected.min())
    return float((found - expected).abs().max()) / max(span, 1e-6)


def member(name: str, size: str, options: Options) -> dict[str, Any]:
    """Forward, backward and one iteration of a generator with its discriminator."""
    torch.manual_seed(0)
    device, row = options.device, {}
    gan = tiny_gan(name) if size == "tiny" else gan_of(FULL[name])
    generator = gan.generator
    if size == "tiny":
        row["difference_from_cpu"] = difference = difference_from_cpu(generator, device)
        if not difference <= MOST_DIFFERENCE:
            raise ArithmeticError(f"the image differs from the CPU's by {difference:.2g}")
    generator.to(device).train()
    z, camera = inputs_of(generator, device, 2)

    @torch.no_grad()
    def forward() -> None:
        generator(z, camera)

    def both() -> None:
        generator(z, camera).image.square().mean().backward()
        generator.zero_grad(set_to_none=True)

    short = {"seconds": 0.2, "most": 10}
    row["forward_ms"] = milliseconds(forward, device, **short)["ms"]  # type: ignore[arg-type]
    row["both_ms"] = milliseconds(both, device, **short)["ms"]  # type: ignore[arg-type]
    row["both_peak_mb"] = peak_megabytes(both, device)

    batch, times = max(gan.discriminator.group_size, 2), LastStage(device)
    reals = random_reals(generator.img_resolution, batch, 2)
    row["batch"] = batch
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer_for(options, 2, times).fit(gan, reals)
    row["first_iteration_s"], row["iteration_s"] = times.seconds
    if device.type == "cuda":
        row["iteration_peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    if not (generator.no_float16 or gan.discriminator.no_float16):
        # The scale of the losses begins at 65,536: what is too large for it is skipped.
        times = LastStage(device)
        trainer_for(options, 2, times, half=True).fit(gan, reals)
        row["float16_iteration_s"] = times.seconds[-1]
    return row


def members(options: Options) -> int:
    """Every generator, tiny and, but for --tiny, at its published size."""
    result: dict[str, Any] = {**facts(options.device), "rows": {}}
    failed = False
    for size in ("tiny",) if options.tiny else ("tiny", "full"):
        for name in sorted(GENERATORS):
            if options.left < 0:
                row: dict[str, Any] = {"skipped": "no time was left"}
            else:
                try:
                    row = member(name, size, options)
                except Exception as error:  # what one cannot do says nothing of the others
                    failed = True
                    row = {"failed": f"{type(error).__name__}: {error}"[:500]}
                    traceback.print_exc()
            result["rows"][f"{name} {size}"] = row
            print(name, size, row, flush=True)
            write("members", result, options.out)
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
    return int(failed)


# ------------------------------------------------------------ profile


def summed(profiler: Any, on_gpu: bool) -> dict[str, Any]:
    """Milliseconds and calls by range and by kernel, the largest first."""
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = profiler.key_averages()
    ranges: dict[str, Any] = {}
    kernels: list[tuple[float, int, str]] = []
    names = ("generator", "density", "path_length", "discriminator", "r1", "average", "reading")
    for row in rows:
        if row.key in names:
            ranges[row.key] = {
                "host_ms": row.cpu_time_total / 1000,
                "device_ms": row.device_time_total / 1000,
            }
        elif getattr(row, key) > 0:
            kernels.append((getattr(row, key) / 1000, row.count, row.key[:120]))
    launched = sum(row.count for row in rows if "LaunchKernel" in row.key)
    largest = [{"ms": m, "calls": n, "name": k} for m, n, k in sorted(kernels, reverse=True)[:40]]
    return {"phases": ranges, "kernels": largest, "launches": launched}


def profile_step(options: Options) -> int:
    """One iteration of EG3D, all phases, after one that warms up."""
    gan = tiny_gan("EG3D") if options.tiny else gan_of(FULL["EG3D"])
    on_gpu = options.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]

    class Second(LastStage):
        """Profiles the second iteration."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if batch_idx == 1:
                self.profiler = profile(activities=kinds)
                self.profiler.__enter__()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if batch_idx == 1:
                self.profiler.__exit__(None, None, None)

    second, batch = Second(options.device), max(gan.discriminator.group_size, 2)
    reals = random_reals(gan.generator.img_resolution, batch, 2)
    trainer_for(options, 2, second).fit(gan, reals)
    result = facts(options.device) | {"batch": batch, "seconds": second.seconds[-1]}
    print(write("profile", result | summed(second.profiler, on_gpu), options.out))
    return 0


# ------------------------------------------------------------ train


class Until(Callback):
    """Stops a training when a time is over, and counts its iterations."""

    def __init__(self, seconds: float):
        self.end, self.iterations = time.monotonic() + seconds, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.iterations += 1
        trainer.should_stop = time.monotonic() > self.end


def train(options: Options) -> int:
    """A generator of heads, for three quarters of the time that is left; pictures and scores."""
    path, _, _, heldout = heads_of(options)
    while not path.exists() and options.left > 0.4 * options.seconds:
        time.sleep(0.5)
    if not path.exists():
        print(f"there are no heads yet: {path}")
        return 1
    torch.manual_seed(0)
    gan = gan_of("eg3d_heads32" if options.tiny else "eg3d_heads64")
    reals = PosedImagesModule(str(path), batch_size=8, heldout=heldout, num_workers=0)
    until = Until(0.7 * options.left)
    begin = time.monotonic()
    with tf32(options.device.type == "cuda"):
        trainer_for(options, -1, until).fit(gan, reals)
    seconds = time.monotonic() - begin
    generator = gan.generator_ema.to(options.device).eval()
    result: dict[str, Any] = facts(options.device) | {
        "iterations": until.iterations,
        "kimg": gan.seen / 1000,
        "seconds": seconds,
        "images_per_second": gan.seen / seconds,
    }
    write("train", result, options.out)
    generator.save_pretrained(options.out / "generator", facts={"kimg": gan.seen / 1000})

    # pictures: a row of views of each scene
    cameras = [head_camera(torch.tensor([yaw]), torch.zeros(1)) for yaw in YAWS]
    views = sample_turned(generator, range(4 if options.tiny else 8), cameras)
    pictures = torch.stack([view.image.cpu() for view in views], 1).flatten(0, 1)
    shown = grid(enlarge(to_uint8(pictures), 96), len(YAWS))
    Image.fromarray(shown).save(options.out / "heads.png")

    # scores
    number = 16 if options.tiny else 500
    distance = FrechetDistance(SmallFeatures()).to(options.device)
    for batch in reals.val_dataloader():  # type: ignore[union-attr]
        distance.update(batch.image.to(options.device), real=True)
    poses = gan.phases.poses
    for images in fake_pictures(generator, Protocol(number, 8), poses.sample):
        distance.update(images, real=False)
    result["distance"] = float(distance.compute())
    result["distance_of"] = {"fakes": number, "reals": heldout}
    z = Randomness(0, range(4 if options.tiny else 32), device=options.device)
    latents = z.normal("z", generator.z_dim)
    result["heads"] = measure_heads(generator, latents.split(8))
    print(write("train", result, options.out), result)
    return 0


STEPS: dict[str, Callable[[Options], int]] = {
    "data": data,
    "members": members,
    "profile": profile_step,
    "train": train,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("step", choices=STEPS)
    add("--device", default="cuda")
    add("--tiny", action="store_true")
    add("--seconds", type=float, default=60.0)
    add("--data", type=Path, default=Path("on_gpu"), help="folder of the data set")
    add("--out", type=Path, default=Path("on_gpu"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    options = Options(torch.device(given.device), given.tiny, given.seconds, given.data, given.out)
    return STEPS[given.step](options)


if __name__ == "__main__":
    raise SystemExit(main())
