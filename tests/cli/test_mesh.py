"""The verb `mesh`, called as the command line calls it."""

import re
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from gan3d.camera import Camera
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import mesh
from gan3d.cli.options import call
from gan3d.generators import EG3D, GENERATORS, Generator, PiGAN, Rendering, StyleGAN2

trimesh = pytest.importorskip("trimesh")
SMALL = ["--num_yaw", 3, "--num_pitch", 1, "--voxels", 24, "--texture", 64, "--device", "cpu"]


class Bump(Generator):
    """A head of a sort: a ball of radius 0.25 with a nose towards +z and a hat at +y; no field. z
    makes it larger.
    """

    z_dim = w_dim = 1
    num_ws, img_resolution = 1, 48
    conditioned: list[Camera | None] = []

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        self.conditioned.append(camera)
        return truncation * z[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        side = resolution or self.img_resolution
        rays = camera.rays(side)
        nearest = torch.full(rays.origins.shape[:2], torch.inf)
        for center, radius in (((0, 0, 0), 0.2), ((0, 0, 0.2), 0.06), ((0, 0.2, 0), 0.12)):
            origins = rays.origins - torch.tensor(center)
            along = -(origins * rays.directions).sum(-1)
            inside = (radius + 0.01 * float(representation)) ** 2 + along**2
            inside = inside - origins.square().sum(-1)
            distance = torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), torch.inf)
            nearest = torch.minimum(nearest, distance)
        hit = nearest.isfinite().reshape(-1, 1, side, side)
        points = rays.origins + rays.directions * nearest[..., None].nan_to_num(0, 0, 0)
        image = (4 * points).clamp(-1, 1).mT.unflatten(-1, (side, side))
        depth = (nearest[..., None] * rays.cosines).reshape(-1, 1, side, side)
        return Rendering(torch.where(hit, image, 1.0), depth=depth, opacity=hit.float())


GENERATORS.pop("Bump")  # of these tests only: no registry-walking test shall see it


@pytest.fixture
def bump(tmp_path, monkeypatch):
    monkeypatch.setitem(GENERATORS, "Bump", Bump)
    return save_pretrained(tmp_path / "bump.safetensors", Bump())


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(words) -> what the verb says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(
        mesh.write_mesh_of, [str(word) for word in words], prog="gan3d mesh", positional=True
    )


@pytest.mark.parametrize(
    ("name", "magic"), [("new/mesh.glb", b"glTF"), ("mesh.ply", b"ply\n"), ("a.obj", b"# ga")]
)
def test_a_mesh_is_written_by_its_ending(command, bump, tmp_path, name, magic):
    said = command(bump, "--out", name, *SMALL)
    assert re.fullmatch(rf"{name}: \d{{3,4}} vertices, \d{{3,4}} triangles of 3 views", said)
    assert (tmp_path / name).read_bytes()[:4] == magic
    assert (tmp_path / "a.png").exists() == (name == "a.obj")


def test_a_mesh_stands_upright_with_its_nose_towards_z_and_is_not_mirrored(command, bump, tmp_path):
    command(bump, "--out", "a.ply", *SMALL, "--voxels", 48, "--num_yaw", 7, "--yaw", 1.2)
    read = trimesh.load(tmp_path / "a.ply", process=False)
    low, high = read.bounds
    assert high[1] > 0.3  # the hat
    assert low[1] > -0.25
    assert high[2] == pytest.approx(0.26, abs=0.03)  # the nose
    assert low[2] > -0.25
    colors = read.visual.vertex_colors[:, :3] / 127.5 - 1
    for axis in range(3):  # red grows to +x, green to +y, blue to +z
        line = np.corrcoef(read.vertices[:, axis], colors[:, axis])
        assert line[0, 1] > 0.8


def test_several_seeds_are_several_files(command, bump, tmp_path):
    said = command(bump, "--seeds", "1-2", "--out", "a.ply", *SMALL).splitlines()
    assert [line.split(":")[0] for line in said] == ["a_0001.ply", "a_0002.ply"]
    first, second = ((tmp_path / f"a_000{k}.ply").read_bytes() for k in (1, 2))
    assert first != second


def test_a_turntable_is_a_video_of_the_mesh_beside_it(command, bump, tmp_path):
    command(bump, *SMALL, "--turntable", "true")
    frames = iio.imread(tmp_path / "mesh.mp4", plugin="FFMPEG")
    assert len(frames) == mesh.TURN
    seen = (frames < 200).any(-1).mean(axis=(1, 2))
    assert (seen > 0.02).all()


def test_nothing_that_is_there_is_replaced_unasked(command, bump, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(ValueError, match=r"a.png exists already"):
        command(bump, "--out", "a.obj", *SMALL)
    (tmp_path / "a_0002.glb").write_text("mine")
    with pytest.raises(ValueError, match=r"a_0002.glb exists already"):
        command(bump, "--seeds", "1-3", "--out", "a.glb", *SMALL)
    assert command(bump, "--out", "a.obj", *SMALL, "--overwrite", "true")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("conditioned", [False, True])
def test_a_pose_conditioned_model_gets_the_frontal_camera_of_the_view(
    command, bump, monkeypatch, conditioned
):
    monkeypatch.setattr(Bump, "camera_conditioned", conditioned)
    Bump.conditioned.clear()
    command(bump, *SMALL, "--radius", 2.5, "--fov", 14)
    (camera,) = Bump.conditioned
    if not conditioned:
        assert camera is None
        return
    front = Camera.from_angles(0.0, 0.0, radius=2.5, fov=14.0).label()
    assert torch.allclose(camera.label(), front, atol=1e-5)


@pytest.mark.parametrize("cls", [EG3D, PiGAN])
def test_the_density_of_a_model_is_a_closed_surface(command, tmp_path, cls):
    """A random field: at its level, closed by the sides of the cube."""
    torch.manual_seed(0)
    generator = cls(**cls.tiny).eval()
    path = save_pretrained(tmp_path / "g.safetensors", generator)
    place = ["--radius", sum(generator.ray_limits) / 2] if generator.ray_limits else []
    command(path, *SMALL, *place, "--source", "density", "--level", 0, "--out", "a.ply")
    read = trimesh.load(tmp_path / "a.ply")
    assert read.is_watertight
    assert read.volume > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--extent", "0.1"], r"no surface in the cube of side 0.1 \(\d+% of it was seen\)"),
        (["--source", "density"], "Bump has no 3D field"),
        (["--out", "mesh.stl"], "does not end in .glb or .obj or .ply; use for example mesh.glb"),
        (["--num_yaw", "0"], "--num_yaw 0 is too few; give 1 or more"),
        (["--num_pitch", "0"], "--num_pitch 0 is too few; give 1 or more"),
        (["--faces", "-1"], "--faces -1 is too few; give 0 or more"),
        (["--seeds", "x"], "'x' is no seed"),
    ],
)
def test_what_gives_no_mesh_is_refused_in_words(command, bump, tmp_path, words, said):
    with pytest.raises(ValueError, match=said):
        command(bump, *SMALL, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["bump.safetensors"]


def test_a_model_without_a_camera_is_refused(command, tmp_path):
    flat = save_pretrained(tmp_path / "flat.safetensors", StyleGAN2(**StyleGAN2.tiny))
    with pytest.raises(ValueError, match="StyleGAN2, which has no camera"):
        command(flat)


def test_a_package_that_is_not_installed_is_named_with_the_remedy(command, bump, monkeypatch):
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(ValueError, match=r"package xatlas, which is not .* gan3d\[apps\]"):
        command(bump, *SMALL)
