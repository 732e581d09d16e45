"""Trains a tiny model for some iterations: run as a script by tests that need a process of their
own.

python train_tiny.py DATA [--model cips3d] [--out STATE] [--run DIR [--resume] [--kill-at K]]
[--from CHECKPOINT] [--devices 2] ..

Words after `then` are another training of the same process, with these options over the first ones:
starting takes longer than training.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import fields
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler

from gan3d.augment import ADA, Augmentation, Blur
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import (
    CIPS3DDiscriminator,
    DualDiscriminator,
    GRAMDiscriminator,
    PiGANDiscriminator,
    StyleGAN2Discriminator,
)
from gan3d.generators import CIPS3D, EG3D, GRAMHD, PiGAN, StyleGAN2, StyleGAN3
from gan3d.schedules import Ramp
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.ema import EMA
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.loggers import DiskLogger
from gan3d.training.losses import (
    R1,
    R2,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
    Relativistic,
    TopK,
)
from gan3d.training.optimizers import Adam
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.run import Run
from gan3d.training.sharding import gathered
from gan3d.training.signals import StopOnSignal
from gan3d.training.stages import Stage
from gan3d.training.strategies import GANFSDPStrategy  # and registers gan_ddp

BATCH = 8


def grouped(**options) -> dict:
    """Arguments of GAN, with the fields of its groups sorted into them."""
    for name, group in (("run", Run), ("fakes", Fakes), ("augmentation", Augmentation)):
        own = {f.name for f in fields(group)} & options.keys()
        if own:
            options[name] = group(**{field: options.pop(field) for field in own})
    return options


class Asked(Callback):
    """One of several processes is asked to stop, in the fifth iteration."""

    def __init__(self, rank: int):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 4:
            os.kill(os.getpid(), signal.SIGUSR1)


class Kill(Callback):
    """Dies like a machine that loses power, in the middle of an iteration."""

    def __init__(self, at: int):
        self.at = at

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if int(pl_module.iterations) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def eg3d(**options) -> GAN:
    """Everything that EG3D, StyleGAN2 and ADA regularize."""
    return GAN(
        EG3D(**EG3D.tiny),
        DualDiscriminator(**DualDiscriminator.tiny),
        **grouped(
            r1=R1(gamma=1.0, interval=4),
            density=DensityRegularization(weight=0.25, interval=4, num_points=50),
            conditioning=PoseConditioning(fade_kimg=0.05),
            style_mixing=0.5,
            ada=ADA(preset="bgc", target=0.0, kimg=0.1),
            ema=EMA(half_life_kimg=0.05),
            **options,
        ),
    )


def cips3d(**options) -> GAN:
    """Stages in the middle of the run: 8 px, 16 px fading in, 32 px in chunks of rays with a frozen
    NeRF.
    """
    stages = [
        Stage(resolution=8),
        Stage(from_kimg=0.032, resolution=16, fade_kimg=0.024, lr_g=1e-3, gamma=2.0, num_rays=100),
        Stage(from_kimg=0.064, batch_size=4, diffaug=True, judge_raw=False, freeze="nerf"),
    ]
    return GAN(
        CIPS3D(**CIPS3D.tiny),
        CIPS3DDiscriminator(**CIPS3DDiscriminator.tiny),
        **grouped(
            r1=R1(gamma=1.0, interval=1, of="image"),
            rays=RayGradients("chunked", chunk=300),
            density_noise=Ramp(1.0, 0.0, fade_kimg=0.05),
            stages=stages,
            ema=EMA(half_life_kimg=0.05, ramp_up=0, start_kimg=0.016),
            optimizer_g=Adam(lr=2e-3, clip_norm=10),
            optimizer_d=Adam(lr=2e-3, clip_norm=10),
            **options,
        ),
    )


def gramhd(**options) -> GAN:
    """The second stage of GRAM-HD, with all of its losses."""
    return GAN(
        GRAMHD(**GRAMHD.tiny),
        GRAMDiscriminator(**GRAMDiscriminator.tiny),
        **grouped(
            r1=R1(gamma=1.0, interval=1),
            pose=PosePrediction(weight=15.0, real_weight=15.0),
            patch=Patches(weight=0.1),
            consistency=CrossResolution(weight=1.0),
            ema=EMA(half_life_kimg=0.05),
            optimizer_g=Adam(lr=2e-4, clip_norm=0.3),
            optimizer_d=Adam(lr=2e-4, clip_norm=0.3),
            **options,
        ),
    )


def stylegan3(**options) -> GAN:
    """A 2D model with running magnitudes, style mixing, blur and augmentation."""
    return GAN(
        StyleGAN3(**StyleGAN3.tiny),
        StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0}),
        **grouped(
            r1=R1(gamma=1.0, interval=4, of="image"),
            style_mixing=0.9,
            blur=Blur(sigma=2.0, fade_kimg=0.1),
            ada=ADA(preset="bg", p=0.5),
            ema=EMA(half_life_kimg=0.05),
            **options,
        ),
    )


def stylegan2(**options) -> GAN:
    """What looks at the whole batch: ranks of fakes, the mean path length, noise on labels."""
    return GAN(
        StyleGAN2(**StyleGAN2.tiny | {"c_dim": 25}),
        StyleGAN2Discriminator(
            **StyleGAN2Discriminator.tiny | {"c_dim": 25, "group_size": 1, "disc_c_noise": 1.0}
        ),
        **grouped(
            adversarial=TopK(interval_kimg=1e-4, smallest=0.6),
            r1=R1(gamma=1.0, interval=4),
            path_length=PathLength(weight=2.0, interval=2, decay=0.5, batch_shrink=3),
            ema=EMA(half_life_kimg=0.05),
            **options,
        ),
    )


def pigan(**options) -> GAN:
    """Two views of each scene, pairs of fakes and reals, both gradient penalties, predicted z."""
    return GAN(
        PiGAN(**PiGAN.tiny),
        PiGANDiscriminator(**PiGANDiscriminator.tiny | {"z_dim": PiGAN.tiny["z_dim"]}),
        **grouped(
            adversarial=Relativistic(),
            r1=R1(gamma=1.0, interval=4),
            r2=R2(gamma=1.0),
            latent=LatentPrediction(weight=1.0),
            views=2,
            ema=EMA(half_life_kimg=0.05),
            **options,
        ),
    )


MODELS = {
    "eg3d": eg3d,
    "cips3d": cips3d,
    "gramhd": gramhd,
    "stylegan2": stylegan2,
    "stylegan3": stylegan3,
    "pigan": pigan,
}


class Gradients(Callback):
    """Writes the gradients of each optimizer step, whole, by step and place."""

    def __init__(self, path: str):
        self.path, self.found = path, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = {k: p.grad for k, p in enumerate(parameters) if p.grad is not None}
        self.found.append(gathered(gradients, keep=trainer.is_global_zero))

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            torch.save(self.found, self.path)


class Traffic(Callback):
    """Counts the numbers in the long messages of a process, by kind, and writes them."""

    LONG = 5000

    def __init__(self, path: Path):
        self.path, self.former = path, {}
        self.found = {"all_reduce": 0, "all_gather": 0, "reduce_scatter": 0}

    def on_train_start(self, trainer, pl_module) -> None:
        # torch 2.13 calls them so, earlier ones all_gather_into_tensor and reduce_scatter_tensor.
        names = "all_reduce", "all_gather_single", "reduce_scatter_single"
        for kind, name in zip(self.found, names, strict=True):
            self.former[name] = getattr(dist, name)
            setattr(dist, name, partial(self._counted, kind, self.former[name]))

    def _counted(self, kind: str, send, *args, **kwargs):
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        whole = max(tensor.numel() for tensor in tensors)
        if whole >= self.LONG:
            self.found[kind] += whole
        return send(*args, **kwargs)

    def on_train_end(self, trainer, pl_module) -> None:
        for name, send in self.former.items():
            setattr(dist, name, send)
        if trainer.is_global_zero:
            sizes = [sum(p.numel() for p in net.parameters()) for net in pl_module._trainable]
            self.path.write_text(json.dumps({"messages": self.found, "parameters": sizes}))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model", default="eg3d", choices=MODELS)
    parser.add_argument("--out")
    parser.add_argument("--gradients")
    parser.add_argument("--traffic", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--from", dest="start", help="a checkpoint to go on from")
    parser.add_argument("--sharded", action="store_true", help="checkpoints")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--stop-rank", type=int, help="this process gets SIGUSR1")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--strategy", help="default: gan_ddp of several devices")
    parser.add_argument("--copies", type=int, default=1, help="of both networks, sharded")
    parser.add_argument("--micro", type=int)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--precision", default="64-true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def float16() -> MixedPrecision:
    """In place of `16-mixed`, by which Lightning means bfloat16 on a CPU. Its scale is so large
    that the first steps are skipped.
    """
    return MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**20))


def strategy_of(args: argparse.Namespace) -> str | GANFSDPStrategy:
    if args.copies > 1:
        return GANFSDPStrategy(shard_discriminator=True, copies=args.copies)
    return args.strategy or ("gan_ddp" if args.devices > 1 else "auto")


def train(args: argparse.Namespace) -> None:
    seed_everything(0)
    gan = MODELS[args.model](
        micro_batch_size=args.micro,
        seed=args.seed,
        total_kimg=BATCH * args.iterations / 1000,
        log_every_kimg=0.020,
    )
    callbacks: list[Callback] = []
    if args.run:
        folder = args.run / "checkpoints"
        callbacks.append(Checkpoints(folder, every_kimg=0.024, sharded=args.sharded))
    if args.kill_at is not None:
        callbacks.append(Kill(args.kill_at))
    if args.stop_rank is not None:
        callbacks += [Asked(args.stop_rank), StopOnSignal()]
    if args.traffic:
        callbacks.append(Traffic(args.traffic))
    if args.gradients:
        callbacks.append(Gradients(args.gradients))
    trainer = Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy=strategy_of(args),
        precision=None if args.precision == "16-mixed" else args.precision,
        plugins=float16() if args.precision == "16-mixed" else None,
        max_epochs=-1,
        logger=DiskLogger(args.run) if args.run else False,
        callbacks=callbacks,
        enable_checkpointing=bool(args.run),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = PosedImagesModule(path=args.data, batch_size=BATCH, num_workers=args.workers)
    last = str(args.run / "checkpoints" / "last.ckpt") if args.resume else None
    trainer.fit(gan, data, ckpt_path=args.start or last)
    assert trainer.global_step == int(gan.iterations), (
        f"{trainer.global_step} steps for {gan.iterations} iterations"
    )
    state = gathered(gan.state_dict(), keep=trainer.is_global_zero)
    if args.out and trainer.is_global_zero:
        torch.save(state, args.out)


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    first, *others = (list(some) for is_then, some in groupby(words, "then".__eq__) if not is_then)
    for more in [[], *others]:
        train(arguments().parse_args([*first, *more]))


if __name__ == "__main__":
    main(sys.argv[1:])
