"""Measuring a generator: the samples that the metrics get, and the command."""

import json
import math
from pathlib import Path

import pytest
import torch

from gan3d.camera import Camera, DatasetPoses
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import measure as command
from gan3d.cli.measure import measure
from gan3d.data.dataset import PosedImages
from gan3d.data.fingerprint import fingerprint
from gan3d.data.heads import write_heads
from gan3d.generators import EG3D, StyleGAN2, StyleGAN3
from gan3d.metrics.features import quantized
from gan3d.metrics.measure import (
    Protocol,
    collect,
    fake_pictures,
    latent_batches,
    path_steps,
)
from gan3d.randomness import Randomness

LABELS = Camera.from_angles(torch.tensor([-0.3, 0.0, 0.3]), torch.zeros(3)).label()


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def saved(cls, folder: Path) -> Path:
    path = folder / f"{cls.__name__}.safetensors"
    return save_pretrained(path, cls(**cls.tiny), facts={"images_seen": 7})


def test_batches_cover_the_images_once():
    protocol = Protocol(num=7, batch_size=3)
    assert [draw.indices for draw in protocol.draws()] == [[0, 1, 2], [3, 4, 5], [6]]
    assert protocol.num_batches == 3
    batches = list(protocol.batches())
    assert [list(batch.indices) for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.num_batches for batch in batches] == [1, 1, 1]
    with pytest.raises(ValueError, match="0 pictures in batches of 4; both are 1 or more"):
        Protocol(num=0)


@pytest.mark.parametrize("cls", [StyleGAN2, EG3D])
def test_pictures_do_not_depend_on_the_batch_size(cls):
    generator = cls(**cls.tiny).eval()
    cameras = DatasetPoses().bind(LABELS).sample if cls.has_camera else None
    one, other = (
        torch.cat(list(fake_pictures(generator, Protocol(5, size), cameras))) for size in (2, 5)
    )
    assert one.shape == (5, 3, generator.img_resolution, generator.img_resolution)
    assert (one - other).abs().max() < 1.5 * 2 / 255  # one step of 8 bits: rounding may differ
    assert torch.equal(quantized(one).float() / 127.5 - 1, one)


def test_truncation_and_seed_reach_the_generator():
    generator = StyleGAN2(**StyleGAN2.tiny).eval()

    def pictures(**options) -> torch.Tensor:
        return torch.cat(list(fake_pictures(generator, Protocol(4, 4, **options))))

    assert not torch.equal(pictures(), pictures(seed=1))
    assert pictures(truncation=0.0).std(dim=0).max() < 1e-6
    assert pictures().std(dim=0).max() > 1e-2


def test_pictures_have_drawn_noise_only_if_asked():
    generator = StyleGAN2(**StyleGAN2.tiny).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1.0)
        draw = Randomness(0, range(2), "measure")
        z = draw.normal("z", generator.z_dim)
        for noise, randomness in ((False, None), (True, draw)):
            (made,) = fake_pictures(generator, Protocol(2, 2, noise=noise))
            expected = generator(z, randomness=randomness).image
            assert torch.equal(quantized(made), quantized(expected)), noise


def test_a_generator_with_a_camera_and_none_given_is_refused():
    message = r"EG3D needs a camera for every picture and got none.*--data"
    with pytest.raises(ValueError, match=message):
        next(fake_pictures(EG3D(**EG3D.tiny), Protocol(1)))


def test_cameras_are_sampled_once_per_batch_with_the_draws_of_its_images():
    sampled: list[list[int]] = []

    def cameras(draw: Randomness) -> Camera:
        sampled.append(draw.indices)
        return DatasetPoses().bind(LABELS).sample(draw)

    generator = EG3D(**EG3D.tiny).eval()
    list(path_steps(generator, lambda images: images.flatten(1), Protocol(3, 2), cameras))
    assert sampled == [[0, 1], [2]]


@pytest.mark.parametrize("size", [2, 5])
def test_the_latents_are_made_for_the_camera_that_the_conditioning_names(size, monkeypatch):
    """Whatever the batches: cameras are functions of the seed and the number of the image."""
    generator = EG3D(**EG3D.tiny).eval()
    cameras = DatasetPoses().bind(LABELS).sample
    rendering = cameras(Randomness(0, range(5), "measure"))
    yaws, pitches = rendering.yaw_pitch()

    def conditions(conditioning: str) -> Camera:
        seen: list[Camera] = []
        inner = type(generator).map

        def noted(self, z, camera=None, **options):
            seen.append(camera)
            return inner(self, z, camera, **options)

        monkeypatch.setattr(EG3D, "map", noted)
        protocol = Protocol(5, size, conditioning=conditioning)
        list(fake_pictures(generator, protocol, cameras))
        pictures = [camera.label() for camera in seen]
        seen.clear()
        list(path_steps(generator, lambda images: images.flatten(1), protocol, cameras))
        paths = [camera.label() for camera in seen[::2]]
        seen.clear()
        list(latent_batches(generator, protocol, cameras))
        latents = [camera.label() for camera in seen]
        monkeypatch.undo()
        for other in (paths, latents):
            assert torch.equal(torch.cat(other), torch.cat(pictures))
        return Camera.from_label(torch.cat(pictures))

    assert torch.equal(conditions("same").label(), rendering.label())

    front = conditions("frontal")
    assert max(float(angle.abs().max()) for angle in front.yaw_pitch()) < 1e-6
    assert torch.allclose(front.origins.norm(dim=1), rendering.origins.norm(dim=1))
    assert torch.allclose(front.fov, rendering.fov, atol=1e-3)

    others = conditions("independent")
    again = cameras(Randomness(0, range(5), "measure/conditioning"))
    assert torch.equal(others.label(), again.label())
    assert not torch.allclose(others.yaw_pitch()[0], yaws)
    assert pitches.abs().max() < 1e-6  # of the labels: only the yaw tells them apart


def test_pictures_that_are_not_finite_are_noticed():
    generator = StyleGAN2(**StyleGAN2.tiny).eval()
    with torch.no_grad():
        next(generator.synthesis.parameters()).fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="StyleGAN2 made pictures that are not finite"):
        list(fake_pictures(generator, Protocol(1)))


def test_features_of_several_networks_are_collected_in_order():
    batches = [torch.full((2, 3, 4, 4), float(i)) for i in range(3)]
    networks = {"mean": lambda x: x.mean((2, 3)), "first": lambda x: x[:, 0, 0, :2]}
    features = collect(batches, networks)
    assert features["mean"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert features["first"].shape == (6, 2)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [StyleGAN2, EG3D])
def test_the_command_prints_a_table_and_writes_values_with_their_protocol(cls, tmp_path, posed_zip):
    file = saved(cls, tmp_path)
    printed = measure(
        file, "fid,kid,pr,ppl", posed_zip, num=6, features="small", num_workers=0, seed=3
    )
    record = json.loads((tmp_path / f"{cls.__name__}.metrics.json").read_text())
    kinds = ("frechet", "kernel", "precision", "recall", "path_length")
    names = [f"small/{kind}" for kind in kinds]
    assert list(record["results"]) == names
    assert [line.split()[0] for line in printed.splitlines()[:5]] == names
    assert "comparable with no published number" in printed
    assert record["protocol"] | {"networks": None} == {
        "num": 6,
        "batch_size": 4,
        "seed": 3,
        "truncation": 1.0,
        "resolution": None,
        "noise": False,
        "conditioning": "same",
        "first": 0,
        "features": "small",
        "networks": None,
        "data": str(posed_zip),
        "num_real": 24,
        "fingerprint": fingerprint(PosedImages(posed_zip, use_labels=cls.has_camera)),
        "resize_filter": "lanczos",
        "real_resolution": 32,
        "cameras": "labels of the data" if cls.has_camera else None,
        "equivariance_of": "planes" if cls.has_camera else "pictures",
    }
    assert record["checkpoint"]["class"] == cls.__name__
    assert record["checkpoint"]["images_seen"] == 7
    assert len(record["checkpoint"]["sha256"]) == 64
    made_with = {"gan3d", "commit", "torch", "device", "date", "seconds", "machine", "threads"}
    assert made_with | {"python"} == set(record["made_with"])


def test_the_command_gives_the_same_values_again(tmp_path, posed_zip):
    file = saved(StyleGAN2, tmp_path)
    for out in ("a.json", "b.json"):
        measure(file, "fid,ppl", posed_zip, tmp_path / out, num=6, features="small", num_workers=0)
    one, other = (json.loads((tmp_path / out).read_text()) for out in ("a.json", "b.json"))
    assert one["results"] == other["results"]


def test_the_command_computes_in_full_precision_and_restores_the_setting(tmp_path, monkeypatch):
    seen = []

    def scores(job, refused):
        seen.append(torch.backends.cudnn.allow_tf32)
        return {"eqt": 1.0}

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(command, "_scores", scores)
    measure(saved(StyleGAN2, tmp_path), "eqt", num=1)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_the_command_measures_equivariance_without_data(tmp_path):
    printed = measure(saved(StyleGAN3, tmp_path), "eqr,eqt", num=2, batch_size=2)
    record = json.loads((tmp_path / "StyleGAN3.metrics.json").read_text())
    assert list(record["results"]) == ["eqr", "eqt"]
    assert record["results"]["eqt"] > 40
    assert printed.startswith("eqr ")


def test_the_command_measures_heads_against_the_truth(tmp_path, posed_zip, capsys):
    """Without data, with a set of procedural heads, and not with another set."""
    file, options = saved(EG3D, tmp_path), {"num": 2, "batch_size": 1, "num_workers": 0}
    printed = measure(file, "turn,relief", **options)
    record = json.loads((tmp_path / "EG3D.metrics.json").read_text())["results"]
    assert list(record) == [
        *("turn", "identity"),
        *("face_slope", "face_convex", "body_slope", "body_convex", "background_behind"),
    ]
    assert "1 right, 0 flat, -1 hollow" in printed
    write_heads(tmp_path / "heads.zip", num=1, resolution=32, workers=1)
    measure(file, "relief", tmp_path / "heads.zip", out=tmp_path / "again.json", **options)
    again = json.loads((tmp_path / "again.json").read_text())["results"]
    assert again == {name: record[name] for name in again}
    assert len(again) == 5
    with pytest.raises(ValueError, match="holds no procedural heads with their ground truth"):
        measure(file, "relief", posed_zip, out=tmp_path / "other.json", **options)
    with pytest.raises(ValueError, match="StyleGAN2 has no camera to move"):
        measure(saved(StyleGAN2, tmp_path), "turn", **options)


def test_published_names_come_from_published_networks_only(tmp_path, posed_zip, stub):
    file = saved(StyleGAN2, tmp_path)
    measure(file, "fid,pr,ppl", posed_zip, num=6, num_workers=0, inception=stub, vgg=stub)
    record = json.loads((tmp_path / "StyleGAN2.metrics.json").read_text())
    assert list(record["results"]) == ["fid", "precision", "recall", "ppl"]
    assert record["protocol"]["networks"]["lpips"].startswith("stub.pt (sha256 ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "fdi"}, r"there is no metric fdi\s+did you mean fid"),
        ({"metrics": ","}, "--metrics is empty"),
        ({"metrics": "fid,pr"}, "fid, pr: compares with real images .* --data"),
        ({"metrics": "is", "features": "small"}, "is needs the classes of Inception"),
        ({"metrics": "eqt"}, "StyleGAN2 takes no transform"),
        ({"metrics": "ppl"}, "no VGG16 for path length"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        measure(saved(StyleGAN2, tmp_path), **options)


def test_a_metric_that_is_refused_does_not_cancel_the_others(tmp_path, posed_zip, capsys):
    """No VGG16, no Inception probabilities, no transform: what is left is measured and written."""
    file, options = saved(StyleGAN2, tmp_path), {"num": 6, "num_workers": 0, "features": "small"}
    with pytest.raises(ValueError, match="not measured: is: is needs") as caught:
        measure(file, "is,fid,eqt,eqr", posed_zip, **options)
    assert "eqt, eqr: StyleGAN2 takes no transform" in str(caught.value)
    assert "small/frechet" in capsys.readouterr().out
    record = json.loads((tmp_path / "StyleGAN2.metrics.json").read_text())
    assert list(record["results"]) == ["small/frechet"]
    assert list(record["not_measured"]) == ["is", "eqt", "eqr"]


@pytest.mark.parametrize("value", [math.nan, ValueError("too few")])
def test_a_metric_that_fails_late_does_not_cancel_the_others(
    tmp_path, posed_zip, monkeypatch, capsys, value
):
    def kernel(*_):
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(command, "kernel_distance", kernel)
    file, options = saved(StyleGAN2, tmp_path), {"num": 6, "num_workers": 0, "features": "small"}
    with pytest.raises(ValueError, match=r"not measured: kid: (it came out as NaN|too few)"):
        measure(file, "fid,kid", posed_zip, **options)
    record = json.loads((tmp_path / "StyleGAN2.metrics.json").read_text())
    assert list(record["results"]) == ["small/frechet"]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no model"):
        measure(tmp_path / "none.safetensors", "eqt")
