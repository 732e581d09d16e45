"""Posed images for the Trainer: what is trained on, what is held out, and which process sees what.

The order of training images is our own (gan3d.data.sampler): give the Trainer
`use_distributed_sampler=False`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler, Subset

from gan3d.data.dataset import ImageSequence, PosedImages, collate
from gan3d.data.images import ResizeFilter
from gan3d.data.sampler import EndlessBatches, EndlessOrder, permutation

PREVIEW = 8  # images that `predict` shows


class PosedImagesModule(LightningDataModule):
    """Batches of posed images in training, the held-out images in evaluation.

    Training goes on at the image the LightningModule says it has come to (its `images_seen`), else
    at `start`. That is asked whenever the Trainer starts to iterate, so it holds after a resume and
    in every later epoch.

    Args:
        path: folder or zip in EG3D's layout (docs/data.md).
        batch_size: images per iteration, over all processes.
        resolution: side to shrink to, a power of two; null keeps the images' own.
        resize_filter: how to shrink.
        mirror: train on every image mirrored too, with the mirrored camera.
        num_workers: data processes per training process; 0 reads in the training process.
        heldout: so many images, drawn with `seed`, are for evaluation only; so are their mirrored
            twins.
        use_labels: false for models without cameras.
        max_items: use so many images, drawn with `seed`; null uses all.
        seed: of the order, of the held-out images and of `max_items`.

    Attributes:
        start: images seen by the run, where the LightningModule does not count them.
        batch_size_at: batch size as a function of the images seen, set by a LightningModule with
            stages; None is `batch_size` throughout.
    """

    def __init__(
        self,
        path: str,
        *,
        batch_size: int = 32,
        resolution: int | None = None,
        resize_filter: ResizeFilter = "lanczos",
        mirror: bool = False,
        num_workers: int = 2,
        heldout: int = 0,
        use_labels: bool = True,
        max_items: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if num_workers < 0:
            raise ValueError(
                f"num_workers {num_workers} is negative; use 0 to read in the training process"
            )
        self.path, self.resolution, self.resize_filter, self.mirror = (
            path,
            resolution,
            resize_filter,
            mirror,
        )
        self.batch_size, self.num_workers, self.heldout = batch_size, num_workers, heldout
        self.use_labels, self.max_items, self.seed = use_labels, max_items, seed
        self.start = 0
        self.batch_size_at: Callable[[int], int | None] | None = None
        # A process may have no held-out image to evaluate; none is shown twice to fill up.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @cached_property
    def images(self) -> PosedImages:
        """The whole set."""
        return PosedImages(
            self.path,
            resolution=self.resolution,
            resize_filter=self.resize_filter,
            mirror=self.mirror,
            use_labels=self.use_labels,
            max_items=self.max_items,
            seed=self.seed,
        )

    @cached_property
    def heldout_items(self) -> np.ndarray:
        """Items for evaluation: the last `heldout` of a seeded shuffle, in the order of the set,
        never mirrored.
        """
        num_images = self.images.num_images
        if not 0 <= self.heldout < num_images:
            raise ValueError(
                f"heldout {self.heldout} of {num_images} images leaves none to train on; use 0 to "
                f"{num_images - 1}"
            )
        return np.sort(permutation(num_images, self.seed, "heldout")[num_images - self.heldout :])

    @cached_property
    def training_items(self) -> np.ndarray:
        """Items to train on: all but the held-out images and their mirrored twins, made here or
        stored beside them.
        """
        originals = [_original(name) for name in self.images.names]
        heldout = {originals[item] for item in self.heldout_items}
        return np.array(
            [item for item, original in enumerate(originals) if original not in heldout],
            dtype=np.int64,
        )

    @property
    def labels(self) -> Tensor | None:
        """Camera labels of the training items [n 25], or None."""
        return None if self.images.labels is None else self.images.labels[self.training_items]

    @property
    def image_resolution(self) -> int:
        """Side of the images, pixels."""
        return self.images.resolution

    def setup(self, stage: str | None = None) -> None:
        """Opens and checks the set. Twice is the same as once."""
        if self.trainer is not None:
            _check_trainer(self.trainer)
        _ = self.training_items
        # Both are choices made by an argument here: num_workers, heldout.
        warnings.filterwarnings(
            "ignore", r"The '\w+_dataloader' does not have many workers", UserWarning
        )
        warnings.filterwarnings(
            "ignore", r"Total length of `list` across ranks is zero", UserWarning
        )

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._place
        order = EndlessOrder(self.training_items, self.seed)
        batches = EndlessBatches(
            self._batch_size, start=self._images_seen, rank=rank, world_size=world_size
        )
        return self._loader(ImageSequence(self.images, order), batches)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """This process's share of the held-out images, every world_size-th of them; nothing if none
        are held out.
        """
        return self._in_order(self.heldout_items) if self.heldout else []

    def test_dataloader(self) -> DataLoader:
        """As in validation, but there must be held-out images."""
        if not self.heldout:
            raise ValueError("no images are held out to test on; set data.heldout to their number")
        return self._in_order(self.heldout_items)

    def predict_dataloader(self) -> DataLoader:
        """The first few images, held out if there are some, else of the training set."""
        return self._in_order(
            (self.heldout_items if self.heldout else self.training_items)[:PREVIEW]
        )

    def _in_order(self, items: np.ndarray) -> DataLoader:
        rank, world_size = self._place
        share = Subset(ImageSequence(self.images, items), range(rank, len(items), world_size))
        return self._loader(
            share,
            BatchSampler(SequentialSampler(share), max(self.batch_size // world_size, 1), False),
        )

    def _loader(self, dataset: Dataset, batches: Sampler[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._device_type == "cuda",
            # seeds the workers, which draw nothing; spares the global generator
            generator=torch.Generator(),
        )

    def _batch_size(self, images_seen: int) -> int:
        return (self.batch_size_at and self.batch_size_at(images_seen)) or self.batch_size

    def _images_seen(self) -> int:
        module = None if self.trainer is None else self.trainer.lightning_module
        return int(getattr(module, "images_seen", self.start))

    @property
    def _place(self) -> tuple[int, int]:
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )

    @property
    def _device_type(self) -> str:
        if self.trainer is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.trainer.strategy.root_device.type


def _original(name: str) -> str:
    """The image that a mirrored copy was made from: EG3D's mirror tool writes a/b.png to
    a/b_mirror.png.
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    return folder + slash + stem.removesuffix("_mirror") + dot + extension


def _check_trainer(trainer: Trainer) -> None:
    """Refuses what Lightning would do to the order of the images."""
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "Lightning's distributed sampler would shuffle and share out the images once more; set "
            "trainer.use_distributed_sampler to false"
        )
    if getattr(trainer, "overfit_batches", 0):
        raise ValueError(
            "overfit_batches can not shorten an endless order; set data.max_items to overfit a few "
            "images"
        )
