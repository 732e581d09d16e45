"""What `fit` is about to do, and what came of it, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from gan3d.bench.machine import processor
from gan3d.training.stages import Stage

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import nn

    from gan3d.data.datamodule import PosedImagesModule
    from gan3d.training.gan import GAN


def plan(trainer: Trainer, module: GAN, data: PosedImagesModule) -> dict[str, str]:
    """The plan of a run, by subject."""
    return {
        "model": _models(module),
        "data": _data(data),
        "batch": _batch(trainer, module, data),
        "schedule": _schedule(module, data),
        "device": _device(trainer),
    }


def in_lines(plan: Mapping[str, str], folder: Path) -> str:
    """A plan as text, a line per subject, and the folder of its run."""
    rows = {**plan, "folder": str(folder)}
    return "\n".join(["the plan", *(f"  {name:9} {text}" for name, text in rows.items())])


def outcome(seen: int, total_kimg: float, seconds: float, why: str, folder: Path) -> str:
    """How far a session came, and how to go on.

    Args:
        seen: images seen by the run.
        total_kimg: its length.
        seconds: that the session took.
        why: what ended it early; nothing: it is complete.
        folder: of the run.
    """
    again = _again(folder)
    took = tqdm.format_interval(seconds)
    if seen >= total_kimg * 1000:
        longer = f"{again} --model.run.total_kimg {2 * total_kimg:g}"
        return (
            f"complete: {total_kimg:g} kimg, this session took {took}\n  train it longer: {longer}"
        )
    share = seen / 10 / total_kimg
    percent = f"{share:.0f} %" if share >= 1 else f"{share:.1g} %"
    return (
        f"NOT complete: {seen / 1000:.6g} of {total_kimg:g} kimg ({percent}) after {took}, ended "
        f"by {why}\n  go on: {again}"
    )


def interruption(seen: int, total_kimg: float, checkpoints: Sequence[Path], folder: Path) -> str:
    """Where a run was interrupted. Arguments as of `outcome`; its checkpoints, the newest first."""
    text = f"interrupted at {seen / 1000:.6g} of {total_kimg:g} kimg"
    if not checkpoints:
        return f"{text}, before its first checkpoint (--checkpoints.every_kimg)"
    return f"{text}; go on from {checkpoints[0].name}: {_again(folder)}"


def stop(
    signal: str,
    written: Path | None,
    seen: int,
    total_kimg: float,
    checkpoints: Sequence[Path],
    folder: Path,
) -> str:
    """Where a signal ended a run, what was saved, and how to go on.

    Args:
        signal: its name.
        written: the checkpoint; None: nothing was trained since the last one.
        seen: images seen by the run.
        total_kimg: its length.
        checkpoints: those of the run, the newest first.
        folder: of the run.
    """
    text = f"stopped by {signal} at {seen / 1000:.6g} of {total_kimg:g} kimg"
    if written is None and not checkpoints:
        return f"{text}, where there is nothing to save; start it again with the same command"
    saved = f"{written} was written" if written else f"{checkpoints[0]} is whole"
    return f"{text}; {saved}\n  go on: {_again(folder)}"


def _again(folder: Path) -> str:
    return f"lightning fit --config {folder / 'config.yaml'} --ckpt_path last"


def _models(module: GAN) -> str:
    generator, discriminator = module.generator, module.discriminator
    return (
        f"{type(generator).__name__}, {_parameters(generator)}, {generator.img_resolution} px, "
        f"against {type(discriminator).__name__}, {_parameters(discriminator)}"
    )


def _parameters(network: nn.Module) -> str:
    number = sum(p.numel() for p in network.parameters())
    return f"{number / 1e6:.3g} M parameters" if number >= 1e6 else f"{number:,} parameters"


def _data(data: PosedImagesModule) -> str:
    images = data.images
    parts = [
        f"{data.path}: {images.num_images:,} images of {images.resolution} px",
        "with cameras" if images.labels is not None else "without cameras",
    ]
    if data.mirror:
        parts.append("each mirrored, too")
    parts.append(f"{data.heldout:,} of them held out" if data.heldout else "none held out")
    return ", ".join(parts)


def _batch(trainer: Trainer, module: GAN, data: PosedImagesModule) -> str:
    share = data.batch_size // trainer.world_size
    micro = module.micro_batch_size
    text = f"{data.batch_size} images"
    if trainer.world_size > 1:
        text += f", {share} per process"
    if micro is not None and micro < share:
        text += f", in micro-batches of {micro}"
    return text


def _schedule(module: GAN, data: PosedImagesModule) -> str:
    run, losses = module.run, module.losses
    begin, total = int(module.images_seen) / 1000, run.total_kimg
    parts = [f"{begin:g} to {total:g} kimg" if begin else f"{total:g} kimg"]
    if len(list(module.stages)) == 1:
        iterations = math.ceil(max(total - begin, 0) * 1000 / data.batch_size)
        parts.append(f"{iterations:,} iterations")
    lazy = [("r1", losses.lazy_d)]
    lazy += [
        (n, r.interval) for n in ("density", "path_length") if (r := getattr(losses, n)).weight
    ]
    parts += [f"{name} every {interval}" for name, interval in lazy if interval]
    parts += _stages(module)
    return ", ".join(parts)


def _stages(module: GAN) -> Iterator[str]:
    stages = list(module.stages)
    if len(stages) > 1:
        for stage in stages:
            yield f"from {stage.from_kimg:g} kimg {_changes(stage)}"


def _changes(stage: Stage) -> str:
    said = [f"{stage.resolution} px"] if stage.resolution else []
    said += [f"batch {stage.batch_size}"] if stage.batch_size else []
    return " and ".join(said) or "another stage"


def _device(trainer: Trainer) -> str:
    root: Any = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(root) if root.type == "cuda" else _cpu()
    threads = torch.get_num_threads()
    parts = [
        f"{trainer.world_size} x {kind}" if trainer.world_size > 1 else kind,
        f"precision {trainer.precision}",
        f"{threads} thread{'s' if threads > 1 else ''}",
    ]
    if trainer.world_size > 1:
        parts.append(f"strategy {trainer.strategy.strategy_name}")  # type: ignore[attr-defined]
    return ", ".join(parts)


def _cpu() -> str:
    name = processor()
    return f"cpu ({name})" if name else "cpu"
