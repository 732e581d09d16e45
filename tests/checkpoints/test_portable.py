"""The portable file: every registered class goes into it and comes back equal; nothing of it is
executed.
"""

import copy
import json
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gan3d
from gan3d.checkpoints import portable
from gan3d.checkpoints.portable import (
    class_and_arguments,
    load_discriminator,
    load_generator,
    read_facts,
    save_pretrained,
)
from gan3d.discriminators import DISCRIMINATORS, DualDiscriminator
from gan3d.generators import EG3D, GENERATORS
from gan3d.rendering import DensityPrior


def tiny(registry, name):
    torch.manual_seed(0)
    module = registry[name](**registry[name].tiny).eval()
    with torch.no_grad():
        for value in module.state_dict().values():
            value += 0.1  # buffers that start at zero, too
    return module


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def file(tmp_path):
    return save_pretrained(
        tmp_path / "model.safetensors", tiny(GENERATORS, "EG3D"), facts={"kimg": 1.5, "list": [1]}
    )


def rewrite(file, **metadata):
    """The same file with other metadata."""
    with safe_open(file, framework="pt") as opened:
        tensors, old = (
            {name: opened.get_tensor(name) for name in list(opened.keys())},
            opened.metadata(),
        )
    save_file(tensors, file, metadata={k: v for k, v in (old | metadata).items() if v is not None})
    return file


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_comes_back_equal(name, tmp_path):
    generator = tiny(GENERATORS, name)
    loaded = load_generator(save_pretrained(tmp_path / "g.safetensors", generator))
    assert type(loaded) is type(generator)
    assert loaded.arguments == generator.arguments
    assert equal(loaded, generator)
    assert not loaded.training


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS))
def test_every_discriminator_comes_back_equal(name, tmp_path):
    judge = tiny(DISCRIMINATORS, name)
    path = save_pretrained(tmp_path / "pair.safetensors", tiny(GENERATORS, "EG3D"), judge)
    loaded = load_discriminator(path)
    assert type(loaded) is type(judge)
    assert equal(loaded, judge)


def test_options_beyond_the_published_models_come_back_equal(tmp_path):
    torch.manual_seed(0)
    behind = replace(EG3D.tiny["render"], background="learned")
    ball = DensityPrior("ball", radius=0.25)
    generator = EG3D(**{**EG3D.tiny, "render": behind, "density_prior": ball})
    judge = DualDiscriminator(**DualDiscriminator.tiny, predicts_pose=True)
    path = save_pretrained(tmp_path / "pair.safetensors", generator, judge)
    loaded, other = load_generator(path), load_discriminator(path)
    assert loaded.arguments == generator.arguments
    assert (loaded.density_prior, other.predicts_pose) == (ball, True)
    assert equal(loaded, generator)
    assert equal(other, judge)


def test_a_module_knows_its_arguments_defaults_included():
    generator = EG3D(**EG3D.tiny)
    assert generator.arguments["superresolution"].channels == (8, 8)
    assert generator.arguments["render"].box_warp == 1.0
    assert "self" not in generator.arguments
    assert copy.deepcopy(generator).arguments == generator.arguments


def test_arguments_of_any_signature_are_known_by_name(monkeypatch):
    monkeypatch.setattr("gan3d.generators.contract.GENERATORS", {})

    class Wider(EG3D):
        def __init__(self, first, *, scale=2.0, **options):
            super().__init__(**{**EG3D.tiny, **options})

    made = Wider(3, c_scale=1.5)
    assert made.arguments == {"first": 3, "scale": 2.0, "c_scale": 1.5}
    with pytest.raises(TypeError, match="first"):
        Wider()


def test_facts_come_back(file):
    assert read_facts(file) == {"kimg": 1.5, "list": [1]}


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_half_the_bytes_come_back_rounded_in_the_dtype_of_the_module(name, tmp_path):
    generator = tiny(GENERATORS, name)
    whole = generator.save_pretrained(tmp_path / "whole.safetensors")
    halved = generator.save_pretrained(tmp_path / "half.safetensors", half=True)
    assert halved.stat().st_size < 0.7 * whole.stat().st_size
    state, back = generator.state_dict(), load_generator(halved).state_dict()
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype
        torch.testing.assert_close(back[key], tensor, rtol=2**-11, atol=1e-7)


def test_a_weight_that_half_does_not_hold_is_refused(tmp_path):
    generator = tiny(GENERATORS, "PiGAN")
    with torch.no_grad():
        next(generator.parameters()).view(-1)[0] = 1e5
    with pytest.raises(ValueError, match=r"holds 1e\+05, float16 at most 65504"):
        generator.save_pretrained(tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_loading_leaves_the_global_generator_alone(file):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_generator(file)
    assert torch.equal(torch.rand(1), expected)


def test_the_file_holds_names_and_no_code(file):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["generator"])["class"] == "EG3D"
    assert metadata["gan3d_format"] == "1"


@pytest.mark.parametrize(
    "name", ["os.system", "gan3d.generators.EG3D", "torch.nn.Linear", "EG3", ""]
)
def test_a_class_that_is_not_registered_is_refused(file, name):
    rewrite(file, generator=json.dumps({"class": name, "arguments": {}}))
    with pytest.raises(ValueError, match=r"there is no class .*EG3D"):
        load_generator(file)


def described(**changes) -> str:
    return json.dumps({"class": "EG3D", "arguments": {**EG3D.tiny, **changes}}, default=vars)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"gan3d_format": "2"}, "newer gan3d"),
        ({"gan3d_format": None}, "was not written by gan3d"),
        ({"generator": None}, "holds no generator"),
        ({"generator": "[1"}, "is not JSON"),
        ({"generator": "[" * 100_000}, "is not JSON"),
        ({"generator": "[]"}, "is not a dictionary"),
        ({"generator": "{}"}, "no class"),
        ({"generator": described(color=3)}, "does not take color"),
        ({"generator": described(render={"color": 3})}, "RenderOptions does not take color"),
        ({"generator": described(planes={"axes": "yz"})}, "planes.axes 'yz' is unknown"),
        ({"generator": described(z_dim="x")}, "cannot be made"),
        (
            {"generator": described(z_dim=17)},
            r"fc0.weight has shape \(16, 32\), expected \(16, 33\)",
        ),
        ({"generator": described(mapping={"num_layers": 3})}, "fc2.weight is missing"),
        ({"generator": described(mapping={"num_layers": 1})}, "is not known|expected"),
        # And no terabytes are asked for.
        (
            {
                "generator": described(
                    planes={"resolution": 2**20, "channels": 8}, backbone={"channel_base": 2**24}
                )
            },
            "is missing",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(file, metadata, problem):
    rewrite(file, **metadata)
    with pytest.raises(ValueError, match=problem):
        load_generator(file)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 100])
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_generator(tmp_path / "x")


def test_a_missing_file_or_discriminator_is_named(file, tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_generator(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no discriminator"):
        load_discriminator(file)


@dataclass(frozen=True)
class Inner:
    pair: tuple[int, int] = (1, 2)
    scale: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    inner: Inner | None = None


@pytest.fixture
def nested(monkeypatch):
    """A generator with a dataclass among its arguments."""
    monkeypatch.setattr("gan3d.generators.contract.GENERATORS", {})

    class Nested(EG3D):
        def __init__(self, outer: Outer = Outer("y", Inner(scale=3.0)), many: tuple = ()):
            super().__init__(**EG3D.tiny)
            self.outer = outer

    monkeypatch.setitem(GENERATORS, "Nested", Nested)
    return Nested


def test_dataclasses_among_the_arguments_come_back_as_they_were(nested, tmp_path):
    generator = nested(Outer("z", Inner((3, 4))))
    loaded = load_generator(save_pretrained(tmp_path / "g.safetensors", generator))
    assert loaded.arguments == generator.arguments
    assert loaded.outer == Outer("z", Inner((3, 4)))


def test_fields_that_are_not_given_are_those_of_the_default(nested):
    _, made_with = class_and_arguments(
        GENERATORS, "Nested", {"outer": {"inner": {"pair": [5, 6]}}, "many": [[1], 2]}
    )
    assert made_with == {"outer": Outer("y", Inner((5, 6), 3.0)), "many": ((1,), 2)}


def test_a_field_that_is_not_there_is_named_with_those_that_are(nested):
    with pytest.raises(ValueError, match=r"Inner does not take scales; did you mean scale\?"):
        class_and_arguments(GENERATORS, "Nested", {"outer": {"inner": {"scales": 1}}})


def test_a_folder_holds_the_file_its_metadata_and_a_card(tmp_path):
    generator = tiny(GENERATORS, "EG3D")
    folder = generator.save_pretrained(tmp_path / "new" / "heads", facts={"kimg": 2})
    assert equal(load_generator(folder / "model.safetensors"), generator)
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
    config = json.loads((folder / "config.json").read_text())
    assert metadata["gan3d_version"] == config.pop("gan3d_version") == gan3d.__version__
    assert config == {key: json.loads(metadata[key]) for key in config}
    assert config["generator"]["class"] == "EG3D"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gan3d\n")
    assert 'gan3d.from_pretrained("heads")' in card
    assert "* kimg: 2" in card


def test_a_card_that_was_edited_stays_and_the_rest_is_replaced(tmp_path):
    tiny(GENERATORS, "EG3D").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    other = tiny(GENERATORS, "PiGAN")
    other.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert equal(load_generator(tmp_path / "model.safetensors"), other)
    assert '"PiGAN"' in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["model.pt", "a.ckpt", "file"])
def test_a_name_of_another_format_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"end its name in \.safetensors"):
        tiny(GENERATORS, "EG3D").save_pretrained(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_arguments_that_are_no_data_are_refused(tmp_path):
    generator = tiny(GENERATORS, "EG3D")
    generator.arguments["c_scale"] = torch.nn.ReLU()
    with pytest.raises(ValueError, match="arguments of EG3D cannot be written"):
        save_pretrained(tmp_path / "g.safetensors", generator)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "key"), [("PiGAN", "hidden_layers"), ("GRAM", "predictor_layers")]
)
def test_a_file_can_not_ask_for_layers_without_end(name, key, monkeypatch):
    arguments = dict(GENERATORS[name].tiny) | {key: 10**9}
    with pytest.raises(ValueError, match="1000 at most"):
        portable.build(GENERATORS, name, arguments, {})
    monkeypatch.setattr(portable, "MOST_LAYERS", 10**10)
    with pytest.raises(ValueError, match="they ask for more than 10000 parts"):
        portable.build(GENERATORS, name, arguments, {})
