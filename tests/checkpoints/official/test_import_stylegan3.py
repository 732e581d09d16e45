"""Official StyleGAN3 files: written from our models, imported again, and equal."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gan3d.checkpoints.official import stylegan3
from gan3d.checkpoints.official.networks import Network
from gan3d.checkpoints.portable import load_discriminator, load_generator
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN3

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
SIZES = {"channel_base": 128, "channel_max": 12, "num_layers": 5}
R = {
    "channel_base": 256,
    "channel_max": 24,
    "num_layers": 5,
    "conv_kernel": 1,
    "use_radial_filters": True,
}
SCHEDULE = {
    "num_critical": 1,
    "first_cutoff": 1.5,
    "first_stopband": 4.0,
    "last_stopband_rel": 1.3,
    "margin_size": 8,
    "filter_size": 4,
    "output_scale": 0.5,
    "conv_clamp": None,
    "magnitude_ema_beta": 0.9,
}
# Official constructor arguments, and ours.
CASES = {
    "T": (SIZES, {}),
    "R": (R, {"config": "R"}),
    "conditional": ({**SIZES, "c_dim": 25}, {"c_dim": 25}),
    "schedule": ({**SIZES, **SCHEDULE}, SCHEDULE),
}


def shaken(**changes):
    torch.manual_seed(1)
    module = StyleGAN3(**{**StyleGAN3.tiny, **changes})
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not name.endswith(("_filter", "transform", "freqs")):
                tensor += 0.1 * torch.rand_like(tensor)
    return module.eval()


def image(generator, truncation=1.0):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return generator(z, truncation=truncation).image


@pytest.mark.parametrize("name", CASES)
def test_a_snapshot_becomes_an_equal_generator_and_discriminator(tmp_path, name):
    options, arguments = CASES[name]
    generator = shaken(**arguments)
    judge = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny)
    stated = {**options, "mapping_kwargs": {"num_layers": 2}}
    record = hostile.persistent(generator, {"": {"_init_kwargs": stated}})
    file = tmp_path / "stylegan3.pkl"
    file.write_bytes(hostile.snapshot({"G_ema": record, "D": hostile.persistent(judge)}))
    stylegan3.import_stylegan3(file)
    loaded = load_generator(file.with_suffix(".safetensors"))
    assert torch.equal(image(loaded), image(generator))
    assert torch.equal(image(loaded, 0.5), image(generator, 0.5))
    assert {key: loaded.arguments[key] for key in arguments} == arguments
    other = load_discriminator(file.with_suffix(".safetensors"))
    pairs = zip(other.state_dict().values(), judge.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    stylegan3.export_stylegan3(file.with_suffix(".safetensors"))
    state = torch.load(file.with_suffix(".pt"), weights_only=True)
    assert list(state) == list(generator.state_dict())
    assert all(torch.equal(state[key], tensor) for key, tensor in generator.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["T", "R", "conditional"])
def test_sizes_follow_from_a_state_dict(tmp_path, suffix, name):
    generator = shaken(**CASES[name][1])
    file = tmp_path / f"g{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save({key: t.contiguous() for key, t in generator.state_dict().items()}, file)
    stylegan3.import_stylegan3(file, tmp_path / "ours.safetensors")
    loaded = load_generator(tmp_path / "ours.safetensors")
    assert torch.equal(image(loaded), image(generator))
    assert loaded.arguments["config"] == CASES[name][1].get("config", "T")


@pytest.mark.parametrize("config", ["T", "R"])
@pytest.mark.parametrize("resolution", [128, 256, 512, 1024])
@pytest.mark.parametrize("base", [16384, 32768])
def test_channels_of_the_published_sizes_follow_from_the_names_of_the_layers(
    config, resolution, base
):
    with torch.device("meta"):
        generator = StyleGAN3(config=config, img_resolution=resolution, channel_base=base)
    arguments = stylegan3.generator_arguments(Network(generator.state_dict()))
    assert (arguments["config"], arguments["img_resolution"]) == (config, resolution)
    with torch.device("meta"):
        again = StyleGAN3(**arguments)
    assert again.synthesis.layer_names == generator.synthesis.layer_names
    assert arguments["channel_base"] == base


def test_buffers_are_read_from_the_file():
    generator = shaken()
    state = generator.state_dict()
    made = stylegan3.generator_from_official(Network(state))
    for name in ("synthesis.input.freqs", "synthesis.input.phases", "mapping.w_avg"):
        assert torch.equal(made.state_dict()[name], state[name])


@pytest.mark.parametrize("kind", ["up_filter", "down_filter"])
def test_filters_that_the_schedule_does_not_design_are_refused(kind):
    state = {name: t.clone() for name, t in shaken().state_dict().items()}
    name = next(name for name in state if name.endswith(kind))
    state[name][0] += 5e-7
    stylegan3.generator_from_official(Network(state))
    state[name][0] += 1e-5
    message = rf"{name} differs by 1.1e-05 .*expected at most 1e-06.*import the snapshot"
    with pytest.raises(ValueError, match=message):
        stylegan3.generator_from_official(Network(state))
    state[name] = state[name].new_full(state[name].shape, float("nan"))
    with pytest.raises(ValueError, match="differs by nan"):
        stylegan3.generator_from_official(Network(state))


def test_a_schedule_that_the_file_does_not_state_is_refused():
    generator = shaken(**CASES["schedule"][1])
    with pytest.raises(ValueError, match=r"not those of StyleGAN3|follow|differs"):
        stylegan3.generator_from_official(Network(generator.state_dict()))


def test_files_that_are_not_stylegan3_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no layers synthesis.L0"):
        stylegan3.generator_from_official(Network({"mapping.fc0.weight": torch.ones(2, 2)}))
    state = shaken().state_dict()
    other = Network({**state, "synthesis.input.weight": torch.ones(3, 3)})
    message = r"synthesis.input.weight has shape \(3, 3\), expected \(12, 12\)"
    with pytest.raises(ValueError, match=message):
        stylegan3.generator_from_official(other)
    for value in (None, "x", 10**400, [1]):
        stated = Network(state, {"channel_base": 128, "first_cutoff": value})
        with pytest.raises(ValueError, match="first_cutoff of the file"):
            stylegan3.generator_from_official(stated)
    data = hostile.snapshot({"G_ema": hostile.persistent(shaken())})
    file = tmp_path / "s.pkl"
    for end in range(0, len(data) - 1, 4001):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"broken|refused"):
            stylegan3.import_stylegan3(file)
