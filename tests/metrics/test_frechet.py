"""Frechet distance: formula against scipy, metric against splits of its data, known faults."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gan3d.metrics import FrechetDistance, SmallFeatures, feature_moments, frechet, frechet_distance


def gaussian(dim: int, seed: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, rank or dim + 5, generator=stream, dtype=torch.float64)
    return torch.randn(dim, generator=stream, dtype=torch.float64), root @ root.mT / dim


def pictures(num: int, seed: int, size: int = 32) -> Tensor:
    """Colored ellipses with two dark spots on colored backgrounds, [b 3 H W]."""
    stream = torch.Generator().manual_seed(seed)
    color, ground = torch.rand(2, num, 3, 1, 1, generator=stream) * 1.6 - 0.8
    lowest = torch.tensor([-0.15, -0.15, 0.4, 0.5])[:, None, None, None]
    cx, cy, rx, ry = torch.rand(4, num, 1, 1, generator=stream) * 0.3 + lowest
    v, u = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = torch.sigmoid(12 * (1 - ((u - cx) / rx) ** 2 - ((v - cy) / ry) ** 2))[:, None]
    image = ground + (color - ground) * inside
    for side in (-1, 1):
        square = (u - cx - side * rx * 0.4) ** 2 + (v - cy + ry * 0.2) ** 2
        eye = torch.exp(-square / 0.01)[:, None]
        image = image + (-0.9 - image) * eye
    return image


def distance(real: Tensor, fake: Tensor) -> float:
    metric = FrechetDistance(SmallFeatures())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


def blurred(images: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-9, 10) / sigma) ** 2)
    taps = taps / taps.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = F.conv2d(F.pad(flat, (9, 9, 0, 0), mode="replicate"), taps[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, 9, 9), mode="replicate"), taps[None, None, :, None])
    return flat.reshape(images.shape)


@pytest.mark.parametrize("dim", [1, 63, 100])
def test_frechet_distance_equals_the_matrix_root_formula_of_scipy(dim):
    (mean1, cov1), (mean2, cov2) = gaussian(dim, 0), gaussian(dim, 1)
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy())
    trace = np.trace(cov1.numpy() + cov2.numpy() - 2 * np.real(root))
    expected = (mean1 - mean2).square().sum().item() + trace
    assert frechet_distance(mean1, cov1, mean2, cov2).item() == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_isotropic_gaussians_is_mean_shift_plus_difference_of_deviations():
    eye = torch.eye(7, dtype=torch.float64)
    value = frechet_distance(torch.zeros(7), 4 * eye, torch.full((7,), 2.0), 9 * eye)
    assert value.item() == pytest.approx(7 * 4 + 7 * (3 - 2) ** 2, rel=1e-12)


def test_frechet_distance_of_a_gaussian_to_itself_is_zero_even_if_singular():
    for rank in (None, 3):
        mean, cov = gaussian(40, 2, rank)
        assert abs(frechet_distance(mean, cov, mean, cov).item()) < 1e-6 * cov.trace().item()


def test_frechet_distance_to_a_point_is_the_trace_of_the_covariance():
    mean, cov = gaussian(20, 3)
    value = frechet_distance(mean, cov, mean, torch.zeros(20, 20))
    assert value.item() == pytest.approx(cov.trace().item(), rel=1e-12)


def test_frechet_distance_is_symmetric():
    one, other = gaussian(30, 4), gaussian(30, 5, rank=10)
    there, back = frechet_distance(*one, *other), frechet_distance(*other, *one)
    assert there.item() == pytest.approx(back.item(), rel=1e-7)


def test_metric_equals_the_distance_of_the_sample_moments():
    real, fake = pictures(50, 0), pictures(63, 1) * 0.8
    x, y = (SmallFeatures()(images).double() for images in (real, fake))
    cov_x, cov_y = (torch.cov(features.mT, correction=0) for features in (x, y))
    expected = frechet_distance(x.mean(0), cov_x, y.mean(0), cov_y)
    assert distance(real, fake) == pytest.approx(expected.item(), rel=1e-6)


def test_metric_does_not_depend_on_how_images_are_split_over_batches_and_processes():
    real, fake = pictures(63, 0), pictures(63, 1)
    processes = [FrechetDistance(SmallFeatures()) for _ in range(2)]
    for number in range(7):
        batch = slice(10 * number, 10 * (number + 1))
        process = processes[number % 2]
        process.update(real[batch], real=True)
        process.update(fake[batch], real=False)
    merged = FrechetDistance(SmallFeatures())
    for name, reduction in merged._reductions.items():  # what torchmetrics does between processes
        states = torch.stack([getattr(process, name) for process in processes])
        setattr(merged, name, reduction(states))
    value = frechet_distance(*merged.moments(real=True), *merged.moments(real=False)).item()
    assert value == pytest.approx(distance(real, fake), rel=1e-6)


def test_metric_can_keep_the_reals_over_a_reset():
    metric = FrechetDistance(SmallFeatures(), reset_real=False)
    metric.update(pictures(20, 0), real=True)
    metric.update(pictures(20, 1), real=False)
    first = metric.compute().item()
    metric.reset()
    metric.update(pictures(20, 1), real=False)
    assert metric.compute().item() == first


def test_too_few_images_are_refused():
    metric = FrechetDistance(SmallFeatures())
    metric.update(pictures(1, 0), real=True)
    with pytest.raises(ValueError, match=r"1 real images.*at least 2"):
        metric.compute()


def test_metric_refuses_what_is_not_a_batch_of_images():
    with pytest.raises(ValueError, match=r"\[3, 32, 32\], expected \[b 3 H W\]"):
        FrechetDistance(SmallFeatures()).update(torch.zeros(3, 32, 32), real=True)


def test_small_features_do_not_depend_on_the_global_random_state():
    torch.manual_seed(1)
    one = SmallFeatures()
    before = torch.get_rng_state()
    other = SmallFeatures()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_small_features_keep_their_filters_forever():
    """Numbers logged by different versions must be comparable."""
    filters = list(SmallFeatures().filters)
    assert [tuple(weight.shape) for weight in filters] == [(8, 3, 3, 3), (8, 8, 3, 3)] * 3
    expected = [0.0171, -0.0556, 0.0591, 0.0138, 0.0784, 0.0668]
    assert [round(weight[0, 0, 0, 0].item(), 4) for weight in filters] == expected


def test_small_features_see_images_of_any_size():
    for size in (16, 32, 63, 100, 256):
        features = SmallFeatures()(pictures(2, 0, size))
        assert features.shape == (2, 168)
        assert features.isfinite().all()


@pytest.fixture(scope="module")
def halves() -> tuple[Tensor, Tensor]:
    images = pictures(600, 7)
    return images[:300], images[300:]


def test_distance_of_a_set_to_itself_is_zero(halves):
    assert abs(distance(halves[0], halves[0])) < 1e-8


def test_distance_grows_with_blur(halves):
    values = [distance(halves[0], blurred(halves[1], sigma)) for sigma in (0.3, 0.6, 1.0, 2.0, 4.0)]
    assert values == sorted(values)
    assert values[-1] > 5 * values[0]


def test_distance_grows_with_noise(halves):
    noise = torch.randn(halves[1].shape, generator=torch.Generator().manual_seed(0))
    sigmas = (0.0, 0.05, 0.1, 0.2, 0.4)
    values = [distance(halves[0], halves[1] + sigma * noise) for sigma in sigmas]
    assert values == sorted(values)
    assert values[-1] > 20 * values[0]


def test_known_faults_exceed_the_distance_of_two_halves_of_the_real_images(halves):
    real, other = halves
    floor = distance(real, other)
    faults = {
        "mean image": other.mean(0, keepdim=True).expand(300, -1, -1, -1),
        "twenty images repeated": other[:20].repeat(15, 1, 1, 1),
        "half contrast": other * 0.5,
        "halves swapped": other.roll(16, -1),
        "mixtures of two": (other + other.roll(1, 0)) / 2,
    }
    for fault, images in faults.items():
        assert distance(real, images) > 4 * floor, fault
    assert distance(real, faults["mean image"]) > 20 * floor


def test_distance_of_a_split_falls_with_the_number_of_images():
    few, many = pictures(100, 3), pictures(1000, 3)
    assert distance(many[::2], many[1::2]) < 0.3 * distance(few[::2], few[1::2])
    assert math.isfinite(distance(few[::2], few[1::2]))


def test_moments_of_features_are_divided_by_their_number():
    mean, cov = feature_moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]))
    assert mean.tolist() == [2, 2]
    assert torch.allclose(cov, torch.tensor([[8 / 3, 2.0], [2.0, 2.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\[1, 2\], expected \[n c\] of at least 2"):
        feature_moments(torch.zeros(1, 2))


def test_moments_do_not_depend_on_the_block_size(monkeypatch):
    x = torch.randn(63, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    whole = feature_moments(x)
    monkeypatch.setattr(frechet, "BLOCK", 10)
    for value, expected in zip(feature_moments(x), whole):
        assert torch.allclose(value, expected, rtol=1e-12)
    assert torch.allclose(whole[1], torch.cov(x.double().mT, correction=0), rtol=1e-9)


def test_distance_of_sampled_gaussians_is_near_that_of_their_distributions():
    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20_000, 4, generator=stream).unbind()
    value = frechet_distance(*feature_moments(x), *feature_moments(2.5 * y + 0.7))
    assert value.item() == pytest.approx(4 * 0.7**2 + 4 * (2.5 - 1) ** 2, rel=0.03)


class OfOneSize(nn.Module):
    """Features of images of 32 px, and of no others; a batch of none is an error, too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 32 * 32, 5)

    def forward(self, images: Tensor) -> Tensor:
        assert len(images)
        return self.linear(images.flatten(1))


@pytest.mark.parametrize("img_resolution", [None, 32])
def test_a_network_of_a_fixed_input_size_is_asked_for_images_of_that_size_only(img_resolution):
    metric = FrechetDistance(OfOneSize(), img_resolution=img_resolution)
    real, fake = pictures(20, 0), pictures(20, 1)
    metric.update(real[:0], real=True)  # half of a batch may be empty
    metric.update(real, real=True)
    metric.update(fake, real=False)
    x, y = (metric.features(images) for images in (real, fake))
    expected = frechet_distance(*feature_moments(x), *feature_moments(y))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-4)
    metric.reset()
    with pytest.raises(ValueError, match="0 real images"):
        metric.compute()


def test_a_process_without_images_agrees_on_the_shapes_if_their_size_is_given():
    metric = FrechetDistance(OfOneSize(), img_resolution=32)
    assert metric.fake_sum.shape == (5,)
    assert metric.fake_outer.shape == (5, 5)


def test_a_network_that_does_not_take_the_images_is_refused():
    with pytest.raises(
        ValueError, match=r"OfOneSize does not take images of 64 px .*one that resi"
    ):
        FrechetDistance(OfOneSize(), img_resolution=64)


def test_an_image_with_nan_is_named_as_the_cause():
    images = pictures(10, 0)
    images[3, 0, 2, 2] = math.nan
    with pytest.raises(ArithmeticError, match="features of the fake images are not finite"):
        distance(pictures(10, 1), images)
    with pytest.raises(ArithmeticError, match="an image has NaN"):
        feature_moments(SmallFeatures()(images))


class AppleGPU(TorchFunctionMode):
    """Stands in for one: moving float64 to the device (here: meta) raises, as torch does on MPS."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        target = map(str, (*args[1:], *(kwargs or {}).values()))
        if func is Tensor.to and args[0].dtype == torch.float64 and "meta" in target:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return func(*args, **(kwargs or {}))


def test_on_a_device_without_float64_the_sums_stay_on_the_cpu():
    metric = FrechetDistance(SmallFeatures())
    with AppleGPU():
        metric.to("meta")
    assert next(metric.features.parameters()).device.type == "meta"
    assert metric.real_sum.device.type == "cpu"
    metric.features = SmallFeatures()  # a stand-in computes nothing
    metric.update(pictures(4, 0), real=True)
    assert metric.real_outer.dtype == torch.float64
