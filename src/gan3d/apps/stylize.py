"""Stylization: a generator between a base model and the same model fine-tuned on other pictures
(CIPS-3D section 4.5).

    parameter <- (1 - gamma) base + gamma target        for the parameters of some layers, all others are base's

Interpolating all layers fades from one domain to the other; swapping (gamma = 1) some of them keeps
the structure of the base and takes the look of the target (Pinkney and Adler 2020). The camera
stays free: stylized heads still turn.

What a layer is, the generator says: `style_parts`, else `parts`, by name the beginnings of its
parameters' names. A part called "mapping" is no layer: whose mapping network is used is a choice of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gan3d.apps.pictures import grid, to_uint8
from gan3d.apps.views import render_views
from gan3d.camera import Camera
from gan3d.generators.contract import Generator

MappingOf = Literal["base", "target", "mixed"]
MAPPING = "mapping"


def style_layers(generator: Generator) -> dict[str, tuple[str, ...]]:
    """The layers that can be mixed, in the generator's order: name -> beginnings of parameter
    names.

    Raises:
        ValueError: the generator declares none.
    """
    layers = {name: starts for name, starts in _declared(generator).items() if name != MAPPING}
    if not layers:
        name = type(generator).__name__
        raise ValueError(
            f"{name} names no layers to mix; give the class style_parts or parts "
            "(generators/contract.py)"
        )
    return layers


@torch.no_grad()
def stylize(
    base: Generator,
    target: Generator,
    layers: Sequence[str] | None = None,
    *,
    gamma: float = 0.5,
    mapping: MappingOf = "base",
) -> Generator:
    """A new generator between two: base's but for some layers, which are (1 - gamma) base + gamma
    target.

    Buffers of these layers are mixed like parameters; whole numbers are the target's where gamma is
    1.

    Args:
        base: the model whose structure, arguments, device and dtype the new one has; stays as it
            is.
        target: the fine-tuned model, of the same class and sizes; stays as it is.
        layers: names from `style_layers`; None is all of them.
        gamma: 0 is base, 1 is target (swapping); above 1 exaggerates.
        mapping: whose mapping network: "base" as published, "target", or "mixed" by gamma. Its mean
            latents come along.

    Raises:
        ValueError: the two do not fit, or a layer is not known.
    """
    check_alike(base, target)
    own, other = base.state_dict(), target.state_dict()
    names = style_names(base, layers)
    mixed = own | {key: _between(own[key], other[key], gamma) for key in names}
    share = gamma if mapping == "mixed" else 1.0
    mixed |= {key: _between(own[key], other[key], share) for key in mapping_names(base, mapping)}
    stylized = deepcopy(base)
    stylized.load_state_dict(mixed)
    return stylized


def style_names(generator: Generator, layers: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names in the state dict of some `style_layers`, of all of them for None."""
    known = style_layers(generator)
    chosen = tuple(known) if layers is None else tuple(layers)
    wrong = [name for name in chosen if name not in known]
    if wrong or not chosen:
        hint = "; the mapping network is chosen with `mapping`" if MAPPING in wrong else ""
        got = ", ".join(wrong) or "none"
        raise ValueError(
            f"layers of {type(generator).__name__}: got {got}, expected some of "
            f"{', '.join(known)}{hint}"
        )
    starts = tuple(start for name in chosen for start in known[name])
    return tuple(key for key in generator.state_dict() if key.startswith(starts))


def mapping_names(generator: Generator, mapping: MappingOf) -> tuple[str, ...]:
    """Names in the state dict of what `mapping` takes from the target: none for "base"."""
    if mapping not in get_args(MappingOf):
        raise ValueError(
            f"mapping {mapping!r} is not known; use one of {', '.join(get_args(MappingOf))}"
        )
    if mapping == "base":
        return ()
    starts = _declared(generator).get(MAPPING)
    if starts is None:
        name = type(generator).__name__
        raise ValueError(
            f"mapping is {mapping}, but {name} names no part {MAPPING!r} to choose; use base"
        )
    return tuple(key for key in generator.state_dict() if key.startswith(starts))


def check_alike(base: Generator, target: Generator) -> None:
    """Refuses two generators that have not the same class and the same sizes."""
    ours, theirs = type(base).__name__, type(target).__name__
    if type(base) is not type(target):
        raise ValueError(
            f"base is {ours}, target is {theirs}; only generators of one class can be mixed"
        )
    own, other = (
        {key: tuple(t.shape) for key, t in model.state_dict().items()} for model in (base, target)
    )
    for key in own | other:
        if own.get(key) != other.get(key):
            raise ValueError(
                f"base and target are {ours} of different sizes: {key} is {own.get(key)} in base "
                f"and {other.get(key)} in target; the target must be fine-tuned from the base"
            )


def unreachable(base: Generator, target: Generator) -> tuple[str, ...]:
    """Names in the state dict that differ between the two and belong to no layer nor to the mapping
    network.

    They stay base's, so that layers of the target meet other inputs than they were trained with. In
    CIPS-3D the NeRF of a fine-tuned model is base's (`--model.freeze nerf`), and there are none but
    the last color layer, if there is one.
    """
    starts = tuple(start for every in _declared(base).values() for start in every)
    own, other = base.state_dict(), target.state_dict()
    outside = [key for key in own if not key.startswith(starts)]
    return tuple(key for key in outside if not torch.equal(own[key], other[key].to(own[key])))


def style_sheet(
    models: Sequence[tuple[Generator, float]],
    z: Tensor,
    cameras: Camera,
    *,
    resolution: int | None = None,
) -> np.ndarray:
    """Heads of several generators beside each other, uint8 [h w 3]: a row per z, in it model by
    model every view.

    Args:
        models: generators with the truncation of each, for example base, stylized and target.
        z: [b z_dim].
        cameras: the views of a head.
        resolution: of `generator.render`.
    """
    columns = [
        to_uint8(
            render_views(
                model,
                z,
                cameras.select([k] * len(z)),
                truncation=truncation,
                resolution=resolution,
                raw=False,
            ).image
        )
        for model, truncation in models
        for k in range(len(cameras))
    ]
    return grid(np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:]), columns=len(columns))


def _declared(generator: Generator) -> Mapping[str, tuple[str, ...]]:
    return generator.style_parts or generator.parts


def _between(own: Tensor, other: Tensor, gamma: float) -> Tensor:
    other = other.to(own.device)
    if not own.is_floating_point():
        return other if gamma == 1 else own
    return torch.lerp(own, other.to(own.dtype), gamma)
