"""Posed images for the Trainer: training and held-out images, and each process's share of them.

The order of training images is defined in gan3d.data.sampler: set the Trainer's
`use_distributed_sampler=False`.
"""

from __future__ import annotations

import re
import signal
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler, Subset

from gan3d.data.dataset import ImageSequence, PosedImages, collate
from gan3d.data.heads import is_heads
from gan3d.data.images import ResizeFilter
from gan3d.data.sampler import EndlessBatches, EndlessOrder, permutation
from gan3d.data.twins import twins

GRACE = 30  # seconds
PREVIEW = 8  # images that `predict` shows


class PosedImagesModule(LightningDataModule):
    """Batches of posed images for training, the held-out images for evaluation.

    Training continues at image number `images_seen` of the LightningModule, or at `start` if it has
    no such attribute. The number is read whenever the Trainer starts to iterate, so it also holds
    after a resume and in later epochs.

    Args:
        path: folder or zip in EG3D's layout (docs/data.md).
        batch_size: images per iteration, over all processes.
        resolution: side to shrink to in pixels, a power of two; null keeps the original size.
        resize_filter: filter used to shrink.
        mirror: also train on every image mirrored, with the mirrored camera.
        num_workers: data processes per training process; 0 reads in the training process.
        heldout: number of images reserved for evaluation, drawn with `seed`; their mirrored twins
            are excluded from training as well.
        use_labels: set to false for models without cameras.
        use_masks: read the mask of every image; pixels outside it are replaced by the generator's
            background.
        max_items: number of images to use, drawn with `seed`; null uses all.
        seed: seed of the training order, the held-out images and `max_items`.

    Attributes:
        start: images seen by the run, used if the LightningModule does not count them.
        batch_size_at: batch size as a function of the images seen, set by a LightningModule with
            stages; None uses `batch_size` throughout.
        heldout_names: file names of the images held out before the data set changed; those that are
            still there stay held out, and no others. None draws them.
        num_scenes: number of scenes that `predict` draws; None predicts on images instead.
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
        use_masks: bool = False,
        max_items: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if num_workers < 0:
            raise ValueError(
                f"num_workers {num_workers} is negative; use 0 to read in the training process"
            )
        self.path = path
        self.batch_size = batch_size
        self.resolution = resolution
        self.resize_filter = resize_filter
        self.mirror = mirror
        self.num_workers = num_workers
        self.heldout = heldout
        self.use_labels = use_labels
        self.use_masks = use_masks
        self.max_items = max_items
        self.seed = seed
        self.start = 0
        self.batch_size_at: Callable[[int], int | None] | None = None
        self.heldout_names: Sequence[str] | None = None
        self.num_scenes: int | None = None
        # A process may have no held-out image to evaluate; no image is repeated as padding.
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
            use_masks=self.use_masks,
            max_items=self.max_items,
            seed=self.seed,
        )

    @cached_property
    def is_heads(self) -> bool:
        """Whether these are procedural heads, whose true shape and pose are known."""
        return is_heads(self.images.archive)

    @cached_property
    def heldout_items(self) -> np.ndarray:
        """Items for evaluation: the last `heldout` of a seeded shuffle, sorted; never mirrored."""
        num_images = self.images.num_images
        if not 0 <= self.heldout < num_images:
            raise ValueError(
                f"--data.heldout {self.heldout} of {num_images} images leaves none to train on; "
                f"use 0 to {num_images - 1}"
            )
        if self.heldout_names is not None:
            former = set(self.heldout_names)
            names = enumerate(self.images.names[:num_images])
            return np.array([item for item, name in names if name in former], dtype=np.int64)
        shuffled = permutation(num_images, self.seed, "heldout")
        return np.sort(shuffled[num_images - self.heldout :])

    @cached_property
    def training_items(self) -> np.ndarray:
        """Items to train on: all but the held-out images and their twins.

        A twin is an item mirrored on loading, or a copy stored in the data set, mirrored or not
        (gan3d.data.twins).
        """
        held = twins(self.images, self.heldout_items.tolist()) if self.heldout else set()
        items = [item for item in range(len(self.images)) if item not in held]
        if not items:
            raise ValueError(
                f"--data.heldout {self.heldout} leaves no image to train on, as all others are "
                f"copies of held-out ones in {self.path}; hold out fewer images"
            )
        return np.array(items, dtype=np.int64)

    @property
    def labels(self) -> Tensor | None:
        """Camera labels of the training items [n 25], or None."""
        return None if self.images.labels is None else self.images.labels[self.training_items]

    @property
    def image_resolution(self) -> int:
        """Side of the images in pixels."""
        return self.images.resolution

    def setup(self, stage: str | None = None) -> None:
        """Opens and checks the data set. Idempotent."""
        if self.trainer is not None:
            _check_trainer(self.trainer)
        num_items = len(self.training_items)
        if stage == "fit":
            check_batch(self.batch_size, num_items, self.image_resolution)
        # Lightning warns of what the arguments num_workers and heldout ask for.
        for message in (
            r"The '\w+_dataloader' does not have many workers",
            r"Total length of `list` across ranks is zero",
        ):
            warnings.filterwarnings("ignore", message, UserWarning)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = self._rank_and_world_size
        order = EndlessOrder(self.training_items, self.seed)
        batches = EndlessBatches(
            self._batch_size, start=self._images_seen, rank=rank, world_size=world_size
        )
        return self._loader(ImageSequence(self.images, order), batches)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """This process's share of the held-out images: every world_size-th, [] if none are held
        out.
        """
        return self._in_order(self.heldout_items) if self.heldout else []

    def whole_heldout(self) -> DataLoader | list[DataLoader]:
        """All held-out images, whatever the number of processes: for what one of them shows."""
        return self._in_order(self.heldout_items, shared=False) if self.heldout else []

    def test_dataloader(self) -> DataLoader:
        """The loader of `val_dataloader`; raises ValueError if no images are held out."""
        if not self.heldout:
            raise ValueError("no images are held out to test on; set data.heldout to their number")
        return self._in_order(self.heldout_items)

    def predict_dataloader(self) -> DataLoader:
        """The first `PREVIEW` held-out images, or training images if none are held out.

        If `num_scenes` is set, the batches are instead this process's share of the scene numbers,
        [b], without images.
        """
        if self.num_scenes is not None:
            rank, world_size = self._rank_and_world_size
            numbers = range(rank, self.num_scenes, world_size)
            return DataLoader(
                numbers,  # type: ignore[arg-type]
                batch_size=max(self.batch_size // world_size, 1),
                collate_fn=torch.tensor,
            )
        items = self.heldout_items if self.heldout else self.training_items
        return self._in_order(items[:PREVIEW])

    def _in_order(self, items: np.ndarray, *, shared: bool = True) -> DataLoader:
        rank, world_size = self._rank_and_world_size if shared else (0, 1)
        share = Subset(ImageSequence(self.images, items), range(rank, len(items), world_size))
        local_batch = max(self.batch_size // world_size, 1)
        batches = BatchSampler(SequentialSampler(share), local_batch, drop_last=False)
        return self._loader(share, batches)

    def _loader(self, dataset: Dataset, batches: Sampler[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._device_type == "cuda",
            # The loader draws a seed for its workers, which use no randomness; a generator of its
            # own leaves torch's global one untouched.
            generator=torch.Generator(),
            worker_init_fn=outlast_signals,
        )

    def _batch_size(self, images_seen: int) -> int:
        staged = self.batch_size_at and self.batch_size_at(images_seen)
        return staged or self.batch_size

    def _images_seen(self) -> int:
        module = None if self.trainer is None else self.trainer.lightning_module
        return int(getattr(module, "images_seen", self.start))

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def _device_type(self) -> str:
        if self.trainer is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.trainer.strategy.root_device.type


def outlast_signals(worker: int) -> None:
    """Lets a data process live on when the whole job is told to stop: the run finishes its
    iteration, saves, and ends its data processes itself. Half a minute later they end all the same.
    """
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name) and hasattr(signal, "alarm"):
            signal.signal(getattr(signal, name), lambda *_: signal.alarm(GRACE))


def check_batch(batch_size: int, num_items: int, resolution: int) -> None:
    """Refuses a batch that is larger than the set, or that this machine cannot hold.

    Args:
        batch_size: images per iteration, over all processes.
        num_items: images to train on.
        resolution: their side in pixels.
    """
    if batch_size > num_items:
        raise ValueError(
            f"--data.batch_size {batch_size} is more than the {num_items} images to train on; use "
            f"{num_items} or less"
        )
    need, free = 12 * batch_size * resolution**2, free_memory()  # three channels of float32
    if free is not None and need > free:
        raise ValueError(
            f"--data.batch_size {batch_size} at {resolution} px needs {need / 2**30:.1f} GiB for "
            f"the images alone, and {free / 2**30:.1f} GiB are free; use "
            f"{max(int(batch_size * free / need / 2), 1)} or less"
        )


def free_memory() -> int | None:
    """Bytes of memory that this machine can still give; None where it does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else None


def _check_trainer(trainer: Trainer) -> None:
    """Raises if Lightning would change the order of the images."""
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "Lightning's distributed sampler would shuffle and split the images a second time; set "
            "trainer.use_distributed_sampler to false"
        )
    if getattr(trainer, "overfit_batches", 0):
        raise ValueError(
            "overfit_batches cannot shorten an endless order; set data.max_items to overfit a few "
            "images"
        )
