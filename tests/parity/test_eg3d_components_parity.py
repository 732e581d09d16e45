"""StyleGAN2's operators, layers and networks against the published ones' numbers
(golden/eg3d/components).
"""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from gan3d.discriminators import DualDiscriminator, StyleGAN2Discriminator
from gan3d.generators import StyleGAN2
from gan3d.layers.convolution import EqualizedConv2d
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.layers.minibatch_std import MinibatchStd
from gan3d.layers.modulated import modulated_conv2d
from gan3d.layers.resize import filtered_resizing
from gan3d.layers.synthesis import SynthesisLayer, ToRGB
from gan3d.ops import resample
from gan3d.ops.bias_act import bias_act

HALF = 0.5


@pytest.fixture(autouse=True)
def no_gradient():
    with torch.no_grad():
        yield


# -- upfirdn2d -------------------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "upfirdn2d")
def test_eg3d_resampling(component, near):
    case, tensors = component.case, component.tensors
    taps = component.facts["filters"][case["filter"]]
    f = None if taps is None else resample.setup_filter(taps)
    functions = [getattr(resample, case["op"])]
    if case["op"] == "upfirdn2d":
        functions.append(resample.upfirdn2d_reference)
    for function in functions:
        near(function(tensors["x"], f, **case["kwargs"]), tensors[case["out"]])


def test_eg3d_filters(load, golden, near):
    stored = load(golden / "eg3d/components/upfirdn2d.safetensors")
    taps = [1, 2, 3, 4]
    near(resample.setup_filter(None), stored["setup.impulse"])
    near(resample.setup_filter([1, 3, 3, 1]), stored["setup.f1331"])
    near(resample.setup_filter(taps), stored["setup.f1234"])
    near(resample.setup_filter(taps, gain=2, flip=True), stored["setup.f1234_gain2_flip"])
    near(resample.setup_filter(taps, separable=True), stored["setup.f1234_separable"])
    near(resample.setup_filter(taps, normalize=False), stored["setup.f1234_unnormalised"])
    near(resample.setup_filter([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]), stored["setup.f2d"])
    assert stored["setup.sym6"].ndim == 1


# -- bias_act --------------------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "bias_act")
def test_eg3d_bias_and_activation(component, near):
    case, tensors = component.case, component.tensors
    x, b = tensors[case["x"]], tensors[case["b"]]
    near(bias_act(x.clone(), b, act=case["act"], **case["kwargs"]), tensors[case["out"]])
    near(
        bias_act(x.clone(), b, act=case["act"], overwrite=True, **case["kwargs"]),
        tensors[case["out"]],
    )


# -- convolution -----------------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "convolution", op="conv2d_resample")
def test_eg3d_convolution_with_resampling(component, near):
    case, tensors = component.case, component.tensors
    taps = {"f1331": [1, 3, 3, 1], "f1234": [1, 2, 3, 4]}[case["f"]]
    y = resample.conv2d_resample(
        tensors[case["x"]],
        tensors[case["w"]],
        resample.setup_filter(taps),
        up=case["up"],
        down=case["down"],
        padding=case["padding"],
        flip_weight=case["flip_weight"],
    )
    near(y, tensors[case["out"]])


def scaled(tensors: dict[str, Tensor], name: str) -> Tensor:
    """A tensor, or "name * number"."""
    name, _, factor = name.partition(" * ")
    return tensors[name] * float(factor or 1)


@pytest.mark.parametrize("fused", [True, False, None])
@pytest.mark.golden_components("eg3d", "convolution", op="modulated_conv2d")
def test_eg3d_modulated_convolution(component, near, fused):
    case, tensors = component.case, component.tensors
    x = tensors[case["x"]].to(getattr(torch, case.get("dtype", "float32")))
    y = modulated_conv2d(
        x,
        scaled(tensors, case["w"]),
        scaled(tensors, case["styles"]),
        noise=None if case.get("noise") is None else tensors[case["noise"]],
        up=case["up"],
        padding=case["padding"],
        resample_filter=None if case.get("f") is None else resample.setup_filter([1, 3, 3, 1]),
        demodulate=case["demodulate"],
        flip_weight=case.get("flip_weight", True),
        fused=fused,
    )
    near(y, tensors[case["out"]], case.get("tolerance", 1e-4))


# -- layers ----------------------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "layers", op="FullyConnectedLayer")
def test_eg3d_equalized_linear_layer(component, near):
    tensors, state = component.tensors, component.state()
    out_features, in_features = state["weight"].shape
    layer = EqualizedLinear(in_features, out_features, **component.case["kwargs"])
    layer.load_state_dict(state)
    near(layer(tensors[component.case["x"]]), tensors[component.case["out"]])


@pytest.mark.golden_components("eg3d", "layers", op="Conv2dLayer")
def test_eg3d_equalized_convolution_layer(component, near):
    case, tensors, state = component.case, component.tensors, component.state()
    out_channels, in_channels = state["weight"].shape[:2]
    layer = EqualizedConv2d(in_channels, out_channels, **case["kwargs"])
    layer.load_state_dict(state)
    near(layer(tensors[case["x"]]), tensors[case["out"]])
    near(layer(tensors[case["x"]], gain=HALF), tensors[case["out_gain_half"]])


@pytest.mark.golden_components("eg3d", "layers", op="SynthesisLayer")
def test_eg3d_synthesis_layer(component, near):
    tensors = component.tensors
    state = component.state()
    name = component.case["weights"].rstrip("/")
    out_channels, in_channels = state["weight"].shape[:2]
    layer = SynthesisLayer(
        in_channels, out_channels, w_dim=state["affine.weight"].shape[1], **component.case["kwargs"]
    )
    layer.load_state_dict(state)
    x, w = tensors["syn.x"], tensors["syn.w"]
    near(layer(x, w), tensors[f"{name}.out_const"])
    near(layer(x, w, noise="none"), tensors[f"{name}.out_none"])
    near(layer(x, w, gain=HALF**0.5), tensors[f"{name}.out_gain"])


@pytest.mark.golden_components("eg3d", "layers", op="ToRGBLayer")
def test_eg3d_torgb_layer(component, near):
    layer = ToRGB(**component.case["kwargs"])
    layer.load_state_dict(component.state())
    tensors = component.tensors
    near(layer(tensors["syn.x"], tensors["syn.w"]), tensors[component.case["out"]])


@pytest.mark.golden_components("eg3d", "layers", op="MinibatchStdLayer")
def test_eg3d_minibatch_standard_deviation(component, near):
    tensors = component.tensors
    layer = MinibatchStd(**component.case["kwargs"])
    near(layer(tensors[component.case["x"]]), tensors[component.case["out"]])


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "networks", op="MappingNetwork")
def test_eg3d_mapping_network(component, near):
    tensors, name = component.tensors, component.case["weights"].rstrip("/")
    given = {"num_layers": 8, **component.case["kwargs"]}
    options = {f.name: given.pop(f.name) for f in fields(MappingOptions) if f.name in given}
    network = MappingNetwork(**given, options=MappingOptions(**options))
    network.load_state_dict(component.state())
    z, c = tensors["z"] if network.z_dim else None, tensors["c"] if network.c_dim else None
    near(network(z, c), tensors[f"{name}.out"])
    if not network.tracks:
        return
    near(network(z, c, truncation=0.6), tensors[f"{name}.psi0.6"])
    near(network(z, c, truncation=0.6, truncation_cutoff=2), tensors[f"{name}.psi0.6_cut2"])
    near(network(z, c, truncation=-0.5), tensors[f"{name}.psi-0.5"])
    network.track(network(z, c))
    near(network.w_avg, tensors[f"{name}.w_avg_updated"])


@pytest.mark.golden_components("eg3d", "networks", op="StyleGAN2 Generator")
def test_eg3d_stylegan2_generator(component, near):
    tensors = component.tensors
    name = component.case["weights"].rstrip("/")
    kwargs = dict(component.case["kwargs"])
    assert kwargs.pop("num_fp16_res") == 0
    generator = StyleGAN2(mapping_layers=kwargs.pop("num_layers"), **kwargs)
    generator.load_state_dict(component.state())
    assert generator.num_ws == component.case["num_ws"]
    ws = generator.map(tensors["z"])
    near(ws, tensors[f"{name}.ws"])
    near(generator.render(generator.represent(ws)).image, tensors[f"{name}.img"])


@pytest.mark.golden_components("eg3d", "networks", op=("SingleDiscriminator", "DualDiscriminator"))
def test_eg3d_discriminator(component, near):
    case, tensors = component.case, component.tensors
    discriminator = _discriminator(case)
    discriminator.load_state_dict(component.state())
    near(_logits(discriminator, tensors), tensors[case["out"]])


@pytest.mark.golden_components("eg3d", "networks", op="DummyDualDiscriminator")
def test_eg3d_faded_raw_image(component, near):
    twin = next(
        c for c in component.facts["cases"] if c.get("weights") == "DualDiscriminator_resnet_0/"
    )
    discriminator = DualDiscriminator(
        **_shape_of(twin), conv_clamp=None, group_size=4, raw_gain=component.case["raw_fade_after"]
    )
    discriminator.load_state_dict(component.state(twin["weights"]))
    near(_logits(discriminator, component.tensors), component.tensors[component.case["out"]])


def _shape_of(case: dict) -> dict:
    sizes = ("c_dim", "channel_base", "channel_max", "img_channels", "img_resolution")
    kept = ("architecture", *sizes)
    return {key: case["kwargs"][key] for key in kept}


def _discriminator(case: dict) -> StyleGAN2Discriminator:
    cls = {"SingleDiscriminator": StyleGAN2Discriminator, "DualDiscriminator": DualDiscriminator}[
        case["op"]
    ]
    epilogue = case["kwargs"]["epilogue_kwargs"]
    return cls(
        **_shape_of(case),
        conv_clamp=case["kwargs"]["conv_clamp"],
        group_size=epilogue["mbstd_group_size"],
    )


def _logits(discriminator: StyleGAN2Discriminator, tensors: dict[str, Tensor]) -> Tensor:
    """Of the group's images; their labels are any numbers, not cameras."""
    image = tensors["d.img"]
    if isinstance(discriminator, DualDiscriminator):
        image = discriminator.pair(image, tensors["d.raw"])
    return discriminator.logits(image, tensors["d.c"])[:, None]


# -- filtered_resizing -----------------------------------------------------------------------------


@pytest.mark.golden_components("eg3d", "filtered_resizing")
def test_eg3d_filtered_resizing(component, near):
    case, tensors = component.case, component.tensors
    near(filtered_resizing(tensors["x"], case["size"], case["mode"]), tensors[case["out"]])
