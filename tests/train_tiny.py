"""Trains a tiny EG3D for some iterations: run as a script by tests that need a process of their own.

python train_tiny.py DATA [--out STATE] [--run DIR [--resume] [--kill-at K]] [--devices 2] [--micro 4] ...
"""

import argparse
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

import gan3d.strategies  # noqa: F401 - registers gan_ddp
from gan3d.augment import ADA
from gan3d.checkpoints.training import Checkpoints
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import DualDiscriminator
from gan3d.ema import EMA
from gan3d.gan import GAN
from gan3d.generators import EG3D
from gan3d.loggers import DiskLogger
from gan3d.losses import R1, DensityRegularisation, PoseConditioning

BATCH = 8


class Kill(Callback):
    """Dies like a machine that loses power, in the middle of an iteration."""

    def __init__(self, at: int):
        self.at = at

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if int(pl_module.iterations) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--micro", type=int)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--precision", default="64-true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(0)
    gan = GAN(
        EG3D(**EG3D.tiny),
        DualDiscriminator(**DualDiscriminator.tiny),
        r1=R1(gamma=1.0, interval=4),
        density=DensityRegularisation(weight=0.25, interval=4, num_points=50),
        conditioning=PoseConditioning(fade_kimg=0.05),
        style_mixing=0.5,
        augment=ADA(preset="bgc", target=0.0, kimg=0.1),
        ema=EMA(half_life_kimg=0.05),
        micro_batch_size=args.micro,
        seed=args.seed,
        total_kimg=BATCH * args.iterations / 1000,
        log_every_kimg=0.020,
    )
    callbacks: list[Callback] = []
    if args.run:
        callbacks.append(Checkpoints(args.run / "checkpoints", every_kimg=0.024))
    if args.kill_at is not None:
        callbacks.append(Kill(args.kill_at))
    trainer = Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy="gan_ddp" if args.devices > 1 else "auto",
        precision=args.precision,
        max_epochs=-1,
        logger=DiskLogger(args.run) if args.run else False,
        callbacks=callbacks,
        enable_checkpointing=bool(args.run),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = PosedImagesModule(path=args.data, batch_size=BATCH, num_workers=args.workers)
    trainer.fit(gan, data, ckpt_path=str(args.run / "checkpoints" / "last.ckpt") if args.resume else None)
    assert trainer.global_step == args.iterations, f"{trainer.global_step} steps for {args.iterations} iterations"
    if args.out and trainer.is_global_zero:
        torch.save(gan.state_dict(), args.out)


if __name__ == "__main__":
    main()
