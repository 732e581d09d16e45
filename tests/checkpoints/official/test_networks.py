"""Official EG3D and StyleGAN2 files: written from our models, imported again, and equal."""

import copy
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gan3d.camera import Camera
from gan3d.checkpoints.official import eg3d, stylegan2
from gan3d.checkpoints.official.networks import Network, read_network
from gan3d.checkpoints.portable import (
    load_discriminator,
    load_generator,
    read_facts,
    save_pretrained,
)
from gan3d.cli import main
from gan3d.discriminators import DISCRIMINATORS, DualDiscriminator
from gan3d.generators import EG3D, StyleGAN2
from gan3d.generators.eg3d import (
    BackboneOptions,
    DecoderOptions,
    MappingOptions,
    RenderOptions,
    SuperResolutionOptions,
)
from gan3d.rendering import DensityPrior

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
RENDERING = {
    "depth_resolution": 5,
    "depth_resolution_importance": 4,
    "ray_start": "auto",
    "ray_end": "auto",
    "box_warp": 1.25,
    "white_back": True,
    "c_scale": 0.5,
    "superresolution_noise_mode": "const",
    "sr_antialias": False,
    "decoder_lr_mul": 0.5,
    "avg_camera_pivot": [0, 0, 0.2],
}
ARGUMENTS = {
    **EG3D.tiny,
    "img_resolution": 64,
    "c_scale": 0.5,
    "backbone": BackboneOptions(channel_base=128, channel_max=16, conv_clamp=3.0),
    "mapping": MappingOptions(num_layers=3, embed_features=6, layer_features=9),
    "decoder": DecoderOptions(hidden_dim=16, feature_channels=8, lr_multiplier=0.5),
    "render": RenderOptions(
        depth_samples=5,
        importance_samples=4,
        ray_start="auto",
        ray_end="auto",
        box_warp=1.25,
        background="white",
        depth_clamp="batch",
        auto_limits="official",
    ),
    "superresolution": SuperResolutionOptions(
        layout="8XDC", channels=(12, 10), input_resolution=16, noise="const", antialias=False
    ),
    "density_prior": DensityPrior(),  # official code has none
}


def shaken(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def published(module):
    """A copy with the shapes of published files: noise strengths are scalars in them."""
    made = copy.deepcopy(module)
    for layer in made.modules():
        if hasattr(layer, "noise_strength"):
            layer.noise_strength = nn.Parameter(layer.noise_strength.detach().reshape(()))
    return made


def pickled(path, generator, rendering=RENDERING, raw=16):
    attributes = {
        "": {
            "_init_kwargs": {"conv_clamp": 3.0},
            "rendering_kwargs": rendering,
            "neural_rendering_resolution": raw,
        }
    }
    judge = shaken(DualDiscriminator(**{**DualDiscriminator.tiny, "img_resolution": 64}))
    content = {
        "G_ema": hostile.persistent(published(generator), attributes),
        "D": hostile.persistent(judge),
    }
    path.write_bytes(hostile.snapshot(content))
    return judge


def image(generator):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
    camera = (
        Camera.from_angles(torch.tensor([-0.3, 0.3]), torch.zeros(2))
        if generator.has_camera
        else None
    )
    with torch.no_grad():
        return generator(z, camera).image


def test_an_official_eg3d_snapshot_becomes_an_equal_generator_and_discriminator(tmp_path):
    generator = shaken(EG3D(**ARGUMENTS))
    judge = pickled(tmp_path / "network.pkl", generator)
    with hostile.watching() as seen:
        read_network(tmp_path / "network.pkl")
    assert seen == []
    eg3d.import_eg3d(tmp_path / "network.pkl")
    loaded = load_generator(tmp_path / "network.safetensors")
    assert torch.equal(image(loaded), image(generator))
    # Widths that are all narrow do not tell channel_base.
    backbone = replace(loaded.arguments["backbone"], channel_base=128)
    assert {**loaded.arguments, "backbone": backbone} == ARGUMENTS
    other = load_discriminator(tmp_path / "network.safetensors")
    pairs = zip(other.state_dict().values(), judge.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    facts = read_facts(tmp_path / "network.safetensors")
    assert facts["rendering_kwargs"]["avg_camera_pivot"] == [0, 0, 0.2]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_eg3d_state_dict_is_imported_and_exported_again(tmp_path, suffix):
    generator = shaken(EG3D(**EG3D.tiny))
    state = published(generator).state_dict()
    assert sum(tensor.ndim == 0 for tensor in state.values()) == 9
    path = tmp_path / f"official{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({name: t.contiguous() for name, t in state.items()}, path)
    eg3d.import_eg3d(path, tmp_path / "ours.safetensors", preset="shapenet", plane_axes="fixed")
    loaded = load_generator(tmp_path / "ours.safetensors")
    assert loaded.arguments["render"].box_warp == 1.6
    assert loaded.arguments["c_scale"] == 0
    assert loaded.arguments["planes"].axes == "fixed"
    assert loaded.arguments["superresolution"].legacy_raw
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.reshape(state[name].shape), state[name])
    message = eg3d.export_eg3d(tmp_path / "ours.safetensors", tmp_path / "again.pt")
    assert "correct the official code" in message
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert list(again) == list(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("which", "of_generator", "of_discriminator", "message"),
    [
        (
            "generator",
            {"render": replace(EG3D.tiny["render"], background="learned")},
            {},
            "the generator of .* has render.background learned, which official code",
        ),
        ("generator", {"density_prior": DensityPrior("ball")}, {}, "density_prior.shape ball"),
        ("discriminator", {}, {"predicts_pose": True}, "the discriminator of .* predicts_pose"),
    ],
)
def test_what_official_code_does_not_know_is_not_written_for_it(
    tmp_path, which, of_generator, of_discriminator, message
):
    generator = EG3D(**{**EG3D.tiny, **of_generator})
    judge = DualDiscriminator(**DualDiscriminator.tiny, **of_discriminator)
    path = save_pretrained(tmp_path / "ours.safetensors", generator, judge)
    with pytest.raises(ValueError, match=message):
        eg3d.export_eg3d(path, tmp_path / "official.pt", which=which)
    assert not (tmp_path / "official.pt").exists()


@pytest.mark.parametrize(("layout", "side"), [("2X", 32), ("4X", 32), ("8X", 64), ("8XDC", 64)])
def test_the_layout_of_eg3d_is_the_stated_one_if_the_tensors_agree(layout, side):
    small = replace(EG3D.tiny["superresolution"], layout=layout)
    state = EG3D(**{**EG3D.tiny, "superresolution": small, "img_resolution": side}).state_dict()
    module = f"training.superresolution.SuperresolutionHybrid{layout}"
    stated = {**RENDERING, "superresolution_module": module}
    arguments = eg3d.generator_arguments(Network(state, rendering=stated))
    assert (arguments["superresolution"].layout, arguments["img_resolution"]) == (layout, side)
    assert arguments["superresolution"].input_resolution == 16
    assert arguments["superresolution"].legacy_raw == (layout in ("2X", "4X"))
    hostile_name = {**RENDERING, "superresolution_module": "os.system"}
    arguments = eg3d.generator_arguments(Network(state, rendering=hostile_name))
    assert arguments["superresolution"].layout in ("2X", "8XDC")


def test_shapes_take_precedence_over_the_options_of_an_eg3d_file():
    state = published(EG3D(**EG3D.tiny)).state_dict()
    stated = {
        "z_dim": 512,
        "w_dim": 512,
        "img_resolution": 512,
        "channel_base": 32768,
        "channel_max": 512,
    }
    made = eg3d.generator_from_official(Network(state, stated, RENDERING))
    assert (made.z_dim, made.w_dim, made.img_resolution) == (16, 16, 32)


def str_of(value):
    return str(value)[:8]


@pytest.mark.parametrize("value", [None, "x", 10**400, float("nan"), [1], {"a": 1}], ids=str_of)
def test_options_of_an_eg3d_file_that_are_not_numbers_are_refused(value):
    state = EG3D(**EG3D.tiny).state_dict()
    with pytest.raises(ValueError, match="box_warp of the file"):
        eg3d.generator_from_official(Network(state, {}, {**RENDERING, "box_warp": value}))


def test_a_state_dict_of_another_network_is_refused():
    with pytest.raises(ValueError, match="this is not a state dict of"):
        eg3d.generator_from_official(Network(torch.nn.Linear(1, 1).state_dict(), {}, RENDERING))
    state = EG3D(**EG3D.tiny).state_dict()
    del state["decoder.net.2.bias"]
    with pytest.raises(ValueError, match=r"decoder.net.2.bias is missing"):
        eg3d.generator_from_official(Network(state, {}, RENDERING))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("c_dim", [0, 25])
def test_stylegan2_snapshots_become_equal_networks(tmp_path, architecture, c_dim):
    generator = shaken(
        StyleGAN2(**{**StyleGAN2.tiny, "architecture": architecture, "c_dim": c_dim})
    )
    path = tmp_path / "stylegan2.pkl"
    path.write_bytes(hostile.snapshot({"G_ema": hostile.persistent(published(generator))}))
    stylegan2.import_stylegan2(path)
    loaded = load_generator(path.with_suffix(".safetensors"))
    assert torch.equal(image(loaded), image(generator))
    stylegan2.export_stylegan2(path.with_suffix(".safetensors"))
    state = torch.load(path.with_suffix(".pt"), weights_only=True)
    official = published(generator).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in official.items())


@pytest.mark.parametrize("name", ["DualDiscriminator", "StyleGAN2Discriminator"])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_discriminators_of_every_architecture_are_recognized(name, architecture):
    cls = DISCRIMINATORS[name]
    judge = cls(**{**cls.tiny, "architecture": architecture, "c_dim": 25, "cmap_dim": 7})
    made = stylegan2.discriminator_from_official(Network(judge.state_dict()))
    assert type(made) is cls
    assert made.arguments["architecture"] == architecture
    assert made.arguments["cmap_dim"] == 7


def test_the_command_line_imports_and_exports(tmp_path, capsys):
    official, ours, again = (str(tmp_path / name) for name in ("g.pt", "m.safetensors", "again.pt"))
    torch.save(published(EG3D(**EG3D.tiny)).state_dict(), official)
    assert main(["import", "eg3d", official, "--out", ours]) == 0
    assert main(["export", "eg3d", ours, "--out", again]) == 0
    assert "a state dict of official names" in capsys.readouterr().out
    assert main(["export", "stylegan2", ours]) == 2
    assert "holds EG3D, not a StyleGAN2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["network.pkl", "network.pt"])
def test_the_command_line_refuses_a_hostile_file_in_one_line(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    with hostile.watching() as seen:
        assert main(["import", "eg3d", str(tmp_path / name)]) == 2
    assert [event for event in seen if event.startswith(("os.", "subprocess", "pickle"))] == []
    assert "posix.system" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_torch_file_that_holds_more_than_tensors_is_refused(tmp_path):
    torch.save({"G_ema": torch.nn.Linear(1, 1)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"asks for 'torch.nn.*Linear'.*nothing was executed"):
        read_network(tmp_path / "model.pt")
    torch.save({"G_ema": 3}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="not a state dict"):
        read_network(tmp_path / "model.pt")


def test_a_file_does_not_overwrite_itself(tmp_path):
    state = {name: t.contiguous() for name, t in EG3D(**EG3D.tiny).state_dict().items()}
    save_file(state, tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match="would overwrite the file that is read"):
        eg3d.import_eg3d(tmp_path / "g.safetensors")
