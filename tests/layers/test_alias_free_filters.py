"""Filter design against scipy, and the published schedules of layers."""

import numpy as np
import pytest
import scipy.signal
import torch

from gan3d.layers.alias_free_filters import AliasFreeLayers, kaiser_beta, lowpass

DESIGNS = [
    (12, 2.0, 12.0, 32),
    (24, 4.0, 8.0, 64),
    (16, 5.0, 0.5, 32),
    (7, 3.0, 4.0, 16),
    (12, 128.0, 59.17, 512),
]


@pytest.mark.parametrize(("taps", "cutoff", "width", "rate"), DESIGNS)
def test_separable_filters_are_those_of_scipy(taps, cutoff, width, rate):
    expected = scipy.signal.firwin(taps, cutoff=cutoff, width=width, fs=rate)
    np.testing.assert_allclose(lowpass(taps, cutoff, width, rate), expected, atol=1e-7)


@pytest.mark.parametrize("width", [0.001, 0.1, 0.2, 0.3, 1.0])
def test_the_window_is_kaisers(width):
    expected = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(12, width))
    assert kaiser_beta(12, width) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("taps", "cutoff", "width", "rate"), DESIGNS)
def test_radial_filters_are_invariant_to_quarter_turns_and_sum_to_one(taps, cutoff, width, rate):
    f = lowpass(taps, cutoff, width, rate, radial=True)
    assert f.shape == (taps, taps)
    torch.testing.assert_close(f, f.rot90())
    torch.testing.assert_close(f, f.T)
    assert f.sum().item() == pytest.approx(1, abs=1e-6)
    assert f.isfinite().all()


def test_the_center_of_an_odd_radial_filter_is_its_maximum_and_the_limit_of_its_neighbors():
    f = lowpass(7, 1.0, 8.0, 16, radial=True)
    finer = lowpass(701, 1.0, 0.08, 1600, radial=True)
    assert f[3, 3] == f.max()
    torch.testing.assert_close(finer[350, 350], finer[350, 351], rtol=1e-3, atol=0)


def test_one_tap_is_no_filter():
    assert lowpass(1, 2.0, 4.0, 16) is None


def test_the_first_filter_stops_62_decibels():
    response = np.abs(np.fft.rfft(lowpass(12, 2.0, 12.0, 32).numpy(), 4096))
    stopband = response[np.fft.rfftfreq(4096, 1 / 32) >= 8]
    assert 20 * np.log10(stopband.max()) == pytest.approx(-62.4, abs=0.2)


# -- AliasFreeLayers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "resolution", "names"),
    [
        (
            AliasFreeLayers(),
            512,
            "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_84_512 L6_148_512 L7_148_483 "
            "L8_276_323 L9_276_215 L10_532_144 L11_532_96 L12_532_64 L13_512_64 L14_512_3",
        ),
        (
            AliasFreeLayers(),
            1024,
            "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 "
            "L8_276_203 L9_532_128 L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3",
        ),
        (
            AliasFreeLayers().turning(),
            1024,
            "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_148_1024 L6_148_1024 "
            "L7_276_645 L8_276_406 L9_532_256 L10_1044_161 L11_1044_102 L12_1044_64 L13_1024_64 "
            "L14_1024_3",
        ),
    ],
)
def test_layers_have_their_published_names(schedule, resolution, names):
    assert [layer.name for layer in schedule.layers(resolution, 3)] == names.split()


def test_layers_of_configuration_t_at_256_pad_as_published():
    layers = AliasFreeLayers().layers(256, 3)
    ordinary, finer = (2, 12, 2, 12, (9, 8)), (4, 24, 2, 12, (-6, -9))
    expected = [ordinary] * 3 + [finer, ordinary] * 3 + [ordinary, finer, ordinary, ordinary]
    expected += [(2, 12, 2, 12, (-11, -12)), (1, 1, 1, 1, (0, 0))]
    assert [(i.up, i.up_taps, i.down, i.down_taps, i.padding) for i in layers] == expected
    assert [i.is_critical for i in layers] == [False] * 12 + [True] * 3
    assert layers[11].outside.cutoff == pytest.approx(90.5097, abs=1e-4)
    assert layers[12].outside.half_width == pytest.approx(29.5865, abs=1e-4)


def test_layers_of_configuration_r_at_256_pad_as_published():
    layers = AliasFreeLayers().turning().layers(256, 3)
    ordinary, finer = (11, 10), (-2, -5)
    expected = [ordinary] * 3 + [finer, ordinary] * 3 + [ordinary, finer, ordinary, ordinary]
    expected += [(-9, -10), (0, 0)]
    assert [i.padding for i in layers] == expected
    assert [i.down_radial for i in layers] == [True] * 12 + [False] * 3
    assert [i.outside.channels for i in layers] == [1024] * 9 + [724, 512, 362, 256, 256, 3]
    assert layers[0].down_filter().shape == (12, 12)
    assert layers[12].down_filter().shape == (12,)


def test_without_upsampled_activations_only_changes_of_the_rate_are_filtered():
    for layer in AliasFreeLayers(lrelu_upsampling=1).layers(64, 3):
        rate_grows = layer.outside.sampling_rate > layer.inside.sampling_rate
        assert (layer.up_filter() is None) == (not rate_grows)
        assert layer.down_filter() is None


def test_a_schedule_of_critical_layers_alone_is_refused():
    with pytest.raises(ValueError, match="num_critical is 4 and num_layers 4"):
        AliasFreeLayers(num_layers=4, num_critical=4)
