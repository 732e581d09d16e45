"""GAN.load_from_checkpoint: a run's harness in Python, made again from its checkpoint alone."""

import pytest
import torch
import yaml

from gan3d.camera import GaussianPose
from gan3d.cli import main
from gan3d.discriminators import CIPS3DDiscriminator
from gan3d.generators import CIPS3D
from gan3d.training.ema import EMA
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, TopK
from gan3d.training.stages import Stage


def plain(value):
    """Arguments as YAML has them."""
    return yaml.safe_load(yaml.safe_dump(value)) if not isinstance(value, tuple) else list(value)


@pytest.fixture(scope="module")
def checkpoint(posed_zip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    generator = {key: plain(value) for key, value in CIPS3D.tiny.items()}
    discriminator = {key: plain(value) for key, value in CIPS3DDiscriminator.tiny.items()}
    poses = {"class_path": "GaussianPose", "init_args": {"radius": 1.0, "fov": 12.0}}
    model = {
        "generator": {"class_path": "CIPS3D", "init_args": generator},
        "discriminator": {"class_path": "CIPS3DDiscriminator", "init_args": discriminator},
        "adversarial": {"class_path": "TopK", "init_args": {"smallest": 0.5}},
        "r1": {"gamma": 3.0, "interval": 2},
        "fakes": {"poses": poses, "density_noise": {"initial": 1.0, "final": 0.0}},
        "ema": {"half_life_kimg": 0.5},
        "run": {
            "total_kimg": 0.008,
            "stages": [{"from_kimg": 0, "resolution": 16}, {"from_kimg": 1, "lr_g": 0.001}],
        },
    }
    data = {"path": str(posed_zip), "batch_size": 4, "heldout": 0, "num_workers": 0}
    config = folder / "cips.yaml"
    config.write_text(yaml.safe_dump({"model": model, "data": data}))
    run = folder / "run"
    shows = ("--snapshots.num_heads", "2", "--snapshots.video_every", "0")
    assert main(["fit", "--config", str(config), "--run_dir", str(run), *shows]) == 0
    return run / "checkpoints" / "last.ckpt"


def test_networks_settings_and_counts_come_back(checkpoint):
    gan = GAN.load_from_checkpoint(checkpoint)
    assert isinstance(gan.generator, CIPS3D)
    assert isinstance(gan.losses.adversarial, TopK)
    assert gan.losses.adversarial.smallest == 0.5
    assert gan.losses.r1 == R1(gamma=3.0, interval=2)
    assert gan.ema == EMA(half_life_kimg=0.5)
    assert gan.fakes.poses == GaussianPose(radius=1.0, fov=12.0)
    assert tuple(gan.stages) == (
        Stage(from_kimg=0, resolution=16),
        Stage(from_kimg=1, lr_g=0.001),
    )
    assert int(gan.images_seen) == 8
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert gan.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in gan.state_dict().items())


def test_the_average_renders_at_once_at_the_resolution_of_its_stage(checkpoint):
    gan = GAN.load_from_checkpoint(checkpoint)
    image = gan.sample(range(2)).image
    assert image.shape == (2, 3, 16, 16)
    assert torch.isfinite(image).all()


def test_an_argument_may_be_given_in_place_of_the_recorded_one(checkpoint):
    gan = GAN.load_from_checkpoint(checkpoint, ema=EMA(half_life_kimg=2.0), r1=R1(gamma=7.0))
    assert gan.ema.half_life_kimg == 2.0
    assert gan.losses.r1.gamma == 7.0
    assert gan.losses.adversarial.smallest == 0.5


def test_another_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        GAN.load_from_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="no checkpoint"):
        GAN.load_from_checkpoint(tmp_path / "bad.ckpt")
