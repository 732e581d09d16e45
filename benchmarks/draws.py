"""Share of the random draws in a training iteration: eg3d_heads32.yaml on one thread.

The harness trains on random pictures; every call of `Randomness` is timed on its own. Prints a
table, and writes draws.json: CPU milliseconds of an iteration and of its draws (medians over
iterations), passes of the generator per iteration, and the same draws by one `torch.Generator` per
image and name, which the counter-based generator replaced.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image

from gan3d import randomness
from gan3d.camera import GaussianPose
from gan3d.checkpoints.portable import as_asked, class_and_arguments
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.randomness import Randomness, key
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, DensityRegularization
from gan3d.training.run import Run
from gan3d.zoo import configs

CONFIG = "eg3d_heads32.yaml"


class Clock:
    """CPU seconds inside the draws, counted once where calls nest, and what was drawn."""

    def __init__(self) -> None:
        self.seconds, self.passes, self._depth = 0.0, 0, 0
        self.asked: list[tuple[str, str, str, tuple[int, ...], int]] = []

    @contextmanager
    def watching(self):
        """Times every draw while it is entered."""
        plain = {name: getattr(Randomness, name) for name in ("__init__", "_numbers")}
        one_pass = randomness.philox_numpy

        def counted(counter, seed):
            self.passes += 1
            return one_pass(counter, seed)

        randomness.philox_numpy = counted
        for name, function in plain.items():
            setattr(Randomness, name, self._timed(function, noted=name == "_numbers"))
        try:
            yield self
        finally:
            randomness.philox_numpy = one_pass
            for name, function in plain.items():
                setattr(Randomness, name, function)

    def _timed(self, function: Callable[..., Any], noted: bool) -> Callable[..., Any]:
        def call(draw, *args, **kwargs):
            if noted:
                name, kind, shape = args
                self.asked.append((draw.phase, name, kind, shape, len(draw)))
            start, self._depth = time.process_time(), self._depth + 1
            try:
                return function(draw, *args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - start

        return call


class Iterations(Callback):
    """CPU seconds of every iteration, and of the draws in it."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.clock.seconds, self.clock.passes, self.clock.asked = 0.0, 0, []
        self._start = time.process_time()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        seconds = time.process_time() - self._start
        row = {"seconds": seconds, "draws": self.clock.seconds, "passes": self.clock.passes}
        self.rows.append(row)


def gan_of(config: dict[str, Any], iterations: int) -> GAN:
    """The harness of a config, with the losses that draw."""
    model, batch = config["model"], config["data"]["batch_size"]
    networks = []
    for section, registry in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        given = model[section]
        cls, arguments = class_and_arguments(registry, given["class_path"], given["init_args"])
        networks.append(cls(**arguments))
    return GAN(
        *networks,
        fakes=as_asked(model["fakes"], Fakes),
        r1=as_asked(model["r1"], R1),
        density=as_asked(model["density"], DensityRegularization),
        run=Run(total_kimg=iterations * batch / 1000, seed=0),
    )


def write_pictures(folder: Path, num: int, side: int) -> None:
    """Random pictures with cameras, in the layout of the data module."""
    import json

    labels = GaussianPose().sample(Randomness(0, range(num), "pictures")).label()
    pixels = np.random.default_rng(0)
    for i in range(num):
        picture = pixels.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    entries = [[f"{i:04d}.png", label.tolist()] for i, label in enumerate(labels)]
    (folder / "dataset.json").write_text(json.dumps({"labels": entries}))


def seconds_by_generators(asked: list[tuple[str, str, str, tuple[int, ...], int]]) -> float:
    """CPU seconds of the same draws by one torch.Generator per image and name."""

    def all_of_them() -> None:
        for phase, name, kind, shape, images in asked:
            sample = torch.randn if kind == "normal" else torch.rand
            draws = []
            for image in range(images):
                stream = torch.Generator()
                stream.manual_seed(key(0, image, phase, name))
                draws.append(sample(shape, generator=stream))
            torch.stack(draws)

    return machine.best_seconds(all_of_them, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=65, help="the first one is left out")
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    config = configs.read(configs.find(CONFIG))
    gan, clock = gan_of(config, options.iterations), Clock()
    rows = Iterations(clock)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        callbacks=[rows],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    batch = config["data"]["batch_size"]
    with tempfile.TemporaryDirectory() as folder, clock.watching():
        write_pictures(Path(folder), 4 * batch, gan.generator.img_resolution)
        trainer.fit(gan, PosedImagesModule(path=folder, batch_size=batch, num_workers=0))
    # Whole cycles of the lazy phases, without the first iteration, which plans.
    kept = rows.rows[1:]
    total = 1000 * statistics.mean(row["seconds"] for row in kept)
    draws = 1000 * statistics.mean(row["draws"] for row in kept)
    result = machine.facts() | {
        "config": CONFIG,
        "iterations": len(kept),
        "iteration_ms": total,
        "draws_ms": draws,
        "draws_share": draws / total,
        "passes_per_iteration": statistics.mean(row["passes"] for row in kept),
        "by_generators_ms": 1000 * seconds_by_generators(clock.asked),
        "draws_in_last_iteration": len(clock.asked),
    }
    print(f"iteration {total:.1f} CPU ms, draws {draws:.2f} ms: {draws / total:.1%}")
    print(
        f"{result['passes_per_iteration']:.1f} passes per iteration; the last iteration's "
        f"{len(clock.asked)} draws by torch.Generator: {result['by_generators_ms']:.2f} ms"
    )
    print(machine.write("draws", result, options.out))


if __name__ == "__main__":
    main()
