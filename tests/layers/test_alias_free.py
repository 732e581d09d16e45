"""Alias-free layers: closed-form waves, sizes, magnitudes, modulated convolution by definition."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gan3d.layers.alias_free import (
    AliasFreeLayer,
    AliasFreeSynthesis,
    FourierInput,
    mean_square,
    modulated_conv,
)
from gan3d.layers.alias_free_filters import AliasFreeLayers, Signal

SMALL = AliasFreeLayers(channel_base=96, channel_max=8, num_layers=5)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(x: float, y: float) -> torch.Tensor:
    """Inverse transform of a motion by (x, y) image widths."""
    matrix = torch.eye(3)
    matrix[:2, 2] = torch.tensor([-x, -y])
    return matrix


@pytest.fixture
def waves() -> FourierInput:
    torch.manual_seed(0)
    signal = Signal(sampling_rate=16, cutoff=2.0, half_width=6.0, size=36, channels=5)
    return FourierInput(4, signal).requires_grad_(False)


@pytest.fixture
def synthesis() -> AliasFreeSynthesis:
    torch.manual_seed(0)
    return AliasFreeSynthesis(6, 16, 3, SMALL)


# -- Input -----------------------------------------------------------------------------------------


def test_a_wave_is_sampled_at_pixel_centers(waves):
    waves.weight.copy_(torch.eye(5) * math.sqrt(5))
    waves.freqs[0] = torch.tensor([1.0, 0.5])
    waves.phases[0] = 0.125
    x = waves(noise(1, 4))[0, 0]
    for row, column in ((0, 0), (20, 7), (35, 35)):
        u, v = (column + 0.5 - 18) / 16, (row + 0.5 - 18) / 16
        expected = math.sin(2 * math.pi * (u + 0.5 * v + 0.125))
        assert x[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_channels_are_mixed_at_unit_gain(waves):
    plain = waves(noise(1, 4))
    waves.weight.copy_(waves.weight.flip(0))
    torch.testing.assert_close(waves(noise(1, 4)), plain.flip(1))
    waves.weight.fill_(1 / math.sqrt(5))
    mixed = waves(noise(1, 4))
    torch.testing.assert_close(mixed, mixed[:, :1].expand_as(mixed))


def test_initial_frequencies_fill_the_disc_evenly():
    torch.manual_seed(0)
    waves = FourierInput(4, Signal(16, 2.0, 6.0, 36, 4000))
    radius = waves.freqs.norm(dim=1)
    assert radius.max() <= 2
    quarters = [((radius / 2) ** 2 < share).float().mean().item() for share in (0.25, 0.5, 0.75)]
    assert quarters == pytest.approx([0.25, 0.5, 0.75], abs=0.03)
    assert waves.phases.min() >= -0.5
    assert waves.phases.max() < 0.5


def test_a_transform_by_whole_pixels_moves_the_signal(waves):
    still, shifted = waves(noise(2, 4)), waves(noise(2, 4), moved(3 / 16, -2 / 16))
    torch.testing.assert_close(shifted[:, :, :-2, 3:], still[:, :, 2:, :-3], atol=1e-5, rtol=1e-5)


def test_every_image_may_have_its_own_transform_and_the_buffer_is_the_default(waves):
    both = waves(noise(2, 4), torch.stack([torch.eye(3), moved(0.1, 0)]))
    torch.testing.assert_close(both[:1], waves(noise(2, 4)[:1]))
    waves.transform.copy_(moved(0.1, 0))
    torch.testing.assert_close(both[1:], waves(noise(2, 4)[1:]))
    with pytest.raises(ValueError, match=r"transform has shape \(2, 3\)"):
        waves(noise(2, 4), torch.zeros(2, 3))


def test_w_rotates_and_translates_in_its_own_frame(waves):
    # A quarter turn, then one pixel; t is divided by |t_1 t_2| = 2.
    waves.affine.bias.copy_(torch.tensor([0.0, 2.0, 2 / 16, 0.0]))
    plain = FourierInput.forward(waves, noise(1, 4))
    waves.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    # [[R, R (-t)]]
    quarter = torch.tensor([[0.0, -1.0, -0.0], [1.0, 0.0, -1 / 16], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(plain, waves(noise(1, 4), quarter), atol=1e-5, rtol=1e-5)


def test_frequencies_that_a_transform_moves_above_nyquist_fade(waves):
    still = waves(noise(1, 4))
    assert waves(noise(1, 4), torch.diag(torch.tensor([200.0, 200.0, 1.0]))).abs().max() == 0
    turned = waves(noise(1, 4), torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    assert turned.square().mean() > 0.3 * still.square().mean()


# -- Convolution -----------------------------------------------------------------------------------


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_the_modulated_convolution_is_its_definition_for_one_image_and_for_many(k, demodulate):
    x, weight, styles = noise(3, 4, 6, 6), noise(5, 4, k, k, seed=1), noise(3, 4, seed=2)
    gain = torch.tensor(0.7)
    expected = []
    for n in range(3):
        w, s = weight, styles[n]
        if demodulate:
            w = w / w.square().mean([1, 2, 3], keepdim=True).sqrt()
            s = s / s.square().mean().sqrt()
        w = w * s[:, None, None]
        if demodulate:
            w = w / (w.square().sum([1, 2, 3], keepdim=True) + 1e-8).sqrt()
        expected.append(F.conv2d(x[n], w * gain, padding=k - 1))
    together = modulated_conv(x, weight, styles, gain, demodulate=demodulate)
    torch.testing.assert_close(together, torch.stack(expected), atol=1e-5, rtol=1e-5)
    alone = modulated_conv(x[1:2], weight, styles[1:2], gain, demodulate=demodulate)
    torch.testing.assert_close(alone[0], expected[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("k", [1, 3])
def test_normalizing_styles_per_image_or_over_the_batch_differs_by_the_1e_8_only(k, ratio):
    """Appendix F takes the mean of s^2 over the batch; ours keeps images independent."""
    x, weight = noise(3, 16, 6, 6).double(), noise(5, 16, k, k, seed=1).double()
    styles = noise(3, 16, seed=2).double() * torch.tensor([1.0, ratio, 1.0])[:, None]
    w = weight / weight.square().mean([1, 2, 3], keepdim=True).sqrt()
    normalized = styles / styles.square().mean().sqrt()  # one mean over all n and i
    w = w[None] * normalized[:, None, :, None, None]
    w = w / (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).sqrt()
    published = torch.stack([F.conv2d(x[n], w[n], padding=k - 1) for n in range(3)])
    ours = modulated_conv(x, weight, styles, torch.tensor(1.0), demodulate=True)
    # The effect of demodulation's 1e-8: 2e-6 for styles that differ by a factor of 100.
    bound = 2e-10 / ratio**2 * published.abs().max().item()
    torch.testing.assert_close(ours, published, atol=bound, rtol=0)


def test_demodulation_keeps_unit_variance_but_not_the_gain():
    x, weight, styles = noise(1, 64, 40, 40), noise(32, 64, 3, 3) * 9, noise(1, 64) * 5
    y = modulated_conv(x, weight, styles, torch.tensor(0.5), demodulate=True)
    assert y[:, :, 2:-2, 2:-2].std().item() == pytest.approx(0.5, rel=0.03)


# -- Layers and network ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv_kernel": 1, "use_radial_filters": True},
        {"use_radial_filters": True, "filter_size": 4},
        {"lrelu_upsampling": 4},
        {"lrelu_upsampling": 1},
        {"margin_size": 3, "num_critical": 0},
        {"num_layers": 9, "num_critical": 1, "first_stopband": 6.0},
    ],
)
def test_every_layer_returns_the_size_of_its_schedule(changes):
    schedule = replace(SMALL, **changes)
    with torch.no_grad():
        synthesis = AliasFreeSynthesis(6, 32, 3, schedule)
        ws = noise(2, synthesis.num_ws, 6)
        x = synthesis.input(ws[:, 0])
        for layer in synthesis.layers:
            x = layer(x, ws[:, 1])
            outside = layer.spec.outside
            assert x.shape[1:] == (outside.channels, outside.size, outside.size)
    assert x.shape == (2, 3, 32, 32)


def test_a_layer_of_slope_one_passes_a_signal_at_unit_gain():
    spec = SMALL.layers(16, 3)[1]
    layer = AliasFreeLayer(spec, w_dim=6).requires_grad_(False)
    layer.weight.zero_()
    layer.weight[:, 0, 1, 1] = 1.0  # every channel of the result is channel 0
    layer.affine.weight.zero_()
    x = torch.ones(1, spec.inside.channels, spec.inside.size, spec.inside.size)
    y = layer(x, noise(1, 6))[0, :, 6:-6, 6:-6]
    # Demodulation makes the one weight 1; sqrt(2) is the gain of the activation.
    torch.testing.assert_close(y, torch.full_like(y, math.sqrt(2)), atol=2e-3, rtol=0)
    layer.magnitude_ema.fill_(4.0)
    torch.testing.assert_close(layer(x, noise(1, 6))[0, :, 6:-6, 6:-6], y / 2)


def test_output_scale_multiplies_planes_of_many_channels():
    torch.manual_seed(0)
    planes = AliasFreeSynthesis(6, 16, 96, SMALL, output_scale=1.0)
    ws = noise(2, planes.num_ws, 6)
    image = planes(ws)
    assert image.shape == (2, 96, 16, 16)
    planes.output_scale = 0.25
    torch.testing.assert_close(planes(ws), image / 4)


def test_magnitudes_are_mean_squares_of_the_layer_inputs(synthesis):
    ws = noise(2, synthesis.num_ws, 6)
    squares = []
    for layer in synthesis.layers:
        layer.register_forward_pre_hook(
            lambda _, inputs: squares.append(inputs[0].square().mean([1, 2, 3]))
        )
    picture = synthesis.picture(ws)
    torch.testing.assert_close(picture.magnitudes, torch.stack(squares, 1))
    torch.testing.assert_close(picture.image, synthesis(ws))
    assert not picture.magnitudes.requires_grad


def test_tracking_moves_every_running_magnitude_to_the_batch_mean(synthesis):
    magnitudes = torch.arange(12.0).reshape(2, 6)
    synthesis.track(magnitudes, beta=0.75)
    for i, layer in enumerate(synthesis.layers):
        assert layer.magnitude_ema.item() == pytest.approx(0.75 + 0.25 * (i + 3))
    with pytest.raises(ValueError, match=r"expected \[b 6\]"):
        synthesis.track(magnitudes[:, :5], beta=0.5)


@torch.no_grad()
def test_a_settled_network_gives_every_layer_unit_magnitude_and_uses_it_in_that_pass(synthesis):
    ws = noise(3, synthesis.num_ws, 6)
    before = synthesis(ws)
    image = synthesis.settle(ws, beta=0.0)
    assert (image - before).abs().max() > 1e-3
    torch.testing.assert_close(synthesis(ws), image)
    gains = torch.stack([layer.magnitude_ema for layer in synthesis.layers])
    torch.testing.assert_close(synthesis.picture(ws).magnitudes.mean(0), gains)


def test_mean_square_is_exact_in_low_precision():
    x = noise(2, 300, 40, 40).bfloat16()
    expected = x.float().square().mean([1, 2, 3])
    torch.testing.assert_close(mean_square(x), expected, rtol=1e-5, atol=0)


def test_only_the_finest_resolutions_run_in_low_precision():
    synthesis = AliasFreeSynthesis(6, 64, 3, replace(SMALL, num_fp16_res=1))
    seen = []
    for layer in synthesis.layers:
        layer.register_forward_hook(
            lambda layer, _, y: seen.append((layer.spec.outside.sampling_rate, y.dtype))
        )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image = synthesis(noise(1, synthesis.num_ws, 6))
    assert image.dtype == torch.float32
    rates = {rate for rate, _ in seen}
    assert {rate for rate, dtype in seen if dtype == torch.bfloat16} == {64}
    assert {rate for rate, dtype in seen if dtype == torch.float32} == {16, 32} & rates


def test_wrong_sizes_are_refused(synthesis):
    with pytest.raises(ValueError, match=r"expected \[b 7 6\]"):
        synthesis(noise(2, 6, 6))
    with pytest.raises(ValueError, match=r"layer L0_36_8 got \(1, 8, 5, 5\)"):
        synthesis.layers[0](noise(1, 8, 5, 5), noise(1, 6))
    with pytest.raises(ValueError, match="200 is not a power of two"):
        AliasFreeSynthesis(6, 200, 3, SMALL)
