"""Trains a tiny EG3D for four iterations with snapshots and evaluation: a script, for a process of
its own.

python watch_tiny.py DATA RUN_DIR --devices 2 [--strategy gan_fsdp_both]
"""

import argparse

import torch
from lightning.pytorch import Trainer, seed_everything

import gan3d.training.strategies  # noqa: F401 - registers ours
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import DualDiscriminator
from gan3d.generators import EG3D
from gan3d.training.callbacks import Distributions, Evaluation, KimgProgressBar, Snapshots
from gan3d.training.gan import GAN
from gan3d.training.loggers import DiskLogger
from gan3d.training.run import Run

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("run_dir")
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--strategy", default="gan_ddp")
args = parser.parse_args()
torch.set_num_threads(1)
seed_everything(0)
gan = GAN(
    EG3D(**EG3D.tiny),
    DualDiscriminator(**DualDiscriminator.tiny),
    run=Run(total_kimg=0.032, log_every_kimg=0.016),
)
trainer = Trainer(
    accelerator="cpu",
    devices=args.devices,
    strategy=args.strategy if args.devices > 1 else "auto",
    precision="64-true",
    max_epochs=-1,
    logger=DiskLogger(args.run_dir),
    callbacks=[
        KimgProgressBar(print_seconds=1e6),  # at the end only
        Snapshots(0.016, num_heads=2, video_heads=1, video_frames=2),
        Evaluation(0.016, num_images=11, batch_size=3),
        Distributions(0.016, num_images=8, batch_size=4),
    ],
    enable_checkpointing=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
    num_sanity_val_steps=0,
    limit_val_batches=0,
)
trainer.fit(gan, PosedImagesModule(path=args.data, batch_size=8, num_workers=0, heldout=13))
