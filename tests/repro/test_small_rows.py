"""Small things that crashed, were told unclearly, or gave wrong numbers (bugs.md C10 and its log,
review.md finding 12).
"""

import io
import json
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.augment import ADA, Augmentation
from gan3d.augment.ada import PRESETS
from gan3d.camera import Camera, GaussianPose, TruncatedGaussianPose
from gan3d.cli import main
from gan3d.data.dataset import PosedImages
from gan3d.data.images import decode
from gan3d.discriminators import GRAMDiscriminator, StyleGAN2Discriminator
from gan3d.generators import GENERATORS, GRAM, StyleGAN2
from gan3d.metrics.frechet import FrechetDistance, SmallFeatures
from gan3d.metrics.precision_recall import precision_and_recall
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, PosePrediction
from gan3d.training.run import Run
from gan3d.training.stages import Stage


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def test_a_label_in_two_lists_is_told_as_it_is(tmp_path):
    numbers = Camera.from_angles(0.1, 0.2).label()[0].tolist()
    rows = [numbers[4 * k : 4 * k + 4] for k in range(4)]
    lens = [numbers[16 + 3 * k : 19 + 3 * k] for k in range(3)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("0.png", picture("PNG"))
        archive.writestr("dataset.json", json.dumps({"labels": [["0.png", rows, lens]]}))
    with pytest.raises(ValueError, match=r"0\.png has 3 parts, expected .* one list of 25 numbers"):
        PosedImages(tmp_path / "set.zip")


def test_a_gif_is_called_by_its_name_and_kind():
    with pytest.raises(ValueError, match=r"^photo\.png: .*it is a GIF"):
        decode(picture("GIF"), "photo.png")


def test_an_integer_of_numpy_selects_a_camera():
    cameras = Camera.from_angles(torch.tensor([0.0, 0.3]), 0.0)
    assert torch.equal(cameras[np.int64(1)].cam2world, cameras[1].cam2world)


def test_angles_and_spreads_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"fov is 0; expected an angle"):
        Camera.from_angles(0.0, 0.0, fov=0)
    with pytest.raises(ValueError, match=r"fov is 0; expected an angle"):
        GaussianPose(fov=0)
    with pytest.raises(ValueError, match=r"yaw_std is -1; expected 0 or more"):
        GaussianPose(yaw_std=-1)
    with pytest.raises(ValueError, match=r"bound is -1; expected 0 or more"):
        TruncatedGaussianPose(bound=-1)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_a_negative_number_of_latents_is_not_truncated(name):
    generator = GENERATORS[name](**GENERATORS[name].tiny)
    with pytest.raises(ValueError, match="truncation_cutoff is -1; expected the number of latents"):
        generator.map(torch.zeros(1, generator.z_dim), truncation=0.5, truncation_cutoff=-1)


def test_equal_sets_of_large_features_are_precise_and_recalled():
    features = 1e5 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert precision_and_recall(features, features.clone()) == (1.0, 1.0)


def test_a_pixel_that_is_nan_is_named_as_the_cause():
    distance, images = FrechetDistance(SmallFeatures()), torch.zeros(4, 3, 32, 32)
    distance.update(images, real=True)
    images[0, 0, 0, 0] = torch.nan
    distance.update(images, real=False)
    with pytest.raises(ArithmeticError, match=r"fake images are not finite.* an image has NaN"):
        distance.compute()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_of_one_and_two_images_warn_of_nothing(batch_size):
    distance = FrechetDistance(SmallFeatures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in torch.rand(8, 3, 32, 32).split(batch_size):
            distance.update(images, real=True)
            distance.update(images, real=False)
        assert abs(float(distance.compute())) < 1e-6


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("accumulate_grad_batches 2", "--model.run.micro_batch_size"),
        ("gradient_clip_val 0.5", "--model.optimizer_g.clip_norm"),
    ],
)
def test_options_of_lightning_are_answered_with_ours(option, ours, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"fit --config eg3d_heads32.yaml --data.path x.zip --trainer.{option}"
    assert main(words.split()) != 0
    assert ours in capsys.readouterr().err


# ------------------------------------------------------------ what cannot work together


def harness(pair: str = "StyleGAN2", **options) -> GAN:
    if pair == "GRAM":
        return GAN(GRAM(**GRAM.tiny), GRAMDiscriminator(**GRAMDiscriminator.tiny), **options)
    discriminator = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny)
    return GAN(StyleGAN2(**StyleGAN2.tiny), discriminator, **options)


def test_a_gamma_of_a_stage_without_a_penalty_is_refused():
    run = Run(stages=[Stage(gamma=2.0)])
    with pytest.raises(
        ValueError, match=r"gamma 2\.0, but there is no R1 penalty .*r1\.gamma is 0"
    ):
        harness(run=run, r1=R1(gamma=0.0))
    harness(run=run, r1=R1(gamma=1.0))


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_poses_are_not_learned_from_pictures_that_ada_has_turned(preset):
    options = {
        "pose": PosePrediction(weight=1.0, real_weight=1.0),
        "augmentation": Augmentation(ada=ADA(preset=preset)),
    }
    pipe = PRESETS[preset]
    if pipe.xflip or pipe.rotate90 or pipe.rotate:
        with pytest.raises(ValueError, match=r"predicts poses, and ADA's .* would turn pictures"):
            harness("GRAM", **options)
    else:
        harness("GRAM", **options)
    harness(augmentation=options["augmentation"])
