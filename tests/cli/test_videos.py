"""The verb `video`: paths, grids, walks, styles, several models; files that play."""

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import gan3d
from gan3d.apps.samples import latents
from gan3d.apps.video import film
from gan3d.apps.walks import mixed
from gan3d.camera import Camera, camera_path
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import videos
from gan3d.generators import EG3D, GENERATORS, PiGAN, StyleGAN2

FAST = ("--frames", 4, "--device", "cpu")


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    facts = {"radius": 2.75, "fov": 14.0}
    return save_pretrained(tmp_path / "eg3d.safetensors", EG3D(**EG3D.tiny).eval(), facts=facts)


@pytest.fixture
def flat(tmp_path):
    torch.manual_seed(0)
    return save_pretrained(tmp_path / "flat.safetensors", StyleGAN2(**StyleGAN2.tiny).eval())


@pytest.fixture
def written(monkeypatch):
    """The frames that the verb writes, before they are enlarged and encoded."""
    caught = []

    def keep(out, frames, **options):
        caught.append(np.stack(list(frames)))
        return out

    monkeypatch.setattr(videos, "write_video", keep)
    return caught


def calls_of(monkeypatch, cls) -> list[str]:
    """Names of map, represent and render, in the order in which they are called."""
    calls: list[str] = []
    for name in ("map", "represent", "render"):

        def watched(self, *args, of=getattr(cls, name), name=name, **options):
            calls.append(name)
            return of(self, *args, **options)

        monkeypatch.setattr(cls, name, watched)
    return calls


def expected_frames(model, ws, path, **options) -> np.ndarray:
    generator = gan3d.from_pretrained(model)
    return np.stack(list(film(generator, ws, path, progress=False, **options)))


def mapped(model, seeds) -> torch.Tensor:
    generator = gan3d.from_pretrained(model)
    z = latents(generator, seeds)
    front = Camera.from_angles(0.0, 0.0, radius=2.75, fov=14.0)
    condition = generator.frontal_condition(front, len(z)) if generator.has_camera else None
    with torch.no_grad():
        return generator.map(z, condition)


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_video_plays_and_is_a_grid_of_the_seeds(cli, model, tmp_path, ending):
    out = tmp_path / f"new/heads{ending}"
    words = ["video", model, "--seeds", "1-8", "--grid", "4x2", *FAST, "--out", out, "--fps", 10]
    code, said, error = cli(*words)
    assert code == 0, error
    assert said == f"{out}: 4 frames, 0.4 s\n"
    shown = np.stack(imageio.mimread(out))[..., :3]
    path = camera_path("orbit", 4, radius=2.75, fov=14.0)
    expected = expected_frames(model, mapped(model, range(1, 9)), path, columns=4)
    assert expected.shape == (4, 64, 128, 3)
    assert shown.shape == (4, 256, 512, 3)  # enlarged pixel by pixel
    seen, meant = shown[:, 2::4, 2::4].astype(int), expected.astype(int)
    assert np.abs(seen - meant).mean() < 8
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_scene_is_computed_once_while_only_the_camera_moves(cli, model, written, monkeypatch):
    calls = calls_of(monkeypatch, EG3D)
    assert cli("video", model, "--seeds", "0-2", "--batch_size", 2, *FAST)[0] == 0
    assert calls.count("represent") == 2  # 3 scenes, 2 at once
    assert calls.count("render") == 2 * 4


def test_a_scene_that_changes_is_computed_for_every_frame(cli, model, written, monkeypatch):
    calls = calls_of(monkeypatch, EG3D)
    words = ["--seeds", "0-1", "--interpolate", "true", "--path", "still"]
    assert cli("video", model, *words, *FAST)[0] == 0
    assert [calls.count(name) for name in ("map", "represent", "render")] == [1, 4, 4]
    path = camera_path("still", 4, radius=2.75, fov=14.0)
    ends = expected_frames(model, mapped(model, [0, 1]), path, columns=2)
    assert np.array_equal(written[0][0], ends[0][:, :32])
    assert np.abs(written[0][2].astype(int) - ends[2][:, 32:]).max() <= 1


def test_every_cell_goes_through_its_share_of_the_seeds(cli, model, written):
    words = ["--seeds", "0-3", "--interpolate", "true", "--grid", "2x1", "--path", "still"]
    assert cli("video", model, *words, *FAST)[0] == 0
    path = camera_path("still", 4, radius=2.75, fov=14.0)
    ends = expected_frames(model, mapped(model, range(4)), path, columns=4)[0]
    assert np.array_equal(written[0][0], np.concatenate([ends[:, :32], ends[:, 64:96]], axis=1))


def test_styles_have_a_row_each_and_seeds_a_column(cli, model, written):
    words = ["--seeds", "0-2", "--styles", "7-8", "--cut", 1, "--layers", "image,depth"]
    assert cli("video", model, *words, *FAST)[0] == 0
    (frames,) = written
    assert frames.shape == (4, 4 * 32, 3 * 32, 3)
    ws = mixed(mapped(model, range(3)), mapped(model, [8]), 1)
    path = camera_path("orbit", 4, radius=2.75, fov=14.0)
    assert np.array_equal(frames[:, 32:64], expected_frames(model, ws, path, columns=3))


def test_styles_stay_while_seeds_change(cli, flat, written):
    words = ["--seeds", "0-1", "--styles", "7-9", "--interpolate", "true", *FAST]
    assert cli("video", flat, *words)[0] == 0
    ws = mixed(mapped(flat, [0, 1])[:1], mapped(flat, [7, 8, 9]))
    first = expected_frames(flat, ws, None, columns=3)[0]
    assert written[0].shape[1:] == first.shape
    assert np.array_equal(written[0][0], first)
    assert not np.array_equal(written[0][1], first)


def test_models_are_filmed_from_the_same_angles_each_from_its_own_distance(
    cli, model, written, tmp_path, monkeypatch
):
    torch.manual_seed(1)
    small = EG3D(**EG3D.tiny).eval()
    other = save_pretrained(tmp_path / "b.safetensors", small, facts={"radius": 2.6, "fov": 20.0})
    seen, render = [], EG3D.render

    def watched(self, scene, camera=None, **options):
        seen.append(camera)
        return render(self, scene, camera, **options)

    monkeypatch.setattr(EG3D, "render", watched)
    assert cli("video", model, "--beside", other, "--path", "wiggle", *FAST)[0] == 0
    (frames,) = written
    left, right = Camera.cat(seen[::2]), Camera.cat(seen[1::2])
    for one, two in zip(left.yaw_pitch(), right.yaw_pitch(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert left.origins.norm(dim=-1).tolist() == pytest.approx([2.75] * 4)
    assert right.origins.norm(dim=-1).tolist() == pytest.approx([2.6] * 4)
    assert frames.shape[2] > 2 * 256
    assert frames.shape[1] > 256  # with a line of labels


def test_a_2d_model_turns_into_others_and_has_no_camera(cli, flat, written):
    assert cli("video", flat, "--seeds", "0-1", "--interpolate", "true", *FAST)[0] == 0
    assert written[0].shape[0] == 4
    for words, said in {
        (): "StyleGAN2, a 2D model, which has no camera to move\n  film its scenes turning into",
        ("--path", "orbit"): "leave out --path, --yaw and --pitch",
        ("--layers", "depth"): "has no layer depth; it has image",
    }.items():
        code, _, error = cli("video", flat, *words, *FAST)
        assert code == 2
        assert said in error


def test_dolly_stays_where_rays_are_sampled(cli, model, written, tmp_path, monkeypatch):
    paths = []
    monkeypatch.setattr(
        videos, "camera_path", lambda *a, **o: paths.append(o) or camera_path(*a, **o)
    )
    assert cli("video", model, "--path", "dolly", *FAST)[0] == 0
    limits = gan3d.from_pretrained(model).ray_limits
    assert paths[0]["far"] == pytest.approx(min(1.15 * 2.75, limits[1] - 0.25))
    code, _, error = cli("video", model, "--path", "dolly", "--radius", 3.2, *FAST)
    assert code == 2
    assert "the camera cannot move away from 3.2\n  take another --path" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--path", "orbt"], "did you mean orbit?"),
        (["--grid", "4"], "--grid 4 is no grid; give columns x rows"),
        (["--grid", "3x1"], "--grid 3x1 has 3 cells, --seeds are 1; give as many of both"),
        (["--interpolate", "true"], "--seeds are 1; give 2 or more"),
        (
            ["--seeds", "0-3", "--interpolate", "true", "--grid", "2x2"],
            "--grid 2x2 has 4 cells, --seeds are 4; give 8, 12 or another multiple",
        ),
        (["--cut", "2"], "give --styles, too"),
        (["--styles", "1", "--grid", "1x1"], "leave out --grid"),
        (["--styles", "1", "--cut", "99"], "EG3D: cut 99 leaves no latents"),
        (["--path", "circle", "--yaw", "0.2"], "path circle has angles of its own"),
        (["--beside", "nothing.ckpt"], "there is no model nothing.ckpt"),
        (["--out", "a.avi"], "--out a.avi does not end in .mp4 or .gif"),
        (["--frames", "1"], "--frames 1 is too few; give 2 or more"),
        (["--fps", "1000"], "--fps 1000 is out of range"),
    ],
)
def test_what_cannot_be_filmed_is_refused_in_words(cli, model, tmp_path, words, said):
    code, _, error = cli("video", model, "--device", "cpu", *words)
    assert code == 2
    assert said in error
    assert [path.name for path in tmp_path.iterdir()] == ["eg3d.safetensors"]


def test_a_model_with_a_single_latent_has_nothing_to_mix(cli, tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = save_pretrained(tmp_path / "pigan.safetensors", PiGAN(**PiGAN.tiny).eval())
    map_of = PiGAN.map
    monkeypatch.setattr(PiGAN, "map", lambda self, *a, **o: map_of(self, *a, **o)[:, :1])
    code, _, error = cli("video", path, "--styles", "1", *FAST)
    assert code == 2
    assert "PiGAN: a scene has a single latent" in error


def test_a_video_says_which_model_and_seeds_made_it(cli, model, tmp_path):
    assert cli("video", model, "--seeds", "3", *FAST, "--out", "a.gif")[0] == 0
    with Image.open(tmp_path / "a.gif") as image:
        comment = image.info["comment"].decode()
    assert comment == f"gan3d {gan3d.__version__}: {model}, seeds 3, truncation=1.0"
    assert cli("video", model, "--seeds", "3", *FAST)[0] == 0
    assert comment.encode() in (tmp_path / "video.mp4").read_bytes()
    assert next(imageio_ffmpeg.read_frames(str(tmp_path / "video.mp4")))["fps"] == 30


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_is_filmed(cli, tmp_path, written, name):
    torch.manual_seed(0)
    generator = GENERATORS[name](**GENERATORS[name].tiny).eval()
    path = save_pretrained(tmp_path / "g.safetensors", generator)
    place = ["--radius", sum(generator.ray_limits) / 2] if generator.ray_limits else []
    words = [] if generator.has_camera else ["--interpolate", "true"]
    code, _, error = cli(
        "video", path, "--seeds", "0-1", *words, *place, "--frames", 3, "--device", "cpu"
    )
    assert code == 0, error
    assert written[0].dtype == np.uint8
    assert not np.array_equal(written[0][0], written[0][1])
