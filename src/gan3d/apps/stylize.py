"""Stylization: a generator between a base model and the same model fine-tuned on other pictures.

CIPS-3D section 4.5. For the parameters of some layers,

    parameter <- (1 - gamma) base + gamma target

All other parameters are those of the base. Interpolating all layers fades from one domain to the
other; swapping (gamma = 1) some layers keeps the structure of the base and adopts the look of the
target (Pinkney and Adler 2020). The camera remains free: stylized heads can be turned.

A generator declares its layers in `style_parts`, else in `parts`: name -> prefixes of the names of
its parameters. A part called "mapping" is not a layer: the mapping network is chosen separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gan3d.apps.pictures import grid, sheet, to_uint8
from gan3d.apps.views import render_views
from gan3d.camera import Camera
from gan3d.generators.contract import Generator

MappingOf = Literal["base", "target", "mixed"]
MAPPING = "mapping"


def style_layers(generator: Generator) -> dict[str, tuple[str, ...]]:
    """The layers that can be mixed, in the generator's order: name -> prefixes of parameter names.

    Raises:
        ValueError: the generator declares none.
    """
    layers = {name: starts for name, starts in _declared(generator).items() if name != MAPPING}
    if not layers:
        name = type(generator).__name__
        raise ValueError(
            f"{name} declares no layers to mix; give the class style_parts or parts "
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
    """A copy of the base whose layers are mixed with those of the target.

    Buffers of these layers are mixed like parameters; integer buffers are those of the target if
    gamma is 1, else of the base.

    Args:
        base: the base model; the new one has its arguments, device and dtype. It is not changed.
        target: the fine-tuned model, of the same class and sizes. It is not changed.
        layers: layers to mix, names of `style_layers`; None is all of them.
        gamma: 0 is base, 1 is target (swapping); values above 1 extrapolate.
        mapping: mapping network of the new model, with its mean latents: "base" (as published),
            "target", or "mixed" by gamma.

    Raises:
        ValueError: the two models do not match, or a layer is unknown.
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
    """Names in the state dict of some `style_layers`; None is all of them."""
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
    """Names in the state dict of the mapping network, if it is not the base's."""
    if mapping not in get_args(MappingOf):
        raise ValueError(
            f"mapping {mapping!r} is not known; use one of {', '.join(get_args(MappingOf))}"
        )
    if mapping == "base":
        return ()
    starts = _declared(generator).get(MAPPING)
    if starts is None:
        name = type(generator).__name__
        raise ValueError(f"mapping is {mapping}, but {name} declares no part {MAPPING!r}; use base")
    return tuple(key for key in generator.state_dict() if key.startswith(starts))


def check_alike(base: Generator, target: Generator) -> None:
    """Raises ValueError unless two generators have the same class and the same sizes."""
    ours, theirs = type(base).__name__, type(target).__name__
    if type(base) is not type(target):
        raise ValueError(
            f"base is {ours}, target is {theirs}; only generators of one class can be mixed"
        )
    own = {key: tuple(tensor.shape) for key, tensor in base.state_dict().items()}
    other = {key: tuple(tensor.shape) for key, tensor in target.state_dict().items()}
    for key in own | other:
        if own.get(key) != other.get(key):
            raise ValueError(
                f"base and target are {ours} of different sizes: {key} is {own.get(key)} in base "
                f"and {other.get(key)} in target; the target must be fine-tuned from the base"
            )


def unreachable(base: Generator, target: Generator) -> tuple[str, ...]:
    """Names of tensors that differ between the two, outside of all layers and the mapping network.

    The new model keeps the base's, so layers of the target get other inputs than in training. In
    CIPS-3D there are none but the last color layer, if there is one, because the NeRF is frozen in
    fine-tuning (`--model.run.freeze nerf`).
    """
    starts = tuple(start for part in _declared(base).values() for start in part)
    own, other = base.state_dict(), target.state_dict()
    outside = [key for key in own if not key.startswith(starts)]
    return tuple(key for key in outside if not torch.equal(own[key], other[key].to(own[key])))


def style_sheet(
    models: Sequence[tuple[Generator, float]],
    z: Tensor,
    cameras: Camera,
    *,
    resolution: int | None = None,
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """A sheet of heads of several generators, uint8 [h w 3].

    Rows are z, columns are the views of the first model, of the second, and so on.

    Args:
        models: generators with their truncation, for example base, stylized and target.
        z: [b z_dim].
        cameras: views of each head.
        resolution: resolution of `generator.render`.
        labels: of the models. With them the columns are labeled by model and yaw, and small
            pictures are enlarged.
    """
    columns = []
    for model, truncation in models:
        for k in range(len(cameras)):
            camera = cameras.select([k] * len(z))
            views = render_views(
                model, z, camera, truncation=truncation, resolution=resolution, raw=False
            )
            columns.append(to_uint8(views.image))
    rows = np.stack(columns, axis=1)  # b columns H W 3
    if labels is None:
        return grid(rows.reshape(-1, *rows.shape[2:]), columns=len(columns))
    yaws = cameras.yaw_pitch()[0].tolist()
    heads = [f"head {k}" for k in range(len(rows))]
    return sheet(list(rows), heads, [f"{name} {yaw:+.2f}" for name in labels for yaw in yaws])


def _declared(generator: Generator) -> Mapping[str, tuple[str, ...]]:
    return generator.style_parts or generator.parts


def _between(own: Tensor, other: Tensor, gamma: float) -> Tensor:
    other = other.to(own.device)
    if not own.is_floating_point():
        return other if gamma == 1 else own
    return torch.lerp(own, other.to(own.dtype), gamma)
