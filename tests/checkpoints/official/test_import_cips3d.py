"""Official CIPS-3D files: exported from our models, imported again, and equal."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.camera import Camera
from gan3d.checkpoints.official import cips3d
from gan3d.checkpoints.official.networks import Network
from gan3d.checkpoints.portable import (
    load_discriminator,
    load_generator,
    read_facts,
    save_pretrained,
)
from gan3d.discriminators import CIPS3DDiscriminator
from gan3d.generators import CIPS3D, PiGAN

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
PUBLISHED = {
    "box_side": 0.24,
    "ray_start": 0.88,
    "ray_end": 1.12,
    "num_steps": 5,
    "img_resolution": 8,
}
MISMATCHED_BIAS = {"siren.network.0.bias_fc.weight": torch.ones(5, 12)}
UNKNOWN_INPUTS = {"siren.network.0.linear.weight": torch.ones(32, 7)}
VARIANTS = {
    "base": {},
    "v1": {"color_style": "appearance"},
    "posenc": {"inputs": "xyz_posenc", "nerf_layers": 3},
    "directions": {"inputs": "xyz_d_posenc"},
    "sine": {"inputs": "xyz_d_sine", "pre_rgb_dim": 5},
    "heads": {
        "nerf_mapping_head_layers": 2,
        "nerf_mapping_hidden_dim": 7,
        "nerf_mapping_norm_out": True,
        "inr_mapping_head_layers": 1,
        "inr_mapping_hidden_dim": 9,
        "inr_mapping_add_norm": True,
        "inr_mapping_norm_out": False,
    },
    "norms": {
        "nerf_mapping_add_norm": True,
        "inr_mapping_add_norm": False,
        "inr_mapping_norm_out": True,
    },
    "one layer": {"nerf_mapping_layers": 1, "nerf_mapping_norm_out": True},
}


def shaken(cls, **changes):
    torch.manual_seed(1)
    module = cls(**{**cls.tiny, **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return module.eval()


def shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


def images(generator, truncation=1.0):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    pitch, yaw = torch.tensor([1.5, 1.7]), torch.tensor([1.4, 1.6])
    camera = Camera.from_sphere(pitch, yaw, 12.0, resolution=8)
    with torch.no_grad():
        return generator(z, camera, truncation=truncation, resolution=8).image


def imported(tmp_path, data: bytes, name="G_ema.pth", **options):
    (tmp_path / name).write_bytes(data)
    out = tmp_path / "ours.safetensors"
    cips3d.import_cips3d(tmp_path / name, out, img_resolution=8, num_steps=5, **options)
    return load_generator(out)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_state_dict_of_every_variant_becomes_an_equal_generator(tmp_path, changes):
    generator = shaken(CIPS3D, **PUBLISHED, **changes)
    loaded = imported(tmp_path, hostile.saved(cips3d.generator_to_official(generator)))
    assert torch.equal(images(loaded), images(generator))
    generator.estimate_w_avg()
    assert torch.equal(images(loaded, 0.5), images(generator, 0.5))
    for name, value in changes.items():
        assert loaded.arguments[name] == value


def test_a_pickled_module_becomes_an_equal_generator_and_is_not_executed(tmp_path):
    generator = shaken(CIPS3D, **PUBLISHED)
    state = cips3d.generator_to_official(generator)
    data = hostile.saved_module(state, "exp.cips3d.models.generator", "GeneratorNerfINR", step=3)
    imported(tmp_path, data)
    with hostile.watching() as seen:
        network = cips3d.read_state(tmp_path / "G_ema.pth")
        loaded = cips3d.generator_from_official(network, **PUBLISHED)
    assert [event for event in seen if not event.startswith("open")] == []
    assert torch.equal(images(loaded), images(generator))


def test_weights_for_grouped_convolutions_are_transposed():
    weight = torch.randn(1, 4, 3)
    grouped = weight.transpose(1, 2)[..., None, None]
    name = "inr_net.network.8.mod1.weight"
    assert torch.equal(cips3d.tensor_to_ours(name, grouped), cips3d.tensor_to_ours(name, weight))
    with pytest.raises(ValueError, match=r"mod1.weight has shape \(4, 3\), expected \[1 in out\]"):
        cips3d.tensor_to_ours(name, weight[0])


def test_dead_weights_are_dropped_and_come_back_on_export(tmp_path):
    generator = shaken(CIPS3D, **PUBLISHED)
    state = cips3d.generator_to_official(generator)
    dead = {name for name in state if cips3d.DEAD.match(name)}
    assert len(dead) == 3 * 2 + 9 * 2 * 2
    for name in dead:
        state[name] = torch.randn_like(state[name])
    assert torch.equal(images(imported(tmp_path, hostile.saved(state))), images(generator))
    cips3d.export_cips3d(tmp_path / "ours.safetensors", tmp_path / "official.pth")
    again = torch.load(tmp_path / "official.pth", weights_only=True)
    assert shapes(again) == shapes(state)
    assert all(torch.equal(again[name], state[name]) for name in state if name not in dead)


def test_the_full_size_model_has_the_published_number_of_parameters():
    """11,287,743, including the dead ones (specs/cips3d.md 21)."""
    torch.manual_seed(0)
    official = cips3d.generator_to_official(CIPS3D())
    assert sum(t.numel() for t in official.values()) == 11_287_743
    assert sum(t.numel() for name, t in official.items() if cips3d.DEAD.match(name)) == 22_089
    with torch.device("meta"):
        both = CIPS3DDiscriminator()
    state = cips3d.discriminator_to_official(both)
    assert len(state) == 160
    assert sum(t.numel() for name, t in state.items() if "kernel" not in name) == 37_518_914


@pytest.mark.parametrize(
    "changes", [{}, {"group_size": 2}, {"aux": False}, {"first_downsample": True}]
)
@pytest.mark.parametrize("as_module", [False, True])
def test_the_discriminator_is_imported_and_exported_again(tmp_path, changes, as_module):
    judge = shaken(CIPS3DDiscriminator, **changes)
    state = cips3d.discriminator_to_official(judge)
    data = hostile.saved(state)
    if as_module:
        data = hostile.saved_module(state, "models.discriminator", "Discriminator_MultiScale_Aux")
    (tmp_path / "discriminator.pth").write_bytes(data)
    generator = hostile.saved(cips3d.generator_to_official(shaken(CIPS3D, **PUBLISHED)))
    imported(tmp_path, generator, discriminator=tmp_path / "discriminator.pth", group_size=2)
    loaded = load_discriminator(tmp_path / "ours.safetensors")
    image = torch.randn(4, 3, 32, 32)
    raw = image.flip(0) if judge.needs_raw else None
    ours, theirs = loaded(image, raw=raw), judge(image, raw=raw)
    assert torch.equal(ours.logits, theirs.logits)
    assert raw is None or torch.equal(ours.raw_logits, theirs.raw_logits)
    cips3d.export_cips3d(tmp_path / "ours.safetensors", tmp_path / "D.pth", which="discriminator")
    again = torch.load(tmp_path / "D.pth", weights_only=True)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_the_older_discriminator_has_other_names_and_groups_of_four():
    judge = shaken(CIPS3DDiscriminator, group_size=4)
    state = cips3d.discriminator_to_official(judge)
    older = {
        name.replace("space_linear", "final_linear.0").replace("out_linear", "final_linear.1"): t
        for name, t in state.items()
    }
    loaded = cips3d.discriminator_from_official(Network(older))
    assert loaded.arguments["group_size"] == 4
    image = torch.randn(4, 3, 16, 16)
    assert torch.equal(loaded(image, raw=image).raw_logits, judge(image, raw=image).raw_logits)


def test_facts_of_the_run_are_kept(tmp_path):
    progress = {"step": 645_500, "best_fid": 6.5, "cur_fid": float("nan"), "x": [1]}
    torch.save(progress, tmp_path / "state_dict.pth")
    imported(tmp_path, hostile.saved(cips3d.generator_to_official(shaken(CIPS3D, **PUBLISHED))))
    facts = read_facts(tmp_path / "ours.safetensors")
    assert facts == {
        "source": "G_ema.pth",
        "radius": 1,
        "fov": 12,
        "step": 645_500,
        "best_fid": 6.5,
    }


def test_files_that_are_not_a_generator_of_cips3d_are_refused(tmp_path):
    state = cips3d.generator_to_official(shaken(CIPS3D, **PUBLISHED))
    message = r"no siren.network.0.linear.weight; this is not a state dict"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, hostile.saved({"a": torch.ones(1)}))
    with pytest.raises(ValueError, match="without names; give the file of the network itself"):
        imported(tmp_path, hostile.saved_average(list(state.values())))
    with pytest.raises(ValueError, match=r"has shape \(5, 12\), expected \(32, 12\)"):
        imported(tmp_path, hostile.saved({**state, **MISMATCHED_BIAS}))
    message = r"has 7 inputs for a point and 0 for its direction; expected one of \(3, 0\)"
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, hostile.saved({**state, **UNKNOWN_INPUTS}))
    missing = {name: t for name, t in state.items() if name != "inr_net.to_rgbs.64.linear.bias"}
    with pytest.raises(ValueError, match=r"inr_net.to_rgbs.64.bias is missing"):
        imported(tmp_path, hostile.saved(missing))
    with pytest.raises(ValueError, match=r"no main_disc.conv_in.4"):
        cips3d.discriminator_from_official(Network(state))
    data = hostile.saved(state)
    for end in (0, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"broken|refused"):
            imported(tmp_path, data[:end])
    assert not (tmp_path / "ours.safetensors").exists()


def test_another_network_is_not_exported_as_cips3d(tmp_path):
    save_pretrained(tmp_path / "p.safetensors", PiGAN(**PiGAN.tiny))
    with pytest.raises(ValueError, match="holds PiGAN, none of CIPS-3D's networks"):
        cips3d.export_cips3d(tmp_path / "p.safetensors")
