"""The verb `export training`: the networks of a training checkpoint as a portable file."""

from __future__ import annotations

from pathlib import Path

from gan3d.checkpoints.models import find_model
from gan3d.checkpoints.runs import Which, load_training
from gan3d.cli.checks import file_for
from gan3d.cli.messages import CommandError
from gan3d.pretrained import SUFFIX


def export_training(
    model: str,
    out: Path | None = None,
    which: Which = "generator_ema",
    discriminator: bool = True,
    half: bool = False,
    overwrite: bool = False,
) -> str:
    """Turns a training checkpoint into a portable file, a fraction of its size.

    Args:
        model: a run folder, of which the newest checkpoint is taken, or a checkpoint (.ckpt).
        out: the new file; by default beside the checkpoint, ending in .safetensors.
        which: the average of the generator over training, or the last one.
        discriminator: whether the file holds it, too.
        half: keep weights as float16, in half the bytes; loaded they are float32 again.
        overwrite: replace a file that is there.
    """
    if out is not None:
        out = file_for(out, SUFFIX, overwrite=overwrite)
    checkpoint = find_model(model)
    if checkpoint.suffix == SUFFIX:
        raise CommandError(f"{checkpoint} is a portable file already; give a run or a checkpoint")
    path = out or file_for(checkpoint.with_suffix(SUFFIX), overwrite=overwrite)
    generator, judge, facts = load_training(checkpoint, which)
    generator.save_pretrained(path, judge if discriminator else None, facts=facts, half=half)
    return f"{path}: {type(generator).__name__}, {facts['images_seen'] / 1000:g} kimg"
