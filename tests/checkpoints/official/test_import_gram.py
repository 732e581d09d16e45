"""Official GRAM and GRAM-HD files: state dicts, modules and averages become equal models."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gan3d.camera import Camera
from gan3d.checkpoints.official import gram
from gan3d.checkpoints.official.networks import Network
from gan3d.checkpoints.portable import load_discriminator, load_generator, read_facts
from gan3d.discriminators import GRAMDiscriminator
from gan3d.generators import GRAM, GRAMHD

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
SURFACES = {
    "scene_extent": 0.24,
    "ray_start": 0.88,
    "ray_end": 1.12,
    "num_samples": 10,
    "num_manifolds": 4,
}
SIDES = {GRAM: {"img_resolution": 8}, GRAMHD: {"img_resolution": 16, "lr_resolution": 8}}
NUMBERS = {"num_samples": 10, "num_manifolds": 4}


def shaken(cls, seed=1, **changes):
    torch.manual_seed(seed)
    module = cls(**{**cls.tiny, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval()


def model(cls, seed=1, **changes):
    return shaken(cls, seed, **{**SURFACES, **SIDES[cls], **changes})


def image(generator, truncation=1.0):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    side = generator.img_resolution
    pitch, yaw = torch.tensor([1.5, 1.7]), torch.tensor([1.4, 1.6])
    camera = Camera.from_sphere(pitch, yaw, 12.0, resolution=side)
    with torch.no_grad():
        return generator(z, camera, truncation=truncation).image


def imported(file, data: bytes | None = None, **options):
    if data is not None:
        file.write_bytes(data)
    out = file.with_name("ours.safetensors")
    gram.import_gram(file, out, lr_resolution=8, overwrite=True, **(NUMBERS | options))
    return load_generator(out)


def shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


@pytest.mark.parametrize("cls", [GRAM, GRAMHD])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", "module"])
def test_a_generator_becomes_an_equal_one(tmp_path, cls, suffix):
    generator = model(cls, predictor_layers=2)
    state = gram.generator_to_official(generator)
    file = tmp_path / f"generator{suffix.replace('module', '.pth')}"
    if suffix == ".safetensors":
        save_file(state, file)
    elif suffix == ".pt":
        file.write_bytes(hostile.saved(state))
    else:
        file.write_bytes(hostile.saved_module(state, "generators.gram", "Generator"))
    loaded = imported(file)
    assert type(loaded) is cls
    assert torch.equal(image(loaded), image(generator))
    generator.estimate_w_avg()
    assert torch.equal(image(loaded, 0.7), image(generator, 0.7))


@pytest.mark.parametrize(
    "changes",
    [
        {"bg_upsampling": "shuffle", "bg_up_channels": (6,)},
        {"fg_style": "affine", "fg_last_kernel": 3},
        {
            "img_resolution": 64,
            "fg_up_channels": (8, 6, 4),
            "bg_blocks": 2,
            "fg_blocks": 3,
            "feature_dim": 3,
        },
        {"mapping_hidden_dim": 20, "z_dim": 9, "hidden_dim": 12},
    ],
)
def test_sizes_of_gram_hd_follow_from_its_tensors(tmp_path, changes):
    generator = model(GRAMHD, **changes)
    loaded = imported(tmp_path / "ffhq.pt", hostile.saved(gram.generator_to_official(generator)))
    assert torch.equal(image(loaded), image(generator))
    assert all(loaded.arguments[name] == value for name, value in changes.items())


def test_rows_of_an_average_have_the_order_of_the_official_modules():
    """62 tensors for three layers: specs/gramhd.md, appendix A, rows 0-53 and 68-75."""
    names = gram.stage_1_names(3)
    assert len(names) == 62
    assert names == gram.official_order(reversed(names))
    assert names == list(gram.generator_to_official(model(GRAM)))
    assert names[6] == "representation.sample_network.output_layer.weight"
    assert names[24] == "representation.rf_network.color_layer.0.layer.weight"
    assert names[53] == "representation.rf_network.output_color.6.bias"
    assert names[54] == "representation.rf_network.mapping_network.network.0.weight"
    with pytest.raises(ValueError, match=r"siren.x is not a parameter of GRAM"):
        gram.official_order(["siren.x"])


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_an_average_of_gram_needs_no_names(tmp_path, layers):
    average = model(GRAM, predictor_layers=layers)
    tensors = list(gram.generator_to_official(average).values())
    loaded = imported(tmp_path / "ema.pth", hostile.saved_average(tensors))
    assert torch.equal(image(loaded), image(average))
    assert read_facts(tmp_path / "ours.safetensors")["average"]["decay"] == 0.999


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_average_of_gram_hd_gets_frozen_parameters_from_the_generator(tmp_path, suffix):
    last, average = model(GRAMHD), model(GRAMHD, seed=2)
    of_last, of_average = gram.generator_to_official(last), gram.generator_to_official(average)

    # the trained parameters
    trained = [name for name in of_average if name.startswith(gram.TRAINED_IN_STAGE_2)]
    ours = {name for name, parameter in last.named_parameters() if parameter.requires_grad}
    assert set(trained) == {gram.GENERATOR_NAMES.official(name) for name in ours}
    mixed = of_last | {name: of_average[name] for name in trained}

    # the order of tensors in the generator's file does not matter
    generator = tmp_path / f"step000100_generator{suffix}"
    backwards = dict(reversed(of_last.items()))
    if suffix == ".safetensors":
        save_file(backwards, generator)
    else:
        generator.write_bytes(hostile.saved(backwards))

    data = hostile.saved_average([of_average[name] for name in trained])
    options = {"generator": generator} if suffix == ".safetensors" else {}
    loaded = imported(tmp_path / "step000100_ema.pth", data, **options)
    expected = gram.generator_from_official(Network(mixed), 8, **NUMBERS)
    assert torch.equal(image(loaded), image(expected.eval()))
    assert not torch.equal(image(loaded), image(last))


def test_an_average_that_does_not_fit_is_refused(tmp_path):
    state = gram.generator_to_official(model(GRAMHD))
    trained = [t for name, t in state.items() if name.startswith(gram.TRAINED_IN_STAGE_2)]
    message = "not one of GRAM, which has 62; for GRAM-HD give --generator"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "ema.pth", hostile.saved_average(trained))
    (tmp_path / "generator.pth").write_bytes(hostile.saved(state))
    message = f"the average holds {len(trained) - 1} tensors, expected {len(trained)}"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "ema.pth", hostile.saved_average(trained[:-1]))
    message = r"tensor 1 of the average has shape \(4, 16\), expected \(4,\)"
    repeated = [trained[0], trained[0], *trained[2:]]
    with pytest.raises(ValueError, match=message):
        imported(tmp_path / "ema.pth", hostile.saved_average(repeated))


@pytest.mark.parametrize(
    "changes", [{"patch": False}, {}, {"img_resolution": 64, "channels": None, "patch_layers": 4}]
)
def test_the_discriminator_is_imported_and_exported_again(tmp_path, changes):
    judge = shaken(GRAMDiscriminator, **changes)
    state = gram.DISCRIMINATOR_NAMES.to_official(judge.state_dict())
    (tmp_path / "discriminator.pth").write_bytes(hostile.saved(state))
    data = hostile.saved(gram.generator_to_official(model(GRAM)))
    imported(tmp_path / "generator.pth", data, discriminator=tmp_path / "discriminator.pth")
    loaded = load_discriminator(tmp_path / "ours.safetensors")
    x = torch.randn(2, 3, judge.img_resolution, judge.img_resolution)
    ours, theirs = loaded(x), judge(x)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.pose, theirs.pose)
    assert theirs.patch_logits is None or torch.equal(ours.patch_logits, theirs.patch_logits)
    original = torch.load(tmp_path / "generator.pth", weights_only=True)
    for which, expected in (("generator", original), ("discriminator", state)):
        out = tmp_path / f"{which}_again.pth"
        gram.export_gram(tmp_path / "ours.safetensors", out, which=which)
        again = torch.load(out, weights_only=True)
        assert set(again) == set(expected)
        assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_options_that_no_file_states_are_given(tmp_path):
    data = hostile.saved(gram.generator_to_official(model(GRAM)))
    given = {
        "levels_start": 20.0,
        "background": False,
        "delta_alpha": 0.02,
        "lock_view": True,
        "num_samples": 12,
    }
    loaded = imported(tmp_path / "g.pth", data, predictor_center=(0.0, 0.0, -2.0), **given)
    assert {name: loaded.arguments[name] for name in given} == given
    assert loaded.arguments["predictor_center"] == (0.0, 0.0, -2.0)
    data = hostile.saved(gram.generator_to_official(model(GRAMHD)))
    with pytest.raises(ValueError, match="GRAM-HD always has a background plane"):
        imported(tmp_path / "g.pth", data, background=False)
    loaded = imported(tmp_path / "g.pth", data, ray_start=0.9)
    assert loaded.arguments["grid_heights"] == pytest.approx((0.1, -0.12))


@pytest.mark.parametrize(
    ("cls", "changes", "count", "tensors"),
    [
        (GRAM, {}, 1_950_621, 62),
        (GRAMHD, {}, 11_399_012, 468),
        (GRAMHD, {"img_resolution": 512}, 11_442_324, 472),
        (GRAMHD, {"img_resolution": 1024}, 11_453_036, 476),
    ],
)
def test_full_size_models_have_the_published_number_of_parameters_and_tensors(
    cls, changes, count, tensors
):
    with torch.device("meta"):
        state = gram.generator_to_official(cls(**changes))
    assert sum(t.numel() for t in state.values()) == count
    assert len(state) == tensors
    arguments = gram.generator_arguments(Network(state))
    if cls is GRAMHD:
        arguments |= gram.super_resolution_arguments(Network(state))
    with torch.device("meta"):
        made = cls(**arguments | changes)
    assert shapes(gram.generator_to_official(made)) == shapes(state)


def test_files_that_are_not_gram_are_refused(tmp_path):
    state = gram.generator_to_official(model(GRAM))
    file = tmp_path / "generator.pth"
    message = r"no representation.rf_network.mapping_network.network.0.weight"
    with pytest.raises(ValueError, match=message):
        imported(file, hostile.saved({"a": torch.ones(1)}))
    name = "representation.rf_network.output_sigma.3.weight"
    message = r"radiance.output_sigma.3.weight has shape \(2, 16\), expected \(1, 16\)"
    with pytest.raises(ValueError, match=message):
        imported(file, hostile.saved({**state, name: torch.ones(2, 16)}))
    with pytest.raises(ValueError, match=r"no fromRGB.model.0.weight"):
        gram.discriminator_from_official(Network(state))
    data = hostile.saved_average(list(state.values()))
    for end in (0, 3, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"broken|refused"):
            imported(file, data[:end])
