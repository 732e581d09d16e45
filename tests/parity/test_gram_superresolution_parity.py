"""GRAM-HD's super-resolution networks and the reduction Gamma give the official numbers
(golden/gramhd/components).
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gan3d.layers.manifold_superresolution import (
    BackgroundSuperResolution,
    ForegroundSuperResolution,
    ModulatedConv2d,
    upsampling_channels,
)
from gan3d.layers.rrdb import RRDB
from gan3d.ops.bicubic import bicubic_downsample, cubic_taps

gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))

NETWORK = {
    "in_nc": "in_channels",
    "out_nc": "out_channels",
    "nf": "channels",
    "nb": "num_blocks",
    "gc": "growth",
    "scale_factor": "scale",
    "up_channels": "up_channels",
}
FOREGROUND = NETWORK | {
    "w_dim": "z_dim",
    "to_rgb_ks": "last_kernel",
    "use_mapping_network": "style",
}
BACKGROUND = NETWORK | {"use_pixel_shuffle": "upsampling", "global_residual": "residual"}
BACKGROUND |= dict.fromkeys(gram.INTERPOLATION, "mode")


def files(pattern):
    """Parameters: these files of every case folder."""
    found = sorted((gram.golden.GOLDEN / "gramhd").glob(f"*/{pattern}.safetensors"))
    return [pytest.param(file, id=f"{file.parent.name}-{file.stem}") for file in found]


def network(file, names):
    """(arguments, state dict, tensors) of a network's file, with its options from meta.json."""
    options = gram.read_meta(file.parent)[file.stem]
    tensors = load_file(file)
    arguments = gram.translated(options, names)
    state = {name.removeprefix("w."): t for name, t in tensors.items() if name.startswith("w.")}
    if arguments.get("up_channels") is None:
        arguments["up_channels"] = upsampling_channels(arguments["channels"], arguments["scale"])
    return arguments, state, tensors


@pytest.mark.parametrize("file", files("sr_fg*"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreground_network(file, dtype, near):
    arguments, state, tensors = network(file, FOREGROUND)
    arguments["style"] = "mapping" if arguments.get("style", True) else "affine"
    module = ForegroundSuperResolution(**arguments)
    module.load_state_dict(state)
    maps = tensors["x"].unflatten(0, (len(tensors["w_latent"]), -1)).to(dtype)
    result = module.to(dtype)(maps, module.map(tensors["w_latent"].to(dtype)))
    near(result.flatten(0, 1), tensors["y"])


@pytest.mark.parametrize("file", files("sr_bg*"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_background_network(file, dtype, near):
    arguments, state, tensors = network(file, BACKGROUND)
    mode = arguments.pop("mode", "bilinear")
    arguments["upsampling"] = "shuffle" if arguments.get("upsampling") else mode
    module = BackgroundSuperResolution(**arguments)
    module.load_state_dict(state)
    result = module.to(dtype)(tensors["x"][:, None].to(dtype))
    near(result[:, 0], tensors["y"])


@pytest.mark.parametrize("file", files("sr_blocks"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rrdb(file, dtype, near):
    tensors = load_file(file)
    state = {
        name.removeprefix("rrdb.w."): t for name, t in tensors.items() if name.startswith("rrdb.w.")
    }
    growth, channels = state["RDB1.conv1.weight"].shape[:2]
    block = RRDB(channels, growth)
    block.load_state_dict(state)
    near(block.to(dtype)(tensors["rrdb.x"].to(dtype)), tensors["rrdb.y"])


@pytest.mark.parametrize("file", files("sr_blocks"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modulated_convolution_and_its_gradients(file, dtype, near):
    tensors = load_file(file)
    cases = sorted({name.rsplit(".", 1)[0] for name in tensors if name.startswith("mod.")})
    for case in cases:
        own = {
            name.rsplit(".", 1)[1]: t.to(dtype)
            for name, t in tensors.items()
            if name.startswith(f"{case}.")
        }
        out, inside, kernel, _ = own["weight"].shape
        conv = ModulatedConv2d(inside, out, kernel).to(dtype)
        conv.load_state_dict({"weight": own["weight"], "bias": own["bias"]})
        x, style = own["x"].requires_grad_(True), own["style"].requires_grad_(True)
        y = torch.cat([conv(x[i : i + 1], style[i]) for i in range(len(x))])
        near(y, own["y"])
        gradients = torch.autograd.grad(y, (x, style, conv.weight), own["cot"])
        for gradient, name in zip(gradients, ("gx", "gs", "gw")):
            near(gradient, own[name])


@pytest.mark.parametrize("file", files("bicubic_down"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bicubic_reduction(file, dtype, near):
    tensors = load_file(file)
    factors = sorted({int(name.split(".")[0]) for name in tensors})
    for factor in factors:
        near(cubic_taps(factor), tensors[f"{factor}.kernel1d"], tolerance=1e-6)
        near(
            bicubic_downsample(tensors[f"{factor}.x"].to(dtype), factor),
            tensors[f"{factor}.y"],
            tolerance=1e-5,
        )
