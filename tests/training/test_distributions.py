"""Histograms of logits and poses: what is read, and that training does not feel it."""

import runpy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from gan3d.apps.run_files import read_run
from gan3d.camera import Camera
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators.contract import DiscriminatorOutput
from gan3d.training.callbacks import Distributions, distributions
from gan3d.training.loggers import DiskLogger

MODELS = runpy.run_path(str(Path(__file__).with_name("train_tiny.py")))["MODELS"]


def fit(model: str, data: Path, run_dir: Path | None, heldout: int = 16):
    callbacks = [] if run_dir is None else [Distributions(9.0, num_images=16, batch_size=10)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gan = MODELS[model](seed=0, total_kimg=0.016, log_every_kimg=0.008)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=DiskLogger(run_dir) if run_dir else False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(gan, PosedImagesModule(data, batch_size=8, num_workers=0, heldout=heldout))
    return gan


@pytest.fixture
def drawn(monkeypatch):
    """The values of all histograms, in order."""
    panels, draw = [], distributions.histograms
    monkeypatch.setattr(distributions, "histograms", lambda p: panels.append(p) or draw(p))
    return panels


@pytest.mark.parametrize("model", ["eg3d", "gramhd"])
def test_training_is_bit_for_bit_the_same_with_and_without_histograms(
    model, posed_zip, tmp_path, drawn
):
    plain = fit(model, posed_zip, None, heldout=16)
    watched = fit(model, posed_zip, tmp_path, heldout=16)
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values()):
        assert torch.equal(a, b), name
    assert all(module.training for module in watched.discriminator.modules())

    # whole batches of whole groups; only one of the two predicts poses
    group, of_poses = watched.discriminator.group_size, model == "gramhd"
    size = 10 // group * group
    num = 16 // size * size
    pictures = read_run(tmp_path).pictures
    assert set(pictures) == {"logit_histogram", *["pose_histogram"] * of_poses}
    assert [step for step, _ in pictures["logit_histogram"]] == [0, 16]
    logits = drawn[0][0].values
    assert {name: len(values) for name, values in logits.items()} == {
        "fakes": num,
        "held-out images": num,
    }
    mean = read_run(tmp_path).columns["logits/heldout"][0][1]
    assert mean == pytest.approx(float(logits["held-out images"].mean()))
    if of_poses:
        yaw, pitch = drawn[1]
        assert len(yaw.values["set"]) == len(pitch.values["set"]) == 24 - 16


def test_without_held_out_images_fakes_are_alone(posed_zip, tmp_path, drawn):
    fit("stylegan2", posed_zip, tmp_path, heldout=0)
    assert list(drawn[0][0].values) == ["fakes"]
    assert "logits/heldout" not in read_run(tmp_path).columns


def test_poses_of_a_discriminator_are_read_in_its_own_convention():
    yaw, pitch = torch.tensor([0.3, -0.2]), torch.tensor([0.1, -0.4])
    said = DiscriminatorOutput(torch.zeros(2), pose=Camera.from_angles(yaw, pitch).sphere_pose())
    images = [distributions.Judged(torch.zeros(2, 3, 8, 8), said)]
    read = distributions.read_poses(images, is_heads=False)
    torch.testing.assert_close(read, (yaw, pitch))
    silent = [distributions.Judged(images[0].image, DiscriminatorOutput(torch.zeros(2)))]
    assert distributions.read_poses(silent, is_heads=False) is None


def test_numbers_that_make_no_sense_are_refused():
    for name in ("num_images", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} 0"):
            Distributions(**{name: 0})
