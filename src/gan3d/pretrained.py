"""A trained network on disk: one file that holds only data, or a folder with that file in it.

    heads.safetensors       the tensors, as generator.<name> and discriminator.<name>
    heads/                  model.safetensors   that file
                            config.json         its metadata, to be read by people and by hubs
                            README.md           a card: what it is, how it is loaded

The metadata of the file are texts:

    gan3d_format    1
    gan3d_version   of the gan3d that wrote it
    generator       {"class": "EG3D", "arguments": {"z_dim": 512, ..}}
    discriminator   the same, where there is one
    facts           {..}, whatever else is worth keeping

Only the writing is here, below the generators, so that they have a method for it. Reading needs the
registered classes: `gan3d.checkpoints.portable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from gan3d import __version__
from gan3d.results import write_whole

FORMAT = 1
FORMAT_KEY = "gan3d_format"
VERSION_KEY = "gan3d_version"
SUFFIX = ".safetensors"
# What a folder holds.
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# Files of other formats: a folder of such a name is surely not meant.
FOREIGN = (".bin", ".ckpt", ".json", ".pickle", ".pkl", ".pt", ".pth")


def write_pretrained(
    path: Path | str,
    networks: Mapping[str, nn.Module],
    *,
    facts: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Writes networks with what is needed to make them again; an existing file is replaced in one
    step.

    Args:
        path: `<name>.safetensors` is a file, anything else a folder. A card that is in the folder
            stays as it is: somebody may have added to it.
        networks: by kind, generator and discriminator: class, constructor arguments and state are
            kept.
        facts: more to keep: numbers, texts, lists and dictionaries of them.
        half: keep floating-point tensors as float16, in half the bytes. What is loaded has its own
            dtype again, with weights rounded to 11 bits.

    Returns:
        the path.

    Raises:
        ValueError: the arguments or facts are not data, the path has another format's ending, or a
            weight is too large for float16.
        OSError: nothing can be written there.
    """
    path = Path(path).expanduser()
    metadata = describe(networks, facts or {})
    tensors = {
        f"{kind}.{name}": _kept(name, tensor, half)
        for kind, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    if path.suffix == SUFFIX:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(path, tensors, metadata)
        return path
    if path.is_file() or path.suffix in FOREIGN:
        raise ValueError(
            f"{path} is neither a folder nor a file of this format; end its name in {SUFFIX} for "
            "one file, or give the name of a folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    _write_tensors(path / WEIGHTS, tensors, metadata)
    content = {key: json.loads(text) for key, text in metadata.items() if key != VERSION_KEY}
    _write_text(path / CONFIG, json.dumps({VERSION_KEY: __version__} | content, indent=2) + "\n")
    if not (path / CARD).exists():
        _write_text(path / CARD, card(path.resolve().name, networks, facts or {}))
    return path


def describe(networks: Mapping[str, nn.Module], facts: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of the file."""
    metadata = {
        FORMAT_KEY: str(FORMAT),
        VERSION_KEY: __version__,
        "facts": _json("facts", dict(facts)),
    }
    for kind, network in networks.items():
        name = type(network).__name__
        made = {"class": name, "arguments": network.arguments}
        metadata[kind] = _json(f"the arguments of {name}", made)
    return metadata


def card(name: str, networks: Mapping[str, nn.Module], facts: Mapping[str, Any]) -> str:
    """The README.md of a folder, with the heading that model hubs read."""
    rows = [
        f"| {kind} | {type(network).__name__} | "
        f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} million |"
        for kind, network in networks.items()
    ]
    known = [f"* {key}: {json.dumps(value)}" for key, value in facts.items()]
    return "\n".join(
        [
            "---",
            "library_name: gan3d",
            "pipeline_tag: unconditional-image-generation",
            "tags: [gan, 3d-aware]",
            "---",
            "",
            f"# {name}",
            "",
            "| network | class | parameters |",
            "|---|---|---|",
            *rows,
            "",
            "```python",
            "import gan3d",
            "",
            f'generator = gan3d.from_pretrained("{name}")  # this folder, or user/{name} of a hub',
            "gan3d.picture(gan3d.sample(generator, seeds=range(4))).show()",
            "```",
            *(["", *known] if known else []),
            "",
        ]
    )


def _kept(name: str, tensor: Tensor, half: bool) -> Tensor:
    """A copy of a tensor as the file holds it."""
    kept = tensor.detach().cpu().clone().contiguous()
    if not half or not kept.is_floating_point():
        return kept
    halved = kept.half()
    if not torch.equal(halved.isfinite(), kept.isfinite()):
        largest = float(kept.abs().max())
        raise ValueError(f"{name} holds {largest:.3g}, float16 at most 65504; save without half")
    return halved


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        _replace(path, lambda partial: save_file(tensors, partial, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    def with_usual_permissions(partial: Path) -> None:
        partial.touch()  # safetensors narrows them to the owner
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)

    write_whole(path, with_usual_permissions)


def _json(what: str, value: Any) -> str:
    try:
        return json.dumps(value, default=_fields)
    except TypeError as error:
        raise ValueError(
            f"{what} cannot be written: {error}; a portable file takes numbers, texts, None, "
            "lists, dictionaries, and dataclasses of them"
        ) from error


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass among the arguments, as the dictionary of its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{value!r} is a {type(value).__name__}")
