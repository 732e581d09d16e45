"""A run in stages is evaluated, pictured and kept at the resolution of the stage it is in."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from gan3d.camera import GaussianPose
from gan3d.checkpoints.runs import VIEW_KEY, newest_whole
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import PiGANDiscriminator
from gan3d.generators import PiGAN
from gan3d.training.callbacks import Evaluation, Snapshots
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.loggers import DiskLogger
from gan3d.training.run import Run
from gan3d.training.stages import Stage

BATCH = 4
KIMG = BATCH / 1000


class Seeing(nn.Module):
    """Features that note the sides of the images that they see."""

    def __init__(self):
        super().__init__()
        self.sides: list[int] = []

    def forward(self, images):
        self.sides.append(images.shape[-1])
        return images.mean(dim=(2, 3))


class Shown(Snapshots):
    """Pictures that note their sides."""

    sides: list[int]

    def _views(self, *args, **options):
        views = super()._views(*args, **options)
        self.sides = [*getattr(self, "sides", []), views.image.shape[-1]]
        return views


def harness(iterations: int) -> GAN:
    """16 px for three iterations, then 32 px."""
    torch.manual_seed(0)
    return GAN(
        PiGAN(**PiGAN.tiny),
        PiGANDiscriminator(**PiGANDiscriminator.tiny),
        fakes=Fakes(GaussianPose()),
        run=Run(
            total_kimg=iterations * KIMG,
            stages=[Stage(0, resolution=16), Stage(3 * KIMG, resolution=32)],
        ),
    )


def fit(
    folder: Path, data: Path, iterations: int, ckpt_path: Path | None = None
) -> tuple[list, list]:
    """Trains with an evaluation every second iteration; the sides of what was evaluated, and of
    what was pictured.
    """
    features, shown = Seeing(), Shown(2 * KIMG, num_heads=2, video_every=0)
    callbacks = [
        Evaluation(2 * KIMG, num_images=8, batch_size=8, features=features),
        shown,
        Checkpoints(folder / "checkpoints", every_kimg=4 * KIMG),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=DiskLogger(folder),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = PosedImagesModule(str(data), batch_size=BATCH, num_workers=0, heldout=8)
    trainer.fit(harness(iterations), module, ckpt_path=ckpt_path, weights_only=True)
    return features.sides, shown.sides


def column(folder: Path, name: str) -> dict[int, str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row[name] for row in csv.DictReader(file) if row[name]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, posed_zip) -> tuple[Path, list[int], list[int]]:
    """Eight iterations at one stroke."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *fit(folder, posed_zip, 8)


def test_it_is_evaluated_at_the_resolution_of_the_stage(whole):
    folder, sides, _ = whole
    steps = [2 * BATCH * k for k in range(5)]
    assert list(column(folder, "distance/frechet")) == steps
    # Where a stage begins, what the distance compares with changes, and is logged again.
    assert list(column(folder, "distance/floor")) == [0, 4 * BATCH]
    assert list(column(folder, "distance/mean_image")) == [0, 4 * BATCH]
    assert set(sides) == {16, 32}
    assert sides == sorted(sides)


def test_it_is_pictured_at_the_resolution_of_the_stage(whole):
    sides = whole[2]
    assert set(sides) == {16, 32}
    assert sides == sorted(sides)


def test_a_run_that_goes_on_in_the_later_stage_logs_what_the_unbroken_one_does(
    whole, posed_zip, tmp_path
):
    fit(tmp_path, posed_zip, 4)
    (checkpoint,) = (tmp_path / "checkpoints").glob("kimg-*.ckpt")
    fit(tmp_path, posed_zip, 8, checkpoint)
    for name in ("distance/floor", "distance/mean_image", "distance/frechet"):
        assert column(tmp_path, name) == column(whole[0], name), name


def test_a_checkpoint_tells_how_its_scenes_are_seen():
    gan = harness(8)
    view = {"radius": 2.7, "fov": 18.83}
    for iterations, own in ((2, {"resolution": 16}), (3, {"resolution": 16}), (4, {})):
        gan.images_seen.fill_(iterations * BATCH)
        checkpoint: dict = {}
        gan.on_save_checkpoint(checkpoint)
        assert checkpoint[VIEW_KEY] == view | own


def test_so_does_the_file_of_a_run(whole):
    newest = newest_whole(whole[0] / "checkpoints")
    content = torch.load(newest, weights_only=True)
    assert content[VIEW_KEY] == {"radius": 2.7, "fov": 18.83}
