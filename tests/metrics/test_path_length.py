"""Path length: arcs and percentiles by hand, generators whose path length is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gan3d.generators import StyleGAN2
from gan3d.metrics.frechet import SmallFeatures
from gan3d.metrics.measure import Protocol, path_steps
from gan3d.metrics.path_length import (
    box_downsampled,
    path_points,
    slerp,
    squared_steps,
    trimmed_mean,
)
from gan3d.randomness import Randomness


@pytest.fixture
def generator() -> StyleGAN2:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return StyleGAN2(**StyleGAN2.tiny).eval()


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_slerp_follows_the_great_circle_at_constant_speed():
    a, b = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 0.0]])
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = torch.tensor([[math.cos(t * math.pi / 2), math.sin(t * math.pi / 2), 0.0]])
        assert torch.allclose(slerp(a, b, torch.tensor([[t]])), expected, atol=1e-6)


def test_slerp_between_parallel_points_stays_there():
    a = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(slerp(a, 2 * a, torch.tensor([[0.5]])), a / 5)


def test_slerp_keeps_length_and_plane():
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 7, dtype=torch.float64, generator=stream).unbind()
    t = torch.rand(20, 1, dtype=torch.float64, generator=stream)
    point = slerp(a, b, t)
    assert torch.allclose(point.norm(dim=-1), torch.ones(20, dtype=torch.float64))
    basis = torch.stack([a, b], -1)
    rest = point[..., None] - basis @ torch.linalg.lstsq(basis, point[..., None]).solution
    assert rest.abs().max() < 1e-10


def test_paths_in_w_are_straight_and_paths_in_z_lie_on_the_sphere():
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, 5, generator=stream).unbind()
    t = torch.rand(4, generator=stream)
    start, end = path_points(a, b, t, "w", 0.25)
    position = t[:, None, None]
    assert torch.allclose(start, (1 - position) * a + position * b, atol=1e-6)
    assert torch.allclose(end - start, 0.25 * (b - a), atol=1e-6)
    start, end = path_points(a[:, 0], b[:, 0], t, "z", 0.25)
    assert torch.allclose(start.norm(dim=1), torch.ones(4), atol=1e-6)
    assert torch.equal(end, slerp(a[:, 0], b[:, 0], t[:, None] + 0.25))
    with pytest.raises(ValueError, match="'y' is not known; use one of w, z"):
        path_points(a, b, t, "y")


@pytest.mark.parametrize("num", [1, 2, 63, 100, 101, 1000])
def test_trimmed_mean_agrees_with_the_lower_and_higher_percentiles_of_numpy(num):
    values = torch.randn(num, generator=torch.Generator().manual_seed(num)).exp()
    array = values.double().numpy()
    low = np.percentile(array, 1, method="lower")
    high = np.percentile(array, 99, method="higher")
    expected = array[(array >= low) & (array <= high)].mean()
    assert trimmed_mean(values).item() == pytest.approx(expected, rel=1e-12)


def test_trimmed_mean_drops_two_outliers_of_two_hundred():
    values = torch.ones(200)
    values[0], values[-1] = -1e6, 1e6
    assert trimmed_mean(values).item() == 1


def test_box_downsampling_averages_blocks_down_to_256_and_leaves_smaller_images():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert box_downsampled(x, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert box_downsampled(x) is x or torch.equal(box_downsampled(x), x)
    assert box_downsampled(torch.zeros(1, 3, 512, 512)).shape == (1, 3, 256, 256)
    with pytest.raises(ValueError, match="cannot be averaged by 2"):
        box_downsampled(torch.zeros(1, 3, 5, 5), 2)


def test_path_length_of_a_linear_generator_is_the_squared_length_of_its_picture_of_the_path():
    stream = torch.Generator().manual_seed(0)
    matrix = torch.randn(3 * 8 * 8, 5, generator=stream)
    path = torch.randn(6, 1, 5, generator=stream)

    def picture(ws: Tensor) -> Tensor:
        return (ws[:, 0] @ matrix.mT).reshape(-1, 3, 8, 8)

    start, end = path_points(torch.zeros_like(path), path, torch.zeros(6))
    lengths = squared_steps(picture, pixels, start, end)
    expected = (path[:, 0] @ matrix.mT).double().square().sum(1)
    assert lengths.dtype == torch.float64
    assert torch.allclose(lengths, expected, rtol=1e-5)
    halved = squared_steps(picture, lambda images: images.flatten(1) / 2, start, end)
    assert torch.allclose(halved, expected / 4, rtol=1e-5)


@pytest.mark.parametrize("sampling", ["end", "full"])
def test_a_step_lies_on_the_path_between_two_latents_where_it_was_drawn(
    generator, monkeypatch, sampling
):
    seen, represent = [], generator.represent
    monkeypatch.setattr(
        generator, "represent", lambda ws, **options: seen.append(ws) or represent(ws, **options)
    )
    list(path_steps(generator, pixels, Protocol(3, 3), sampling=sampling, epsilon=0.25))
    draw = Randomness(0, range(3), "measure")
    w0, w1 = (generator.map(draw.normal(name, generator.z_dim)) for name in ("z", "z.other"))
    t = (draw.uniform("path") if sampling == "full" else torch.zeros(3))[:, None, None]
    for ws, position in zip(seen, (t, t + 0.25), strict=True):
        torch.testing.assert_close(ws, torch.lerp(w0, w1, position))


def test_path_length_of_a_generator_that_ignores_z_is_zero(generator):
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "affine.weight" in name:
                parameter.zero_()
    steps = torch.cat(list(path_steps(generator, SmallFeatures(), Protocol(num=3, batch_size=2))))
    assert steps.shape == (3,)
    assert steps.max() == 0


@pytest.mark.parametrize("space", ["w", "z"])
@pytest.mark.parametrize("sampling", ["end", "full"])
def test_steps_depend_on_neither_batch_size_nor_epsilon(generator, space, sampling):
    def steps(size: int, epsilon: float) -> Tensor:
        protocol = Protocol(num=5, batch_size=size)
        lengths = path_steps(
            generator, pixels, protocol, space=space, sampling=sampling, epsilon=epsilon
        )
        return torch.cat(list(lengths))

    one, other = steps(1, 1e-2), steps(3, 1e-2)
    assert torch.allclose(one, other, rtol=0.02)
    assert torch.allclose(one, steps(5, 5e-3), rtol=0.2)  # it is a derivative
    assert one.min() > 0


def test_noise_is_the_same_at_both_ends_of_a_step(generator):
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1.0)

    def path_length(noise: bool) -> Tensor:
        protocol = Protocol(8, 4, noise=noise)
        steps = path_steps(generator, SmallFeatures(), protocol, epsilon=1e-2)
        return trimmed_mean(torch.cat(list(steps)))

    quiet, noisy = path_length(noise=False), path_length(noise=True)
    assert quiet != noisy
    assert noisy < 10 * quiet  # different noise at both ends would give 1 / eps^2 = 10,000
