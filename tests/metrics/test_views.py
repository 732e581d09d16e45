"""The walk over a generator: which cameras render, and which ones the latents are for."""

import pytest
import torch

from gan3d.generators import Rendering
from gan3d.metrics.views import ViewMetric, measure_views, view_cameras


class Yaws:
    """Stands in for a generator: pictures of (yaw of the conditioning, yaw of the camera, z)."""

    has_camera = True

    def map(self, z, camera, *, truncation=1.0):
        return torch.stack([camera.yaw_pitch()[0], truncation * z[:, 0]], 1)

    def represent(self, ws):
        return ws

    def render(self, scene, camera, *, resolution=None, raw=True):
        assert not raw
        values = torch.stack([scene[:, 0], camera.yaw_pitch()[0], scene[:, 1]], 1)
        side = resolution or 2
        return Rendering(values[:, :, None, None].expand(-1, 3, side, side))


class Colors(ViewMetric):
    """The mean of each channel, and z of the first heads only."""

    names = ("conditioning", "rendering", "z", "some")

    def values(self, views):
        conditioning, rendering, z = views.image.mean((3, 4)).abs().mean(1).unbind(1)
        return {
            "conditioning": conditioning,
            "rendering": rendering,
            "z": z,
            "some": torch.where(z < 2, z, torch.nan),
        }


LATENTS = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])]


def test_one_scene_of_the_frontal_camera_or_a_scene_for_every_camera():
    found = measure_views(Yaws(), LATENTS, [Colors(view_cameras([-0.4, 0.4]))])
    assert found["conditioning"] == pytest.approx(0, abs=1e-6)
    assert found["rendering"] == pytest.approx(0.4)
    assert found["z"] == pytest.approx(2)
    same = measure_views(Yaws(), LATENTS, [Colors(view_cameras([-0.4, 0.4]))], latents_for="same")
    assert same["conditioning"] == pytest.approx(0.4)
    assert same["rendering"] == pytest.approx(0.4)


@pytest.mark.parametrize("latents_for", ["frontal", "same"])
def test_a_metric_that_moves_the_conditioning_keeps_its_cameras(latents_for):
    metric = Colors(view_cameras([0.0, 0.0]), view_cameras([-0.3, 0.3]))
    found = measure_views(Yaws(), LATENTS, [metric], latents_for=latents_for)
    assert found["conditioning"] == pytest.approx(0.3)
    assert found["rendering"] == pytest.approx(0, abs=1e-6)


def test_every_head_keeps_its_values_and_nan_does_not_count():
    metric = Colors(view_cameras([0.1]))
    found = measure_views(Yaws(), LATENTS, [metric], truncation=0.5, resolution=4)
    assert metric.per_head()["z"].tolist() == [0.5, 1.0, 1.5]
    assert found["some"] == pytest.approx(1.0)
    assert metric.per_head()["z"].dtype == torch.float64
    metric.reset()
    with pytest.raises(ValueError, match="no heads yet"):
        metric.per_head()


def test_what_does_not_fit_is_refused():
    class Deep(Colors):
        needs_depth = True

    camera = view_cameras([0.1])
    with pytest.raises(ValueError, match="Deep compares depths and got none"):
        measure_views(Yaws(), LATENTS, [Deep(camera)])
    with pytest.raises(ValueError, match="give each metric once"):
        measure_views(Yaws(), LATENTS, [Colors(camera), Colors(camera)])
    with pytest.raises(ValueError, match="give one of each per view"):
        Colors(camera, view_cameras([0.0, 0.1]))
    with pytest.raises(ValueError, match=r"expected \[b 1 3 H W\]"):
        Colors(camera).update(Rendering(torch.zeros(2, 2, 3, 4, 4)))
    flat = Yaws()
    flat.has_camera = False
    with pytest.raises(ValueError, match="Yaws has no camera to move"):
        measure_views(flat, LATENTS, [Colors(camera)])
