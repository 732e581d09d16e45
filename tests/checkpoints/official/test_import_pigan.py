"""Official pi-GAN files: pickled modules and averages without names become equal models."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gan3d.camera import Camera
from gan3d.checkpoints.official import pigan
from gan3d.checkpoints.official.networks import Network
from gan3d.checkpoints.portable import load_discriminator, load_generator, read_facts
from gan3d.discriminators import PiGANDiscriminator
from gan3d.generators import PiGAN

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
KINDS = ("CCSEncoder", "CCS", "Strided", "ProgressiveEncoder", "Progressive")
CLASS = "generators.generators", "ImplicitGenerator3d"


def shaken(cls, seed=1, **changes):
    torch.manual_seed(seed)
    module = cls(**{**cls.tiny, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval()


def model(preset="celeba", seed=1, **changes):
    return shaken(PiGAN, seed, **pigan.PRESETS[preset], img_resolution=6, **changes)


def image(generator, truncation=1.0):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    pitch, yaw = torch.tensor([1.5, 1.7]), torch.tensor([1.4, 1.6])
    camera = Camera.from_sphere(pitch, yaw, 12.0, resolution=6)
    with torch.no_grad():
        return generator(z, camera, truncation=truncation).image


def official_file(path, generator):
    state = pigan.generator_to_official(generator)
    path.write_bytes(hostile.saved_module(state, *CLASS, step=20, epoch=1))
    return path


def shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


def imported(file, **options):
    out = file.with_name("ours.safetensors")
    pigan.import_pigan(file, out, img_resolution=6, overwrite=True, **options)
    return load_generator(file.with_name("ours.safetensors"))


@pytest.mark.parametrize("preset", pigan.PRESETS)
@pytest.mark.parametrize(
    "changes", [{}, {"grid_channels": 4, "grid_resolution": 5}, {"mapping_hidden_layers": 1}]
)
def test_a_pickled_generator_becomes_an_equal_one(tmp_path, preset, changes):
    generator = model(preset, **changes)
    loaded = imported(official_file(tmp_path / "generator.pth", generator), preset=preset)
    assert torch.equal(image(loaded), image(generator))
    generator.estimate_w_avg()
    assert torch.equal(image(loaded, 0.5), image(generator, 0.5))
    assert all(loaded.arguments[name] == value for name, value in generator.arguments.items())
    assert read_facts(tmp_path / "ours.safetensors")["fov"] == (30 if preset == "carla" else 12)


def test_an_average_gets_its_names_from_the_generator_beside_it(tmp_path):
    """By position, with the numbers of the average, not of the generator."""
    last, average = model(), model(seed=2)
    official_file(tmp_path / "generator.pth", last)
    tensors = list(pigan.generator_to_official(average).values())
    for name in ("ema.pth", "ema2.pth"):
        (tmp_path / name).write_bytes(hostile.saved_average(tensors))
        assert torch.equal(image(imported(tmp_path / name)), image(average))
    facts = read_facts(tmp_path / "ours.safetensors")
    assert facts["average"] == {"decay": 0.999, "num_updates": 7}
    assert facts["source"] == "ema2.pth"


def test_a_generator_elsewhere_must_be_given(tmp_path):
    average = model(seed=2)
    tensors = list(pigan.generator_to_official(average).values())
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average(tensors))
    message = r"there is no .*generator.pth to read them from; give --generator"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "ema.pth")
    other = official_file(tmp_path / "other.pth", model())
    assert torch.equal(image(imported(tmp_path / "ema.pth", generator=other)), image(average))
    save_file(pigan.generator_to_official(model()), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not keep the order of its tensors"):
        imported(tmp_path / "ema.pth", generator=tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is an average of torch_ema, without names"):
        imported(tmp_path / "ema.pth", generator=tmp_path / "ema.pth")


def test_an_average_of_another_generator_is_refused(tmp_path):
    official_file(tmp_path / "generator.pth", model())
    tensors = list(pigan.generator_to_official(model(hidden_dim=20)).values())
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average(tensors))
    message = r"tensor 0 of the average has shape \(20, 3\), expected \(24, 3\) of siren"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "ema.pth")
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average(tensors[:-1]))
    with pytest.raises(ValueError, match="the average holds 19 tensors, expected 20"):
        imported(tmp_path / "ema.pth")
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average(["a", 3]))
    with pytest.raises(ValueError, match="its shadow_params are not tensors"):
        imported(tmp_path / "ema.pth")


def test_an_exported_state_dict_can_be_imported_again(tmp_path):
    generator = model(grid_channels=4, grid_resolution=5)
    imported(official_file(tmp_path / "generator.pth", generator))
    pigan.export_pigan(tmp_path / "ours.safetensors", tmp_path / "again.pth")
    expected = pigan.generator_to_official(generator)
    state = torch.load(tmp_path / "again.pth", weights_only=True)
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert torch.equal(image(imported(tmp_path / "again.pth")), image(generator))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_module", [False, True])
def test_discriminators_of_every_kind_are_recognized(tmp_path, kind, as_module):
    judge = shaken(PiGANDiscriminator, kind=kind)
    state = pigan.discriminator_to_official(judge)
    data = hostile.saved(state)
    if as_module:
        data = hostile.saved_module(state, "discriminators.discriminators", f"{kind}Discriminator")
    (tmp_path / "discriminator.pth").write_bytes(data)
    generator = official_file(tmp_path / "generator.pth", model())
    imported(generator, discriminator=tmp_path / "discriminator.pth")
    loaded = load_discriminator(tmp_path / "ours.safetensors")
    x = torch.randn(2, 3, 16, 16)
    ours, theirs = loaded(x), judge(x)
    assert loaded.arguments["kind"] == kind
    assert torch.equal(ours.logits, theirs.logits)
    assert (ours.pose is None) == (theirs.pose is None)
    assert theirs.pose is None or torch.equal(ours.pose, theirs.pose)
    pigan.export_pigan(tmp_path / "ours.safetensors", tmp_path / "D.pth", which="discriminator")
    again = torch.load(tmp_path / "D.pth", weights_only=True)
    assert shapes(again) == shapes(state)


def test_a_class_name_resolves_kinds_with_the_same_tensors():
    """If all widths differ, layers of the CCS and Progressive families have the same tensors."""
    judge = shaken(PiGANDiscriminator, kind="Progressive", channels=(4, 6, 8, 10, 12))
    state = pigan.discriminator_to_official(judge)
    assert pigan.kind_of(Network(state)) == "CCS"
    assert pigan.kind_of(Network(state, class_name="ProgressiveDiscriminator")) == "Progressive"
    assert pigan.kind_of(Network(state, class_name="os.system")) == "CCS"


@pytest.mark.parametrize(
    ("kind", "count"), [("CCSEncoder", 13_291_075), ("CCS", 12_879_217), ("Strided", 12_805_489)]
)
def test_full_size_models_have_the_published_number_of_parameters(kind, count):
    with torch.device("meta"):
        judge = PiGANDiscriminator(kind=kind)
        generator = PiGAN()
    assert sum(t.numel() for t in pigan.discriminator_to_official(judge).values()) == count
    assert sum(t.numel() for t in pigan.generator_to_official(generator).values()) == 1_910_788


def test_files_that_are_not_pi_gan_are_refused(tmp_path):
    state = pigan.generator_to_official(model())
    file = tmp_path / "generator.pth"

    def write(content):
        file.write_bytes(hostile.saved(content))
        return file

    message = r"no siren.mapping_network.network.0.weight; this is not a state dict"
    with pytest.raises(ValueError, match=message):
        imported(write({"a": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"shape \(7, 24\), expected \(24, 24\)"):
        imported(write({**state, "siren.network.1.layer.weight": torch.ones(7, 24)}))
    message = r"siren.grid has shape \(1, 4, 5, 6, 5\), expected a grid"
    with pytest.raises(ValueError, match=message):
        imported(write({**state, "siren.grid": torch.ones(1, 4, 5, 6, 5)}))
    with pytest.raises(ValueError, match=r"no fromRGB.0"):
        pigan.discriminator_from_official(Network(state))
    data = hostile.saved_module(state, *CLASS)
    for end in (3, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"broken|refused"):
            imported(file)
