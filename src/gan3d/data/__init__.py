"""Images with camera labels: reader, training order, data module and the procedural heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gan3d.data.archive import DataError
from gan3d.data.dataset import Batch, PosedImages
from gan3d.data.sampler import EndlessBatches, EndlessOrder

if TYPE_CHECKING:
    from gan3d.data.datamodule import PosedImagesModule

__all__ = [
    "Batch",
    "DataError",
    "EndlessBatches",
    "EndlessOrder",
    "PosedImages",
    "PosedImagesModule",
]


def __getattr__(name: str) -> Any:
    """Imports `PosedImagesModule` on demand: it needs Lightning, which is slow to import."""
    if name == "PosedImagesModule":
        from gan3d.data.datamodule import PosedImagesModule

        return PosedImagesModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
