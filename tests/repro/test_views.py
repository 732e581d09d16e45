"""The verbs that show a model in 3D look from where it was trained, or refuse (trial 20).

Refusing is right where the file does not tell where the cameras stood and the rays of the model
sample nothing from where they stand by default.
"""

import json

import pytest
import torch
from PIL import Image

from gan3d.camera import Camera
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import main
from gan3d.generators import GRAM, PiGAN

# A GRAM as published: rays are sampled from 0.88 to 1.12.
PUBLISHED = GRAM.tiny | {"scene_extent": 0.24, "ray_start": 0.88, "ray_end": 1.12}
SHORT = {
    "reproject": ("--num", "1", "--views", "3"),
    "mesh": ("--source", "depth", "--voxels", "32", "--num_yaw", "3", "--num_pitch", "1"),
    "epi": ("--frames", "3"),
    "symmetry": ("--num", "2", "--steps", "2"),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A verb on a model in an empty folder -> exit code, and all that it said."""
    monkeypatch.chdir(tmp_path)

    def call(verb, *words):
        code = main([verb, "g.safetensors", *SHORT[verb], "--device", "cpu", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def save(**facts) -> GRAM:
    torch.manual_seed(0)
    generator = GRAM(**PUBLISHED).eval()
    save_pretrained("g.safetensors", generator, facts=facts)
    return generator


@pytest.mark.parametrize("verb", SHORT)
def test_a_model_whose_file_does_not_tell_is_refused_where_its_rays_see_nothing(verb, run):
    save()
    code, said = run(verb)
    assert code != 0
    assert "nothing is seen from a distance of 2.7: GRAM samples its rays from 0.88 to 1.12" in said
    assert "--radius 1" in said


def test_the_camera_of_training_is_that_of_the_verbs_and_options_override_it(run):
    save(radius=1, fov=12)
    code, by_itself = run("reproject")
    assert code == 0, by_itself
    _, told = run("reproject", "--radius", "1", "--fov", "12")
    _, wider = run("reproject", "--fov", "13")
    assert by_itself == told
    assert by_itself != wider
    code, said = run("reproject", "--radius", "2.7")
    assert code != 0
    assert "nothing is seen" in said


@pytest.mark.parametrize("verb", ["epi", "mesh", "symmetry"])
def test_the_other_verbs_look_from_there_too(verb, run, monkeypatch):
    save(radius=1, fov=12)
    seen = []
    render = GRAM.render

    def watched(self, scene, camera=None, **options):
        seen.append((float(camera.origins.norm(dim=-1).mean()), float(camera.intrinsics[0, 0, 0])))
        return render(self, scene, camera, **options)

    monkeypatch.setattr(GRAM, "render", watched)
    run(verb)
    focal = 0.5 / torch.tensor(12.0).deg2rad().div(2).tan()
    assert seen
    for radius, f in seen:
        assert abs(radius - 1) < 1e-5
        assert abs(f - float(focal)) < 1e-4


def test_an_empty_model_is_an_error_in_words(run, monkeypatch):
    save(radius=1, fov=12)
    render = GRAM.render

    def empty(self, scene, camera=None, **options):
        shown = render(self, scene, camera, **options)
        shown.opacity.zero_()
        return shown

    monkeypatch.setattr(GRAM, "render", empty)
    code, said = run("reproject")
    assert code != 0
    assert "its views have no surface in common" in said
    assert "nan" not in said


def test_a_checkpoint_of_a_stage_is_measured_at_its_resolution(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for k in range(4):
        noise = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(tmp_path / f"{k}.png")
    labels = Camera.from_angles(torch.zeros(4), 0.1, radius=1.0, fov=12.0).label().tolist()
    rows = [[f"{k}.png", label] for k, label in enumerate(labels)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    save_pretrained("g.safetensors", PiGAN(**PiGAN.tiny).eval(), facts={"resolution": 16})
    words = "--features small --num 4 --data . --num_workers 0 --device cpu --overwrite true"
    for more, side in (("", 16), ("--resolution 32", 32)):
        assert main(["measure", "g.safetensors", *words.split(), *more.split()]) == 0
        said = capsys.readouterr().err
        assert ("rendered at 16 px, as in the stage of training" in said) == (not more)
        protocol = json.loads((tmp_path / "g.metrics.json").read_text())["protocol"]
        assert protocol["resolution"] == protocol["real_resolution"] == side
