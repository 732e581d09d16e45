"""A hollow head is called hollow: by its figure, by the alarm and by the report, at any radius."""

import pytest
import torch
from torch import Tensor

from gan3d.apps.report import key_figures
from gan3d.apps.run_files import read_run
from gan3d.camera import Camera
from gan3d.data.heads import head_camera, render_heads, sample_heads
from gan3d.metrics import bulge
from gan3d.training.callbacks.alarms import AlarmLevels, alarms
from gan3d.training.loggers import DiskLogger

NUM = 6


@pytest.fixture(scope="module")
def heads() -> tuple[Tensor, Tensor, Camera]:
    """True depth of heads seen from the front, where they are, and the cameras."""
    camera = head_camera(torch.zeros(NUM), torch.zeros(NUM))
    views = render_heads(sample_heads(0, range(NUM)), camera, 48, supersample=1)
    return views.depth, views.mask, camera


def hollowed(depth: Tensor) -> Tensor:
    """The heads as masks seen from behind: what was near is far."""
    seen = depth.isfinite()
    middle = torch.where(seen, depth, 0).sum(dim=(1, 2, 3), keepdim=True) / seen.sum(
        dim=(1, 2, 3), keepdim=True
    )
    return torch.where(seen, 2 * middle - depth, depth)


def scaled(camera: Camera, factor: float) -> Camera:
    """Cameras of a world that is larger by a factor."""
    cam2world = camera.cam2world.clone()
    cam2world[:, :3, 3] *= factor
    return Camera(cam2world, camera.intrinsics)


@pytest.mark.parametrize("size", [1.0, 1 / 2.7])
def test_real_heads_bulge_and_their_masks_are_hollow(heads, size):
    depth, mask, camera = heads
    camera = scaled(camera, size)
    radius = camera.origins.norm(dim=-1).double()
    real = bulge(size * depth, mask, camera) / radius
    mask_of = bulge(size * hollowed(depth), mask, camera) / radius
    print(f"real heads {real.tolist()}, hollow ones {mask_of.tolist()}")
    assert real.min() > AlarmLevels().bulge
    torch.testing.assert_close(mask_of, -real, rtol=0.05, atol=0)
    values = {"alarm/flatness": 0.02, "alarm/bulge": float(mask_of.mean())}
    assert "The heads are hollow" in alarms(values, AlarmLevels())["alarm/bulge"]
    assert alarms(values | {"alarm/bulge": float(real.mean())}, AlarmLevels()) == {}


@pytest.mark.parametrize(("value", "says"), [(-0.02, "hollow"), (0.02, "not hollow")])
def test_the_report_says_whether_the_heads_are_hollow(tmp_path, value, says):
    DiskLogger(tmp_path).log_metrics({"alarm/bulge": value, "alarm/flatness": 0.02}, step=1000)
    words = {what: figure for figure, what in key_figures(read_run(tmp_path))}
    assert words[f"{says}: center before the rim, camera radii"] == f"{value:.3g}"


@pytest.mark.parametrize(
    ("convex", "turn", "says"),
    [(0.1, 0.8, "hollow or flat: share of convex faces"), (0.9, 0.1, "do not turn: turn of the")],
)
def test_the_report_trusts_the_truth_more_than_the_rim(tmp_path, convex, turn, says):
    values = {"alarm/bulge": 0.02, "alarm/flatness": 0.02}
    values |= {"heads/face_convex": convex, "heads/turn": turn}
    DiskLogger(tmp_path).log_metrics(values, step=1000)
    words = [what for _, what in key_figures(read_run(tmp_path))]
    assert any(what.startswith(says) for what in words)
    assert not any("not hollow" in what for what in words)
    assert sum(what.startswith(("hollow", "do not turn")) for what in words) == 1
