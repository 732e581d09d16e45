"""Files of what `predict` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from gan3d.apps.pictures import to_uint8
from gan3d.apps.samples import picture
from gan3d.generators.contract import Rendering


class Predictions(Callback):
    """Writes what `predict` draws: `<run>/predictions/seed<seed>_<number>.png`, and a sheet of
    every batch, with raw images and depth.
    """

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        folder = Path(trainer.default_root_dir) / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        seed = pl_module.sampling.seed  # type: ignore[union-attr]
        numbers = (batch if isinstance(batch, Tensor) else batch.index).tolist()
        for number, image in zip(numbers, to_uint8(outputs["image"]), strict=True):
            Image.fromarray(image).save(folder / f"seed{seed}_{number:04d}.png")
        sheet = picture(Rendering(**outputs), [f"seed {seed}, {number}" for number in numbers])
        sheet.save(folder / f"seed{seed}_sheet_{numbers[0]:04d}.png")
