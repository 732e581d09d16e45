"""Import and export of official EG3D weights: parameters have the same names, constructor arguments
follow from the file.

Sizes follow from the shapes of the tensors, even if the file states other sizes. The rest is read
from the attributes of the file's modules, then from the arguments that the file states. A plain
state dict states none, and gets the rendering options of a published configuration (`PRESETS`).

An imported generator computes the same as the official code: depths are clamped over the batch,
rays that miss the box of an "auto" model get the published limits, and 2X and 4X models return the
raw image after the addition of block0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from gan3d.checkpoints.official.networks import (
    Network,
    beside,
    integer,
    number,
    read_networks,
    section,
    write_tensors,
)
from gan3d.checkpoints.official.stylegan2 import (
    discriminator_from_official,
    from_published,
    mapping_arguments,
    synthesis_arguments,
    to_published,
)
from gan3d.checkpoints.portable import build, load_discriminator, load_generator, save_pretrained
from gan3d.generators import GENERATORS, Generator
from gan3d.generators.eg3d import (
    BackboneOptions,
    DecoderOptions,
    MappingOptions,
    PlaneAxes,
    PlaneOptions,
    RenderOptions,
    SuperResolutionOptions,
)

Preset = Literal["ffhq", "afhq", "shapenet"]
PublishedLayout = Literal["2X", "4X", "8X", "8XDC"]

# Rendering options of train.py, with pose conditioning if the published model has it.
_FACES = {
    "depth_resolution": 48,
    "depth_resolution_importance": 48,
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "ffhq": {**_FACES, "c_scale": 1, "avg_camera_radius": 2.7, "avg_camera_pivot": [0, 0, 0.2]},
    "afhq": {**_FACES, "c_scale": 1, "avg_camera_radius": 2.7, "avg_camera_pivot": [0, 0, -0.06]},
    "shapenet": {
        "depth_resolution": 64,
        "depth_resolution_importance": 64,
        "ray_start": "auto",
        "ray_end": "auto",
        "box_warp": 1.6,
        "white_back": True,
        "c_gen_conditioning_zero": True,
        "avg_camera_radius": 1.7,
        "avg_camera_pivot": [0, 0, 0],
    },
}
# Names of modules in official files. They are only looked up here, never imported.
LAYOUTS: dict[str, PublishedLayout] = {
    f"training.superresolution.SuperresolutionHybrid{name}": name
    for name in get_args(PublishedLayout)
}
NO_UPSAMPLING = ("2X", "4X")
# Of the cameras of FFHQ and AFHQ: image widths, and distance from the origin.
FOCAL_OF_FACES, RADIUS_OF_FACES = 4.2647, 2.7


def import_eg3d(
    file: Path,
    out: Path | None = None,
    which: Literal["G_ema", "G"] = "G_ema",
    plane_axes: PlaneAxes = "official",
    preset: Preset = "ffhq",
    discriminator: bool = True,
    overwrite: bool = False,
) -> str:
    """Converts official EG3D weights to a portable file, with the discriminator; nothing in the
    file is executed.

    Args:
        file: a snapshot (.pkl), or a state dict of the generator (.pt, .safetensors).
        out: the new file; by default beside `file`, ending in .safetensors.
        which: generator of a snapshot: the average over training (G_ema) or the last one (G).
        plane_axes: official, for all published weights (no plane sees y with z), or fixed, for
            weights trained with the authors' later correction.
        preset: rendering options for a state dict, which states none.
        discriminator: whether to convert the discriminator of a snapshot, too.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network, *others = read_networks(file, which, *(["D"] if discriminator else []))
    if not network.rendering:
        network = with_preset(network, preset)
    generator = generator_from_official(network, plane_axes=plane_axes)
    judge = discriminator_from_official(others[0]) if others else None
    save_pretrained(path, generator, judge, facts={**network.facts, **seen_from(network)})
    also = "" if judge is None else f", with its {type(judge).__name__}"
    return f"{path}: EG3D, {generator.img_resolution} px, plane_axes {plane_axes}{also}"


def export_eg3d(
    file: Path,
    out: Path | None = None,
    which: Literal["generator", "discriminator"] = "generator",
    overwrite: bool = False,
) -> str:
    """Writes a network of a portable file as a state dict for official code.

    Args:
        file: a portable file (gan3d import eg3d, gan3d export training).
        out: the new file, written by torch.save; by default beside `file`, ending in .pt.
        which: network to write.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".pt", overwrite)
    generator = load_generator(file)
    if type(generator).__name__ != "EG3D":
        raise ValueError(
            f"{file} holds {type(generator).__name__}, not an EG3D; official code has no such "
            "weights"
        )
    module = generator if which == "generator" else load_discriminator(file)
    more = _unpublished(module.arguments)
    if more:
        raise ValueError(
            f"the {which} of {file} has {more}, which official code does not know; only models "
            "without it can be written for official code"
        )
    write_tensors(path, to_published(module.state_dict()))
    fixed = module is generator and generator.arguments["planes"].axes == "fixed"
    also = "; its planes are the fixed ones: correct the official code, too" if fixed else ""
    return f"{path}: a state dict of official names{also}"


def _unpublished(arguments: Mapping[str, Any]) -> str:
    """What a network has that official code lacks, by the name of its option; empty if nothing."""
    if "render" not in arguments:
        return "predicts_pose" if arguments.get("predicts_pose") else ""
    if arguments["render"].background == "learned":
        return "render.background learned"
    shape = arguments["density_prior"].shape
    return "" if shape == "none" else f"density_prior.shape {shape}"


def generator_from_official(network: Network, *, plane_axes: PlaneAxes = "official") -> Generator:
    """EG3D with the weights of an official generator.

    Args:
        network: weights, with rendering options (`with_preset` for a plain state dict).
        plane_axes: see `PlaneOptions`; files do not state it.

    Raises:
        ValueError: these are not weights of an EG3D that can be built here.
    """
    state = from_published(network.state)
    label_dim = network.shape("backbone.mapping.embed.weight")[1]
    # Older files do not have it.
    state.setdefault("dataset_label_std", torch.zeros(label_dim))
    return build(GENERATORS, "EG3D", generator_arguments(network, plane_axes), state)


def seen_from(network: Network) -> dict[str, float]:
    """Radius and field of view (degrees) of the cameras of training, as far as the file tells: the
    faces of all published weights have one focal length, other data have their own.
    """
    radius = network.rendering.get("avg_camera_radius")
    if radius is None:
        return {}
    of_faces = {"fov": round(math.degrees(2 * math.atan(0.5 / FOCAL_OF_FACES)), 3)}
    return {"radius": radius} | (of_faces if radius == RADIUS_OF_FACES else {})


def with_preset(network: Network, preset: Preset) -> Network:
    """A plain state dict with the rendering options of a published configuration."""
    facts = {
        "source": f"official state dict, options of {preset}",
        "rendering_kwargs": PRESETS[preset],
    }
    return Network(
        network.state, network.options, PRESETS[preset], facts={**network.facts, **facts}
    )


def generator_arguments(network: Network, plane_axes: PlaneAxes = "official") -> dict[str, Any]:
    """Constructor arguments of our EG3D for an official generator."""
    mapping = mapping_arguments(network, "backbone.mapping.")
    planes = synthesis_arguments(network, "backbone.synthesis.", None)
    if planes["channels"] % 3 or planes["architecture"] != "skip":
        raise ValueError(
            f"the backbone makes {planes['channels']} channels ({planes['architecture']}), not "
            "three planes"
        )
    hidden, plane_channels = network.shape("decoder.net.0.weight")
    options = section(network.rendering, "rendering_kwargs")
    conditioned = not options.get("c_gen_conditioning_zero", False)
    multiplier = network.attribute("decoder.net.0", "bias_gain", options.get("decoder_lr_mul", 1))
    return {
        "z_dim": mapping["z_dim"],
        "w_dim": mapping["w_dim"],
        "c_scale": number(options.get("c_scale", 0), "c_scale") if conditioned else 0,
        "planes": PlaneOptions(planes["resolution"], plane_channels, plane_axes),
        "backbone": BackboneOptions(
            channel_base=planes["channel_base"],
            channel_max=planes["channel_max"],
            conv_clamp=planes["conv_clamp"],
        ),
        "mapping": MappingOptions(
            num_layers=mapping["num_layers"],
            embed_features=mapping["embed_features"],
            layer_features=mapping["layer_features"],
            lr_multiplier=mapping["lr_multiplier"],
            w_avg_beta=mapping["w_avg_beta"],
        ),
        "decoder": DecoderOptions(
            hidden_dim=hidden,
            feature_channels=network.shape("decoder.net.2.weight")[0] - 1,
            lr_multiplier=number(multiplier, "decoder_lr_mul"),
        ),
        "render": _rendering(options),
        **_image(network),
    }


def _rendering(options: Mapping[str, Any]) -> RenderOptions:

    def ray_limit(name: str) -> float | Literal["auto"]:
        value = options.get(name)
        return "auto" if value == "auto" else number(value, name)

    near, far = ray_limit("ray_start"), ray_limit("ray_end")
    return RenderOptions(
        depth_samples=integer(options.get("depth_resolution"), "depth_resolution"),
        importance_samples=integer(
            options.get("depth_resolution_importance", 0), "depth_resolution_importance"
        ),
        ray_start=near,
        ray_end=far,
        box_warp=number(options.get("box_warp"), "box_warp"),
        disparity=bool(options.get("disparity_space_sampling", False)),
        background="white" if options.get("white_back", False) else "black",
        density_noise=number(options.get("density_noise", 0), "density_noise"),
        depth_clamp="batch",
        auto_limits="official" if "auto" in (near, far) else "clipped",
    )


def _image(network: Network) -> dict[str, Any]:
    """Sizes of the images, and super-resolution; its blocks have the resolution of their noise."""
    options = network.rendering
    sides = [network.shape(f"superresolution.block{i}.conv1.noise_const")[0] for i in (0, 1)]
    layout = _layout(network, sides)
    input_resolution = sides[0] if layout in NO_UPSAMPLING else sides[0] // 2
    # The default of training is 4.
    clamp = 256 if network.options.get("sr_num_fp16_res", 4) else None
    clamp = network.attribute("superresolution.block0.conv1", "conv_clamp", clamp)
    noise = options.get("superresolution_noise_mode", "none")
    if noise not in ("none", "const", "random"):
        raise ValueError(
            "superresolution_noise_mode of the file is unknown; expected none, const or random"
        )
    raw = network.attribute("", "neural_rendering_resolution", input_resolution)
    antialias = network.attribute(
        "superresolution", "sr_antialias", options.get("sr_antialias", True)
    )

    def channels(block: str) -> int:
        return network.shape(f"superresolution.{block}.conv1.weight")[0]

    return {
        "img_resolution": sides[1],
        "raw_resolution": integer(raw, "neural_rendering_resolution"),
        "superresolution": SuperResolutionOptions(
            layout=layout,
            channels=(channels("block0"), channels("block1")),
            input_resolution=input_resolution,
            noise=noise,
            antialias=bool(antialias),
            conv_clamp=None if clamp is None else number(clamp, "conv_clamp"),
            legacy_raw=layout in NO_UPSAMPLING,
        ),
    }


def _layout(network: Network, sides: list[int]) -> PublishedLayout:
    """The layout that the file names, if its tensors agree; 2X and 4X compute the same."""
    stated = network.rendering.get("superresolution_module")
    named = LAYOUTS.get(stated) if isinstance(stated, str) else None
    # 8XDC is the only layout without this buffer.
    if "superresolution.resample_filter" not in network.state:
        return "8XDC"
    block = network.attribute("superresolution", "_modules", {}).get("block0")
    without = getattr(block, "class_name", "") == "SynthesisBlockNoUp"
    if block is None:
        without = named in NO_UPSAMPLING if named in (*NO_UPSAMPLING, "8X") else sides[1] < 512
    if not without:
        return "8X"
    if named == "2X" or named == "4X":
        return named
    return "4X" if sides[1] >= 256 else "2X"
