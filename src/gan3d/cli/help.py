"""Help pages of the Trainer's verbs: what is used every day, without importing torch. Every option,
with its type and default: `--help all`.
"""

from __future__ import annotations

FIT = """\
usage: lightning fit --config NAME [--config OVERLAY] [options]

what, and where it goes
  --config NAME                      a file, or a packaged config (gan3d configs); the last one wins
  --data.path PATH                   folder or zip of images (docs/data.md)
  --run_dir DIR                      folder of the run; runs/<config> by default, auto: a new one
  --ckpt_path last                   go on with the run of that folder, or of a checkpoint's file
  --resume auto                      the same if there is a checkpoint, else start: requeued jobs
  --overwrite true                   start over in a folder that holds a run, which moves aside
  --dry_run true                     check everything, say the plan, and stop

how long
  --model.run.total_kimg 25000       thousands of images
  --trainer.max_time 00:08:00:00     stop after days:hours:minutes:seconds of this session

data
  --data.batch_size 32               images per iteration, over all devices
  --data.resolution 64               shrink to that
  --data.mirror true                 train on mirrored images, too
  --data.heldout 500                 keep images for the evaluation

training
  --model.generator CLASS            and its arguments: --model.generator.z_dim 128
  --model.discriminator CLASS        and its arguments
  --model.r1.gamma 1                 weight of the gradient penalty
  --model.optimizer_g.lr 0.0025      learning rate; also optimizer_d
  --model.augmentation.ada.preset    adaptive augmentation, such as bgc
  --model.run.init_from FILE         start from other weights
  --seed_everything 1                another seed

speed and memory
  --trainer.devices 2                several share a batch (--trainer.strategy gan_ddp)
  --trainer.strategy gan_fsdp        they share the generator's weights, too (docs/distributed.md)
  --trainer.precision bf16-mixed
  --model.run.micro_batch_size 8     less memory, the same result
  --threads 4                        of each process

what is shown
  --logger csv,tensorboard,wandb     csv is always there; --wandb_mode offline needs no account
  --snapshots.every_kimg 200         pictures and videos
  --evaluation.every_kimg 200        distance to held-out images
  --distributions.every_kimg 200     histograms of logits and poses
  --checkpoints.every_kimg 20
  --view 8080                        the average in a browser while it trains (docs/apps.md)

more
  lightning fit --help all                        every option, with its type and default
  lightning fit --model.generator.help EG3D       arguments of a class
  lightning fit --config NAME --print_config      the whole config, resolved
"""

EVALUATE = """\
usage: lightning {verb} --ckpt_path FILE | --ckpt_path last --run_dir DIR  [options]

{what}
Config and data are those of the checkpoint's run; options go before them.

  --ckpt_path FILE                   a checkpoint, such as runs/NAME/checkpoints/last.ckpt
  --run_dir DIR                      folder of the run, for --ckpt_path last
  --data.path PATH                   other images, or the same ones in another place
  --data.heldout 500                 images that are held out, and compared with
{own}
more
  lightning {verb} --help all          every option, with its type and default
"""

ESTIMATE = """\
usage: gan3d estimate --config NAME [--config OVERLAY] [--gpu CARD] [options of fit]

Trains on tensors without numbers, and says what each device would need. No data are needed.

  --config NAME                      a file, or a packaged config (gan3d configs)
  --gpu h100                         h100, h200, a100, rtx4090, v100 or t4; else what is here
  --trainer.devices 8                that share a batch
  --trainer.precision bf16-mixed
  --data.batch_size 32               images per iteration, over all devices
  --model.run.micro_batch_size 4     images at once

more
  gan3d estimate --help all          every option, with its type and default
"""

PREDICT = """\
  --num 16                           scenes
  --seed 0                           of the scenes; number 0 is the one that other verbs draw
  --truncation 0.7                   psi; 1 is none
"""

PAGES = {
    "estimate": ESTIMATE,
    "fit": FIT,
    "validate": EVALUATE.format(
        verb="validate", what="Measures a checkpoint on the images held out.", own=""
    ),
    "test": EVALUATE.format(
        verb="test", what="Measures a checkpoint on the images held out.", own=""
    ),
    "predict": EVALUATE.format(
        verb="predict",
        what="Draws samples of a checkpoint into the predictions/ of its run.",
        own=PREDICT,
    ),
}
