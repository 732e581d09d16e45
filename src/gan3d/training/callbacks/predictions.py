"""Files of what `predict` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from gan3d.apps.pictures import grid, side_by_side, to_uint8
from gan3d.generators.contract import Rendering


class Predictions(Callback):
    """Writes what `predict` draws: `<run>/predictions/<index>.png`, and a sheet with raw images and
    depth as well.
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
        indices = batch.index.tolist()
        for index, picture in zip(indices, to_uint8(outputs["image"]), strict=True):
            Image.fromarray(picture).save(folder / f"{index:06d}.png")
        Image.fromarray(grid(side_by_side(Rendering(**outputs)))).save(
            folder / f"sheet_{indices[0]:06d}.png"
        )
