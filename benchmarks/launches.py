"""Launches of the full-size EG3D on a pretended GPU, by phase of a training iteration.

    python benchmarks/launches.py [--kernels on off] [--out FOLDER]

Nothing is computed: tensors have shapes, dtypes and a device only (gan3d.training.estimate.device).
One operation of torch below autograd is one launch, but

    views, and memory that is only allocated   none
    a convolution's backward pass              one for each gradient that is asked for
    an operation on a list of tensors          as many as torch packs it into (`packed`)
    a Triton kernel                            one, and one for each memory that it has filled

This is a lower bound of what a card is given: cuDNN and sorting launch helpers of their own. With
`kernels off` the fast form of torch stands in for every kernel.

Counted are one view at 512 px, rendered at 128 px, by part; and the phases of one iteration of
`eg3d_ffhq512` with all its lazy phases, at 4 and 32 images, with its waits.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from machine import facts, write
from recipes import gan_of, random_reals
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan3d.camera import Camera
from gan3d.generators import EG3D
from gan3d.host import set_number
from gan3d.rendering import render_rays
from gan3d.training.estimate import device as gpu
from gan3d.training.optimizers import FUSED

BATCHES = (4, 32)
# Launches of the phases at commit 8105125, counted as here (with the loops over images of its
# draws, and multi-tensor Adam), at 4 and at 32 images.
BEFORE = {
    "view": {"view": 10357},
    "iteration of 4": {"generator": 2267, "density": 1281, "discriminator": 11827, "r1": 6019},
    "iteration of 32": {"generator": 2857, "density": 1869, "discriminator": 82531, "r1": 6023},
}
# Most launches of a phase with 4 images.
CEILINGS = {"generator": 1400, "density": 930, "discriminator": 1430, "r1": 760}
# Memory that is allocated, and other names for it.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias"}
# Of torch's multi-tensor kernels: most tensors of a launch by the length of its lists of tensors,
# most blocks, and numbers of a block.
MOST_TENSORS, MOST_BLOCKS, BLOCK = (110, 64, 48, 36, 30), 320, 65536


def packed(lists: int, sizes: list[int]) -> int:
    """Launches of a multi-tensor kernel on so many lists of tensors of these sizes."""
    most = MOST_TENSORS[min(lists, len(MOST_TENSORS)) - 1]
    blocks = sum(-(-size // BLOCK) for size in sizes)
    return max(-(-len(sizes) // most), -(-blocks // MOST_BLOCKS), 1)


def launches(func: Any, args: Any, kwargs: Any) -> int:
    """Launches of one operation on the device."""
    name = func.name().split("::")[1].split(".")[0]
    if func.is_view or name in FREE:
        return 0
    if name == "convolution_backward":
        return sum(kwargs["output_mask"] if "output_mask" in kwargs else args[-1])
    if name.startswith(("_foreach", "_fused")):
        lists = [x for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor)]
        return packed(len(lists), [x.numel() for x in lists[0]])
    return 1


class Launches(TorchDispatchMode):
    """Counts launches on the device, by the outermost range (`record_function`) around them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {}
        self.ranges: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name()
        if name.startswith("profiler::_record_function_enter"):
            self.ranges.append(args[0])
        elif name.startswith("profiler::_record_function_exit"):
            self.ranges.pop()
        made = func(*args, **kwargs)
        on_device = any(
            x.device == gpu.DEVICE
            for x in tree_leaves((args, kwargs, made))
            if isinstance(x, Tensor)
        )
        if on_device and (number := launches(func, args, kwargs)):
            inside = self.ranges[0] if self.ranges else "elsewhere"
            self.counts.setdefault(inside, Counter())[name] += number
        return made

    def totals(self) -> dict[str, int]:
        return {name: counts.total() for name, counts in self.counts.items()}


class AllPhases(Callback):
    """Makes every iteration the first one, in which all lazy phases run, and counts each."""

    def __init__(self, mode: Launches):
        self.mode = mode
        self.counted: dict[str, int] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        set_number(pl_module.images_seen, 0)
        set_number(pl_module.iterations, 0)
        self.mode.counts = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.counted = self.mode.totals()


@contextmanager
def pretended(kernels: bool) -> Iterator[None]:
    """torch and gan3d take `meta` for a CUDA device, with or without Triton."""
    import pytest

    kind = "cuda" if kernels else "meta"  # not the CPU, and without Triton
    with gpu.pretending(kind), pytest.MonkeyPatch.context() as patch:
        devices = [*FUSED, gpu.DEVICE.type]
        patch.setattr("gan3d.training.optimizers.FUSED", devices)
        optimizer = sys.modules["torch.optim.optimizer"]
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: devices)
        yield


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Launches of a function, and its result."""
    with Launches() as mode:
        result = work()
    return sum(mode.totals().values()), result


@torch.no_grad()
def count_view() -> dict[str, int]:
    """Launches of one view of the published EG3D, by part."""
    camera = Camera.from_angles(0.3, 0.1).to(gpu.DEVICE)
    with torch.device(gpu.DEVICE):
        generator = EG3D().eval().requires_grad_(False)
        z = torch.randn(1, generator.z_dim)
    parts: dict[str, int] = {}
    parts["map"], ws = counted(lambda: generator.map(z, camera))
    parts["represent"], scene = counted(lambda: generator.represent(ws))
    parts["rays"], rays = counted(lambda: camera.rays(generator.raw_resolution))
    field = partial(generator.field, scene)
    parts["renderer"], _ = counted(lambda: render_rays(field, rays, generator.options))
    whole, _ = counted(lambda: generator.render(scene, camera))
    parts["super-resolution"] = whole - parts["renderer"] - parts["rays"]
    parts["view"], _ = counted(lambda: generator(z, camera))
    return parts


def count_iteration(batch: int) -> dict[str, int]:
    """Launches of one iteration with all lazy phases, by phase; the third one, because the first
    two also make what is kept: the first one notes the draws of a phase, the second their counters.
    """
    with torch.device(gpu.DEVICE):
        gan = gan_of("eg3d_ffhq512")
    data = random_reals(gan.generator.img_resolution, batch, 3)
    with gpu.watching() as log, Launches() as mode:
        phases = AllPhases(mode)
        trainer = Trainer(
            strategy=gpu.PretendedStrategy(log),
            max_epochs=-1,
            max_steps=3,
            logger=False,
            callbacks=[phases],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(gan, data)
    return phases.counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", nargs="+", choices=("on", "off"), default=["on", "off"])
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    result: dict[str, Any] = facts() | {"before": BEFORE}
    for kernels in options.kernels:
        with pretended(kernels == "on"):
            row: dict[str, Any] = {"view": count_view()}
            row |= {f"iteration of {b}": count_iteration(b) for b in BATCHES}
        for subject, counts in row.items():
            before = BEFORE[subject]
            words = [
                f"{k} {n}" + (f" (was {before[k]})" if k in before else "")
                for k, n in counts.items()
            ]
            print(f"{subject}, kernels {kernels}: {', '.join(words)}", flush=True)
        result[f"kernels {kernels}"] = row
    print(write("launches", result, options.out))


if __name__ == "__main__":
    main()
