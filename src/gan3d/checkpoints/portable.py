"""Trained networks as one file that only holds data: safetensors, with what is needed to make the
modules again.

    save_pretrained("heads.safetensors", generator, discriminator)
    generator = from_pretrained("heads.safetensors")

The file's tensors are `generator.<name>` and `discriminator.<name>`; its metadata are texts:

    gan3d_format    1
    generator       {"class": "EG3D", "arguments": {"z_dim": 512, ..}}
    discriminator   likewise, where there is one
    facts           {..}, whatever else is worth keeping

A class is looked up by name among the registered ones (`gan3d.generators.GENERATORS`), never
imported from the file: a generator of your own package is found once your program has imported it.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS, Generator

FORMAT = 1
FORMAT_KEY = "gan3d_format"
Network = TypeVar("Network", bound=nn.Module)


def save_pretrained(
    path: Path | str,
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a file that `from_pretrained` reads; an existing one is replaced in one step.

    Args:
        path: the file, by custom `<name>.safetensors`.
        generator: its class, constructor arguments and state go into the file.
        discriminator: likewise, if given.
        facts: more to keep: numbers, texts, lists and dictionaries of them.

    Returns:
        the path.
    """
    metadata = {FORMAT_KEY: str(FORMAT), "facts": _json("facts", dict(facts or {}))}
    tensors: dict[str, Tensor] = {}
    for kind, module in (("generator", generator), ("discriminator", discriminator)):
        if module is not None:
            name = type(module).__name__
            metadata[kind] = _json(
                f"the arguments of {name}", {"class": name, "arguments": module.arguments}
            )
            state = module.state_dict()
            tensors |= {
                f"{kind}.{key}": t.detach().cpu().clone().contiguous() for key, t in state.items()
            }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.touch()  # with the usual permissions, which safetensors narrows to the owner
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=metadata)
        partial.chmod(mode)
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{path} can not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def from_pretrained(path: Path | str) -> Generator:
    """The generator of a file, on the CPU and in evaluation mode.

    Raises:
        ValueError: the file is none of ours, or does not fit the class that it names.
    """
    return _read(path, "generator", GENERATORS).eval()


def load_discriminator(path: Path | str) -> Discriminator:
    """The discriminator of a file, on the CPU and in evaluation mode.

    Raises:
        ValueError: the file is none of ours, has no discriminator, or does not fit the class that
        it names.
    """
    return _read(path, "discriminator", DISCRIMINATORS).eval()


def read_facts(path: Path | str) -> dict[str, Any]:
    """What else `save_pretrained` was given."""
    return _parsed(path, "facts", _metadata(path).get("facts", "{}"))


def build(
    registry: Mapping[str, type[Network]],
    name: str,
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Network:
    """A registered class by name, made with arguments and loaded with a state dict.

    The module is first made without memory, and compared with the state: arguments that ask for
    more than the state holds allocate nothing. Torch's global generator is left as it is.

    Raises:
        ValueError: there is no such class, it does not take the arguments, or the state is
        another's.
    """
    cls = registry.get(name)
    if cls is None:
        raise ValueError(
            f"there is no class {name!r} in this program; known: {', '.join(sorted(registry))}. A "
            "class of your own is known once the module that defines it is imported"
        )
    unknown = sorted(set(arguments) - set(inspect.signature(cls).parameters))
    if unknown and not _takes_any(cls):
        raise ValueError(
            f"{name} does not take {', '.join(unknown)}; the file was made by another version of "
            f"{name}"
        )
    try:
        with torch.device("meta"):
            expected = {key: t.shape for key, t in cls(**arguments).state_dict().items()}
    except Exception as error:
        raise ValueError(
            f"{name} can not be made with the arguments of the file: {error}"
        ) from error
    _compare(name, expected, state)
    with torch.random.fork_rng(devices=[]):
        module = cls(**arguments)
    module.load_state_dict(state)
    return module


def _takes_any(cls: type) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())


def _compare(name: str, expected: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is not known" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"the weights are not those of {name} with these arguments: "
            f"{'; '.join(problems[:3])}{more}"
        )


def _read(path: Path | str, kind: str, registry: Mapping[str, type[Network]]) -> Network:
    metadata = _metadata(path)
    if kind not in metadata:
        raise ValueError(f"{path} holds no {kind}; it was saved without one")
    described = _parsed(path, kind, metadata[kind])
    name, arguments = described.get("class"), described.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"{path} is broken: its {kind} has no class or no arguments")
    prefix = f"{kind}."
    with safe_open(path, framework="pt") as file:
        state = {
            key.removeprefix(prefix): file.get_tensor(key)
            for key in list(file.keys())
            if key.startswith(prefix)
        }
    try:
        return build(
            registry, name, {key: _tuples(value) for key, value in arguments.items()}, state
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _metadata(path: Path | str) -> dict[str, str]:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if FORMAT_KEY not in metadata:
        raise ValueError(
            f"{path} was not written by gan3d; weights of official code: gan3d import "
            "(docs/checkpoints.md)"
        )
    if metadata[FORMAT_KEY] != str(FORMAT):
        raise ValueError(
            f"{path} has format {metadata[FORMAT_KEY]!r}, this gan3d reads {FORMAT}; use a newer "
            "gan3d"
        )
    return metadata


def _parsed(path: Path | str, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is broken: {key} of its metadata is not JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is broken: {key} of its metadata is not a dictionary")
    return value


def _json(what: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise ValueError(
            f"{what} can not be written: {error}; a portable file takes numbers, texts, None, "
            "lists and dictionaries"
        ) from error


def _tuples(value: Any) -> Any:
    """JSON has no tuples; sequences among arguments come back as tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
