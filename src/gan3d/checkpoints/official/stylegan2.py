"""Import and export of official StyleGAN2 weights (as in ADA): parameters have the same names,
constructor arguments follow from the shapes.

Clamps and multipliers do not follow from the shapes: they are read from the attributes of the
file's modules, then from the arguments that the file states, and default to the published values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gan3d.checkpoints.official.networks import (
    Network,
    beside,
    integer,
    number,
    read_network,
    section,
    write_tensors,
)
from gan3d.checkpoints.portable import build, load_generator, save_pretrained
from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS, Generator

# Name of the noise strengths, the scalars among the parameters.
STRENGTH = "noise_strength"


def import_stylegan2(
    file: Path,
    out: Path | None = None,
    which: Literal["G_ema", "G"] = "G_ema",
    overwrite: bool = False,
) -> str:
    """Converts official StyleGAN2 weights to a portable file; nothing in the file is executed.

    Args:
        file: a snapshot (.pkl) or a state dict of the generator (.pt, .safetensors).
        out: the new file; by default beside `file`, ending in .safetensors.
        which: generator of a snapshot: the average over training (G_ema) or the last one (G).
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network = read_network(file, which)
    generator = generator_from_official(network)
    save_pretrained(path, generator, facts=network.facts)
    return f"{path}: StyleGAN2, {generator.img_resolution} px"


def export_stylegan2(
    file: Path,
    out: Path | None = None,
    overwrite: bool = False,
) -> str:
    """Writes the generator of a portable file as a state dict for official code.

    Args:
        file: a portable file (gan3d import, gan3d export).
        out: the new file, written by torch.save; by default beside `file`, ending in .pt.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".pt", overwrite)
    generator = load_generator(file)
    if type(generator).__name__ != "StyleGAN2":
        raise ValueError(
            f"{file} holds {type(generator).__name__}, not a StyleGAN2; official code has no such "
            "weights"
        )
    write_tensors(path, to_published(generator.state_dict()))
    return f"{path}: a state dict of official names"


def generator_from_official(network: Network) -> Generator:
    """StyleGAN2 with the weights of an official network."""
    state = from_published(network.state)
    return build(GENERATORS, "StyleGAN2", generator_arguments(network), state)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict with the shapes of ours: noise strengths are [] there and [1] here
    (`layers.synthesis`).
    """
    return {
        name: tensor.reshape(1) if name.endswith(STRENGTH) and tensor.ndim == 0 else tensor
        for name, tensor in state.items()
    }


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`."""
    return {
        name: tensor.reshape(()) if name.endswith(STRENGTH) else tensor
        for name, tensor in state.items()
    }


def generator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments of our StyleGAN2 for an official generator."""
    synthesis = synthesis_arguments(network, "synthesis.", 256)
    mapping = mapping_arguments(network, "mapping.")
    return {
        "z_dim": mapping["z_dim"],
        "c_dim": mapping["c_dim"],
        "w_dim": mapping["w_dim"],
        "img_resolution": synthesis["resolution"],
        "img_channels": synthesis["channels"],
        "channel_base": synthesis["channel_base"],
        "channel_max": synthesis["channel_max"],
        "conv_clamp": synthesis["conv_clamp"],
        "architecture": synthesis["architecture"],
        "use_noise": "synthesis.b4.conv1.noise_const" in network.state,
        "mapping_layers": mapping["num_layers"],
        "mapping_lr_multiplier": mapping["lr_multiplier"],
        "mapping_embed_features": mapping["embed_features"],
        "mapping_layer_features": mapping["layer_features"],
        "w_avg_beta": mapping["w_avg_beta"],
    }


def mapping_arguments(network: Network, prefix: str) -> dict[str, Any]:
    """Sizes and multipliers of a mapping network whose names begin with `prefix`."""
    layers = network.numbered(re.escape(prefix) + r"fc([0-9]+)[.]weight")
    if layers != list(range(len(layers))) or not layers:
        raise ValueError(
            f"the network has no layers {prefix}fc0, fc1, ..; this is not a state dict of "
            "StyleGAN2 or EG3D"
        )
    module = prefix.rstrip(".")
    options = section(network.options.get("mapping_kwargs", {}), "mapping_kwargs")
    width, inside = network.shape(f"{prefix}fc0.weight")
    embed, c_dim = (
        network.shape(f"{prefix}embed.weight")
        if f"{prefix}embed.weight" in network.state
        else (0, 0)
    )
    multiplier = network.attribute(f"{module}.fc0", "bias_gain", options.get("lr_multiplier", 0.01))
    beta = network.attribute(module, "w_avg_beta", options.get("w_avg_beta", 0.998))
    return {
        "z_dim": inside - embed,
        "c_dim": c_dim,
        "w_dim": network.shape(f"{prefix}fc{layers[-1]}.weight")[0],
        "num_layers": len(layers),
        "embed_features": embed or None,
        "layer_features": width,
        "lr_multiplier": number(multiplier, f"{prefix}lr_multiplier"),
        "w_avg_beta": None if beta is None else number(beta, f"{prefix}w_avg_beta"),
    }


def synthesis_arguments(
    network: Network, prefix: str, published_clamp: float | None
) -> dict[str, Any]:
    """Sizes of a synthesis network whose names begin with `prefix`.

    Args:
        network: the file.
        prefix: of the names.
        published_clamp: conv_clamp if the file states none.
    """
    resolutions = network.numbered(re.escape(prefix) + r"b([0-9]+)[.]")
    if not resolutions:
        raise ValueError(
            f"the network has no blocks {prefix}b4, b8, ..; this is not a state dict of StyleGAN2 "
            "or EG3D"
        )
    widths = {side: network.shape(f"{prefix}b{side}.conv1.weight")[0] for side in resolutions}
    base, limit = channel_rule(widths, network)
    architecture = (
        "skip" if f"{prefix}b4.torgb.weight" in network.state or len(resolutions) == 1 else "orig"
    )
    if f"{prefix}b8.skip.weight" in network.state:
        architecture = "resnet"
    return {
        "resolution": resolutions[-1],
        "channels": network.shape(f"{prefix}b{resolutions[-1]}.torgb.weight")[0],
        "channel_base": base,
        "channel_max": limit,
        "architecture": architecture,
        "conv_clamp": clamp(network, f"{prefix}b4.conv1", published_clamp),
    }


def channel_rule(widths: dict[int, int], network: Network) -> tuple[int, int]:
    """channel_base and channel_max that give these widths: min(channel_base // resolution,
    channel_max).
    """
    stated = network.options.get("channel_base", 32768), network.options.get("channel_max", 512)
    if all(type(n) is int for n in stated) and all(
        min(stated[0] // r, stated[1]) == n for r, n in widths.items()
    ):
        return stated
    limit = max(widths.values())
    narrow = [side * width for side, width in widths.items() if width < limit]
    base = max(narrow) if narrow else limit * max(widths)
    wrong = [f"{n} at {side} px" for side, n in widths.items() if min(base // side, limit) != n]
    if wrong:
        raise ValueError(
            "channels do not follow min(channel_base / resolution, channel_max): "
            f"{', '.join(wrong[:3])}"
        )
    return base, limit


def clamp(network: Network, module: str, published: float | None) -> float | None:
    """conv_clamp of a module: its attribute, else the file's argument, else the published one."""
    value = network.attribute(module, "conv_clamp", network.options.get("conv_clamp", published))
    return None if value is None else number(value, "conv_clamp")


def discriminator_from_official(network: Network) -> Discriminator:
    """StyleGAN2's or EG3D's discriminator with official weights; its class follows from the
    tensors.
    """
    name = "DualDiscriminator" if "resample_filter" in network.state else "StyleGAN2Discriminator"
    return build(DISCRIMINATORS, name, discriminator_arguments(network), network.state)


def discriminator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments of our discriminator for an official one."""
    # b4 is the epilogue.
    sides = network.numbered(r"b([0-9]+)[.]")[1:]
    if not sides:
        raise ValueError(
            "the network has no blocks b8, b16, ..; this is not a state dict of a discriminator"
        )
    first = f"b{sides[-1]}"
    epilogue = section(network.options.get("epilogue_kwargs", {}), "epilogue_kwargs")
    block = section(network.options.get("block_kwargs", {}), "block_kwargs")
    widths = {side: network.shape(f"b{side}.conv0.weight")[0] for side in sides}
    widths[4] = network.shape("b4.conv.weight")[0]
    base, limit = channel_rule(widths, network)
    dual = "resample_filter" in network.state
    architecture = "resnet" if f"{first}.skip.weight" in network.state else "orig"
    if "b4.fromrgb.weight" in network.state:
        architecture = "skip"
    arguments: dict[str, Any] = {
        "img_resolution": sides[-1],
        "img_channels": network.shape(f"{first}.fromrgb.weight")[1] // (2 if dual else 1),
        "c_dim": 0,
        "channel_base": base,
        "channel_max": limit,
        "conv_clamp": clamp(network, f"{first}.conv0", 256),
        "architecture": architecture,
        "group_size": _group_size(network, epilogue),
        "mbstd_channels": network.shape("b4.conv.weight")[1] - widths[4],
        "freeze_layers": integer(block.get("freeze_layers", 0), "freeze_layers"),
        "disc_c_noise": number(network.options.get("disc_c_noise", 0), "disc_c_noise"),
    }
    if "mapping.embed.weight" in network.state:
        mapping = mapping_arguments(network, "mapping.")
        arguments |= {
            "c_dim": mapping["c_dim"],
            "cmap_dim": mapping["w_dim"],
            "mapping_layers": mapping["num_layers"],
        }
        arguments["mapping_lr_multiplier"] = mapping["lr_multiplier"]
    if dual and network.class_name == "DummyDualDiscriminator":
        arguments["raw_gain"] = number(network.attribute("", "raw_fade", 1.0), "raw_fade")
    return arguments


def _group_size(network: Network, epilogue: dict[str, Any]) -> int:
    return integer(
        network.attribute("b4.mbstd", "group_size", epilogue.get("mbstd_group_size", 4)),
        "group_size",
    )
