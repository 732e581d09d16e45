"""The verbs that show whether a checkpoint is 3D, called as the command line calls them."""

import re

import pytest
import torch
from PIL import Image
from torch import nn

from gan3d.camera import Camera
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli import consistency, symmetry
from gan3d.cli.options import call
from gan3d.generators import EG3D, GENERATORS, Generator, Rendering, StyleGAN2
from gan3d.generators.contract import SurfaceLayer

TOLD: list[Camera | None] = []  # conditioning of all scenes that were made


class Ball(Generator):
    """A ball of radius 0.25 at the origin with a smooth texture, whose phase is z."""

    z_dim = w_dim = 1
    num_ws, img_resolution = 1, 64

    def __init__(self, radius: float = 0.25):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius))

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        TOLD.append(camera)
        return truncation * z[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        side = resolution or self.img_resolution
        rays = camera.rays(side)
        along = -(rays.origins * rays.directions).sum(-1)
        inside = self.radius**2 - (rays.origins.square().sum(-1) - along**2)
        distance = along - inside.clamp(min=0).sqrt()
        hit = (inside > 0).reshape(-1, 1, side, side)
        points = rays.origins + rays.directions * distance[..., None]
        image = (8 * points + representation[:, None]).sin().mT.unflatten(-1, (side, side))
        depth = (distance[..., None] * rays.cosines).reshape(-1, 1, side, side)
        return Rendering(torch.where(hit, image, 1.0), depth=depth, opacity=hit.float())


GENERATORS.pop("Ball")  # of these tests only: no registry-walking test shall see it


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(GENERATORS, "Ball", Ball)
    return save_pretrained(tmp_path / "ball.safetensors", Ball())


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(function, words) -> what it says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda function, *words: call(
        function, [str(word) for word in words], prog="gan3d", positional=True
    )


def test_epi_draws_rows_over_time(command, checkpoint, tmp_path):
    said = command(
        consistency.write_epi_of,
        checkpoint,
        "--num",
        2,
        "--frames",
        5,
        "--yaw",
        0.2,
        "--device",
        "cpu",
    )
    assert said == "epi.png: 2 x 5 rows"
    width, height = Image.open(tmp_path / "epi.png").size
    # Two scenes of 5 rows of 64 px, four times as large, a gap, and room for labels.
    assert 2 * 20 + 2 + 10 < height < 2 * 20 + 2 + 30
    assert 256 + 20 < width < 256 + 100


def test_reproject_prints_a_table_of_scenes_that_agree_with_themselves(command, checkpoint):
    words = ["--num", 2, "--views", 3, "--yaw", 0.1, "--fov", 14, "--device", "cpu"]
    lines = command(consistency.reproject_views, checkpoint, *words).splitlines()
    assert [line.split(":")[0] for line in lines] == ["scene 0", "scene 1", "mean"]
    first, second, mean = (float(re.search(r"([\d.]+) dB over +\d+%", line)[1]) for line in lines)
    assert mean == pytest.approx((first + second) / 2, abs=0.011)
    assert min(first, second) > 35
    assert first != second


def test_export_manifolds_writes_the_layers_of_a_model_that_has_some(
    command, checkpoint, tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match="Ball has no surfaces"):
        command(consistency.export_surfaces, checkpoint)
    line = torch.linspace(-1, 1, 4)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points, grid = torch.stack([x, y, 0 * x], dim=-1), torch.stack([x, y], dim=-1)
    layer = SurfaceLayer(
        "a", points, torch.ones(4, 4, dtype=torch.bool), grid, torch.zeros(4, 8, 8)
    )
    monkeypatch.setattr(Ball, "surfaces", lambda self, scene: [layer])
    said = command(consistency.export_surfaces, checkpoint, "--device", "cpu")
    assert said == "manifolds.glb: 1 of 1 surfaces, farthest first"
    assert (tmp_path / "manifolds.glb").read_bytes()[:4] == b"glTF"


SMALL = {
    "write_epi_of": ["--num", 2, "--frames", 2, "--radius", 2.5, "--fov", 14],
    "reproject_views": ["--num", 1, "--views", 2, "--yaw", 0.1, "--radius", 2.5, "--fov", 14],
    "export_surfaces": [],
}


@pytest.mark.parametrize("function", SMALL)
@pytest.mark.parametrize("conditioned", [False, True])
def test_a_pose_conditioned_model_is_told_the_frontal_camera_of_the_view(
    command, checkpoint, monkeypatch, function, conditioned
):
    layer = SurfaceLayer(
        *["a", torch.zeros(2, 2, 3), torch.ones(2, 2, dtype=torch.bool)],
        *[torch.zeros(2, 2, 2), torch.zeros(4, 8, 8)],
    )
    monkeypatch.setattr(Ball, "surfaces", lambda self, scene: [layer])
    monkeypatch.setattr(Ball, "camera_conditioned", conditioned)
    TOLD.clear()
    command(getattr(consistency, function), checkpoint, *SMALL[function], "--device", "cpu")
    (told,) = TOLD
    if not conditioned:
        assert told is None
        return
    seen = {"radius": 2.5, "fov": 14.0} if SMALL[function] else {"radius": 2.7, "fov": 18.83}
    front = Camera.from_angles(0.0, 0.0, **seen).label()
    assert torch.allclose(told.label(), front.expand(len(told), -1), atol=1e-5)


def test_the_verb_symmetry_tells_the_frontal_camera_in_all_that_it_shows(
    command, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    path = save_pretrained(tmp_path / "eg3d.safetensors", EG3D(**EG3D.tiny))
    told, map_of = [], EG3D.map

    def watched(self, z, camera=None, **options):
        told.append(camera)
        return map_of(self, z, camera, **options)

    monkeypatch.setattr(EG3D, "map", watched)
    words = ["--num", 2, "--steps", 2, "--resolution", 8, "--radius", 2.75, "--device", "cpu"]
    command(symmetry.measure_symmetry, path, *words)
    front = Camera.from_angles(0.0, 0.0, radius=2.75).label()
    assert len(told) > 3  # two heads, the sheet, and the encoding
    for camera in told:
        assert camera is not None
        assert torch.allclose(camera.label(), front.expand(len(camera), -1), atol=1e-5)


@pytest.mark.parametrize("function", ["write_epi_of", "reproject_views", "export_surfaces"])
def test_a_model_without_a_camera_is_refused(command, tmp_path, function):
    flat = save_pretrained(tmp_path / "flat.safetensors", StyleGAN2(**StyleGAN2.tiny))
    with pytest.raises(ValueError, match="StyleGAN2, which has no camera"):
        command(getattr(consistency, function), flat)


def test_names_that_say_no_known_format_are_refused(command, checkpoint):
    with pytest.raises(ValueError, match=r"does not end in .glb"):
        command(consistency.export_surfaces, checkpoint, "--out", "m.zip")
    with pytest.raises(
        ValueError, match=r"--out lines.pgn does not end in .png; use for example lines.png"
    ):
        command(consistency.write_epi_of, checkpoint, "--out", "lines.pgn")


@pytest.mark.parametrize(
    ("function", "option", "least"),
    [
        ("write_epi_of", "num", 1),
        ("write_epi_of", "frames", 2),
        ("reproject_views", "num", 1),
        ("reproject_views", "views", 2),
    ],
)
def test_too_few_to_show_anything_is_refused_before_the_work(
    command, tmp_path, function, option, least
):
    with pytest.raises(
        ValueError, match=f"--{option} {least - 1} is too few; give {least} or more"
    ):
        command(getattr(consistency, function), "none.safetensors", f"--{option}", least - 1)
    assert list(tmp_path.iterdir()) == []
