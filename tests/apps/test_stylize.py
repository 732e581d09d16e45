"""Generators between two: the origin of every parameter, and refusals."""

import pytest
import torch
from torch import nn

from gan3d.apps.stylize import style_layers, style_names, style_sheet, stylize, unreachable
from gan3d.camera import Camera
from gan3d.generators import EG3D, GENERATORS, Generator, PiGAN, Rendering, StyleGAN2


class Painter(Generator):
    """One color, from layers of one number each; `scale` belongs to no layer."""

    z_dim = w_dim = 1
    num_ws, img_resolution = 1, 4
    style_parts = {"a": ("first.",), "b": ("second.", "seen"), "mapping": ("style.", "w_avg")}

    def __init__(self, width: int = 1, start: float = 0.0):
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.style = nn.Linear(width, width, bias=False)
        for k, layer in enumerate((self.first, self.second, self.style)):
            nn.init.constant_(layer.weight, start + k)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("w_avg", torch.tensor([[start]]))
        self.register_buffer("seen", torch.tensor(int(start)))

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return torch.lerp(self.w_avg, self.style.weight[0, 0] * z, truncation)[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        value = representation + camera.yaw_pitch()[0]
        side = self.img_resolution
        return Rendering(value[:, None, None, None].expand(-1, 3, side, side))


class Scribbler(Painter):
    style_parts = {}
    parts = {}


# for these tests only: tests that walk the registry must not see them
for name in ("Painter", "Scribbler"):
    GENERATORS.pop(name)


def numbers(model: Painter) -> list[float]:
    """[first, second, style, w_avg, seen, scale]"""
    weights = [layer.weight.item() for layer in (model.first, model.second, model.style)]
    return [*weights, model.w_avg.item(), model.seen.item(), model.scale.item()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [5, 6, 2, 0, 0, 2]),
        ({"gamma": 0.25}, [2.5, 3.5, 2, 0, 0, 2]),
        ({"gamma": 1}, [10, 11, 2, 0, 10, 2]),
        ({"gamma": 0}, [0, 1, 2, 0, 0, 2]),
        ({"gamma": 1, "layers": ["b"]}, [0, 11, 2, 0, 10, 2]),
        ({"gamma": 1, "layers": ["a"], "mapping": "target"}, [10, 1, 12, 10, 0, 2]),
        ({"gamma": 0.5, "layers": ["a"], "mapping": "target"}, [5, 1, 12, 10, 0, 2]),
        ({"gamma": 0.5, "layers": ["a"], "mapping": "mixed"}, [5, 1, 7, 5, 0, 2]),
        ({"gamma": 1.5, "layers": ["a"]}, [15, 1, 2, 0, 0, 2]),
    ],
)
def test_layers_are_mixed_the_mapping_is_chosen_and_everything_else_is_base(options, expected):
    base, target = Painter(start=0.0), Painter(start=10.0)
    with torch.no_grad():
        target.scale.fill_(3.0)
    assert numbers(stylize(base, target, **options)) == expected
    assert numbers(base) == [0, 1, 2, 0, 0, 2]
    assert numbers(target) == [10, 11, 12, 10, 10, 3]
    assert unreachable(base, target) == ("scale",)


def test_the_new_model_shares_nothing_with_its_parents_and_has_the_arguments_of_base():
    base, target = Painter(start=0.0), Painter(start=10.0)
    base.train(False)
    new = stylize(base, target, gamma=0)
    assert type(new) is Painter
    assert new.arguments == base.arguments == {"width": 1, "start": 0.0}
    assert not new.training
    with torch.no_grad():
        for tensor in new.state_dict().values():
            tensor.fill_(77)
    new.arguments["start"] = 5.0
    assert numbers(base) == [0, 1, 2, 0, 0, 2]
    assert base.arguments["start"] == 0.0


def test_a_target_of_another_dtype_is_converted():
    base, target = Painter(start=0.0), Painter(start=10.0).double()
    assert stylize(base, target).first.weight.dtype == torch.float32
    assert numbers(stylize(base.double(), target)) == [5, 6, 2, 0, 0, 2]


def test_models_that_do_not_match_are_refused():
    base = Painter()
    message = "base is Painter, target is Scribbler; only generators of one class"
    with pytest.raises(ValueError, match=message):
        stylize(base, Scribbler())
    message = r"different sizes: first.weight is \(1, 1\) in base and \(2, 2\) in target"
    with pytest.raises(ValueError, match=message):
        stylize(base, Painter(width=2))
    message = "Scribbler declares no layers to mix; give the class style_parts"
    with pytest.raises(ValueError, match=message):
        stylize(Scribbler(), Scribbler())
    with pytest.raises(ValueError, match="StyleGAN2 declares no layers"):
        style_layers(StyleGAN2(**StyleGAN2.tiny))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["a", "c"]}, "layers of Painter: got c, expected some of a, b$"),
        ({"layers": []}, "layers of Painter: got none, expected some of a, b$"),
        (
            {"layers": ["mapping"]},
            "expected some of a, b; the mapping network is chosen with `mapping`",
        ),
        ({"mapping": "both"}, "mapping 'both' is not known; use one of base, target, mixed"),
    ],
)
def test_unknown_layers_and_mappings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stylize(Painter(), Painter(), **options)


@pytest.fixture(scope="module")
def eg3d() -> tuple[EG3D, EG3D]:
    torch.manual_seed(0)
    return EG3D(**EG3D.tiny).eval(), EG3D(**EG3D.tiny).eval()


def test_eg3d_mixes_its_parts(eg3d):
    base, target = eg3d
    assert list(style_layers(base)) == ["planes", "decoder", "superresolution"]
    new = stylize(base, target, ["superresolution"], gamma=1.0)
    own, other, mixed = (model.state_dict() for model in (base, target, new))
    for key, tensor in mixed.items():
        source = other if key.startswith("superresolution.") else own
        assert torch.equal(tensor, source[key]), key
    z = torch.randn(2, base.z_dim, generator=torch.Generator().manual_seed(1))
    camera = Camera.from_angles(torch.tensor([0.2, 0.0]), 0.0)
    with torch.no_grad():
        of_new, of_base, of_target = (model(z, camera) for model in (new, base, target))
    assert torch.equal(of_new.raw, of_base.raw)  # the head of the base with another look
    assert (of_new.image - of_base.image).abs().mean() > 1e-3
    assert (of_new.image - of_target.image).abs().mean() > 1e-3


def test_swapping_all_of_eg3d_gives_the_target(eg3d):
    base, target = eg3d
    new = stylize(base, target, gamma=1.0, mapping="target")
    expected = target.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in new.state_dict().items())
    assert unreachable(base, target) == ()


def test_pigan_keeps_the_mapping_network_of_base():
    torch.manual_seed(0)
    base, target = PiGAN(**PiGAN.tiny), PiGAN(**PiGAN.tiny)
    new = stylize(base, target, gamma=1.0)
    assert style_names(base) == tuple(key for key in base.state_dict() if key.startswith("siren."))
    weight = new.mapping_network.state_dict()["network.0.weight"]
    assert torch.equal(weight, base.mapping_network.network[0].weight)


def test_the_sheet_has_a_row_per_head_with_every_view_of_every_model():
    base, target = Painter(start=0.0), Painter(start=-1.0)  # styles 2 and 1, mean latents 0 and -1
    cameras = Camera.from_angles(torch.tensor([-0.25, 0.25]), 0.0)
    z = torch.tensor([[0.0], [0.25]])
    sheet = style_sheet([(base, 1.0), (base, 0.0), (target, 0.5)], z, cameras)
    assert sheet.shape == (2 * 4 + 2, 6 * 4 + 5 * 2, 3)
    values = [[-0.25, 0.25, -0.25, 0.25, -0.75, -0.25], [0.25, 0.75, -0.25, 0.25, -0.625, -0.125]]
    for row, wanted in enumerate(values):
        for column, value in enumerate(wanted):
            patch = sheet[row * 6 : row * 6 + 4, column * 6 : column * 6 + 4]
            assert abs(patch.astype(int) - (value + 1) * 127.5).max() <= 0.51
