"""Import and export of official StyleGAN3 weights (configurations T and R); parameters have the
same names.

A snapshot states the arguments of its generator. A plain state dict states none: the sizes follow
from names and shapes of its layers, the rest is as published. In both cases the filters that the
schedule designs must equal those of the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import torch

from gan3d.checkpoints.official.networks import (
    Network,
    beside,
    integer,
    number,
    read_networks,
    section,
    write_state,
)
from gan3d.checkpoints.official.stylegan2 import discriminator_from_official, mapping_arguments
from gan3d.checkpoints.portable import build, load_generator, save_pretrained
from gan3d.generators.stylegan3 import StyleGAN3

FILTER_TOLERANCE = 1e-6
LAYER = re.compile(r"synthesis\.(L(\d{1,4})_(\d{1,6})_(\d{1,6}))\.weight")
NUMBERS = ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale")
COUNTS = ("num_critical", "margin_size", "filter_size", "lrelu_upsampling", "num_fp16_res")


def import_stylegan3(
    file: Path,
    out: Path | None = None,
    which: Literal["G_ema", "G"] = "G_ema",
    discriminator: bool = True,
    overwrite: bool = False,
) -> str:
    """Converts official StyleGAN3 weights to a portable file; nothing in the file is executed.

    Args:
        file: a snapshot (.pkl), or a state dict of the generator (.pt, .safetensors).
        out: the new file; by default beside `file`, ending in .safetensors.
        which: generator of a snapshot: the average over training (G_ema) or the last one (G).
        discriminator: whether to convert the discriminator of a snapshot, too.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network, *others = read_networks(file, which, *(["D"] if discriminator else []))
    generator = generator_from_official(network)
    judge = discriminator_from_official(others[0]) if others else None
    save_pretrained(path, generator, judge, facts=network.facts)
    also = "" if judge is None else f", with its {type(judge).__name__}"
    return f"{path}: StyleGAN3-{generator.arguments['config']}, {generator.img_resolution} px{also}"


def export_stylegan3(
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
    if type(generator).__name__ != "StyleGAN3":
        raise ValueError(
            f"{file} holds {type(generator).__name__}, not a StyleGAN3; official code has no such "
            "weights"
        )
    return f"{write_state(path, generator)}: a state dict of official names"


def generator_from_official(network: Network) -> StyleGAN3:
    """StyleGAN3 with the weights of an official generator.

    Raises:
        ValueError: these are not weights of StyleGAN3, or the filters of the file follow another
            schedule.
    """
    made = build({"StyleGAN3": StyleGAN3}, "StyleGAN3", generator_arguments(network), network.state)
    for name, layer in zip(made.synthesis.layer_names, made.synthesis.layers):
        for kind, designed in (
            ("up_filter", layer.spec.up_filter()),
            ("down_filter", layer.spec.down_filter()),
        ):
            stored = getattr(layer, kind)
            if designed is None or torch.allclose(
                stored, designed.to(stored), rtol=0, atol=FILTER_TOLERANCE
            ):
                continue
            error = (stored - designed.to(stored)).abs().max().item()
            raise ValueError(
                f"synthesis.{name}.{kind} differs by {error:.2g} from the one that the schedule "
                f"designs, expected at most {FILTER_TOLERANCE}; the file was made with another "
                "schedule than it states (or than the published one): import the snapshot (.pkl) "
                "in place of a state dict"
            )
    return made


def generator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments of our StyleGAN3 for an official generator."""
    layers = layer_sizes(network)
    options = {
        **network.options,
        **section(network.options.get("synthesis_kwargs", {}), "synthesis_kwargs"),
    }
    mapping = mapping_arguments(network, "mapping.")
    kernel = network.shape(f"synthesis.{layers[0][0]}.weight")[-1]
    radial = any(name.endswith("down_filter") and t.ndim == 2 for name, t in network.state.items())
    base, limit = channel_rule([channels for _, _, channels in layers[:-1]], layers[-1][1], options)
    turns = kernel == 1 and radial and base % 2 == limit % 2 == 0
    # Kernels and filters of a known configuration follow from its name.
    named = turns or (kernel == 3 and not radial)
    shared = {name: number(options[name], name) for name in NUMBERS if name in options}
    shared |= {name: integer(options[name], name) for name in COUNTS if name in options}
    clamp, beta = options.get("conv_clamp", 256), options.get("magnitude_ema_beta")
    return {
        "config": "R" if turns else "T",
        "z_dim": mapping["z_dim"],
        "c_dim": mapping["c_dim"],
        "w_dim": mapping["w_dim"],
        "img_resolution": layers[-1][1],
        "img_channels": layers[-1][2],
        "channel_base": base // 2 if turns else base,
        "channel_max": limit // 2 if turns else limit,
        "num_layers": len(layers) - 1,
        "conv_kernel": None if named else kernel,
        "use_radial_filters": None if named else radial,
        "conv_clamp": None if clamp is None else number(clamp, "conv_clamp"),
        "mapping_layers": mapping["num_layers"],
        "mapping_lr_multiplier": mapping["lr_multiplier"],
        "w_avg_beta": mapping["w_avg_beta"],
        "magnitude_ema_beta": None if beta is None else number(beta, "magnitude_ema_beta"),
        **shared,
    }


def layer_sizes(network: Network) -> list[tuple[str, int, int]]:
    """(name, side, channels) of the synthesis layers, read from their names."""
    found = sorted(
        (int(m[2]), m[1], int(m[3]), int(m[4])) for m in map(LAYER.fullmatch, network.state) if m
    )
    if len(found) < 2 or [i for i, *_ in found] != list(range(len(found))):
        raise ValueError(
            "the network has no layers synthesis.L0_.., L1_.., ..; this is not a state dict of "
            "StyleGAN3"
        )
    return [(name, side, channels) for _, name, side, channels in found]


def channel_rule(widths: list[int], resolution: int, options: dict[str, Any]) -> tuple[int, int]:
    """channel_base and channel_max that give these widths: min(channel_base / 2 / cutoff,
    channel_max), rounded.

    If the file states none, channel_base is a number 2^n m that agrees with all widths, with the
    largest n. The widths of the layers are those of the file in any case.
    """
    stated = options.get("channel_base"), options.get("channel_max")
    if stated != (None, None):
        base = integer(options.get("channel_base", 32768), "channel_base")
        return base, integer(stated[1] or 512, "channel_max")
    critical = integer(options.get("num_critical", 2), "num_critical")
    first = number(options.get("first_cutoff", 2.0), "first_cutoff")
    steps = max(1, len(widths) - critical)
    cutoffs = [first * (resolution / 2 / first) ** min(i / steps, 1) for i in range(len(widths))]
    limit = max(widths)
    narrow = [(f_c, width) for f_c, width in zip(cutoffs, widths) if width < limit] or [
        (cutoffs[-1], limit)
    ]
    least = max(2 * f_c * (n - 0.5) for f_c, n in narrow)
    most = min(2 * f_c * (n + 0.5) for f_c, n in narrow)
    for power in range(24, -1, -1):
        base = 2**power * int(least // 2**power + 1)
        if least < base < most:
            return base, limit
    raise ValueError(
        "channels of the layers do not follow min(channel_base / 2 / cutoff, channel_max); give a "
        "snapshot"
    )
