"""Trained networks as one file that only holds data: safetensors, with what is needed to make the
modules again. What is in it, and how it is written: `gan3d.pretrained`.

    save_pretrained("heads.safetensors", generator, discriminator)
    generator = load_generator("heads.safetensors")

Arguments that are dataclasses stand as dictionaries in the file; the type hints of the constructor
tell which dataclass to make of one.

A class is looked up by name among the registered ones (`gan3d.generators.GENERATORS`), never
imported from the file: a generator of your own package is found once your program has imported it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of

from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS, Generator
from gan3d.pretrained import FORMAT, FORMAT_KEY
from gan3d.spelling import closest, did_you_mean
from gan3d.zoo.models import SHIPPED

Network = TypeVar("Network", bound=nn.Module)
MOST_LAYERS = 1000  # that a file may ask for; published models have up to 16


def save_pretrained(
    path: Path | str,
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Writes a trained network, as `from_pretrained` reads it: `generator.save_pretrained(path)` is
    the same.

    Args:
        path: a file by the name of `<name>.safetensors`, else a folder: model.safetensors,
            config.json, README.md.
        generator: its class, constructor arguments and state are kept.
        discriminator: kept with it, if given.
        facts: more to keep: numbers, texts, lists and dictionaries of them.
        half: keep weights as float16, in half the bytes; loaded they are float32 again.

    Returns:
        the path.

    Example:
        >>> import gan3d
        >>> generator = gan3d.EG3D(**gan3d.EG3D.tiny)
        >>> path = gan3d.save_pretrained("heads.safetensors", generator, facts={"kimg": 200})
        >>> type(gan3d.from_pretrained(path)).__name__
        'EG3D'
    """
    return generator.save_pretrained(path, discriminator, facts=facts, half=half)


def load_generator(path: Path | str) -> Generator:
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
    *,
    trusted: bool = False,
) -> Network:
    """A registered class by name, made with arguments and loaded with a state dict.

    The module is first made without memory, and compared with the state: arguments that ask for
    more than the state holds allocate nothing. Torch's global generator is left as it is.

    Args:
        registry: the classes.
        name: of one of them.
        arguments: of its constructor, as they come from JSON.
        state: its state dict.
        trusted: it came with gan3d, and is made at once: making it without memory imports
            torch's compiler, which takes more than a second.

    Raises:
        ValueError: there is no such class, it does not take the arguments, or the state is
        another's.
    """
    cls, made_with = class_and_arguments(registry, name, arguments)
    for key, value in arguments.items():
        if key.endswith(("layers", "blocks")) and isinstance(value, int) and value > MOST_LAYERS:
            raise ValueError(f"{name} with {key} {value} is not made; {MOST_LAYERS} at most")
    if not trusted:
        try:
            with torch.device("meta"), _few_parts(100 * (len(state) + 100)):
                expected = {key: t.shape for key, t in cls(**made_with).state_dict().items()}
        except Exception as error:
            raise ValueError(
                f"{name} cannot be made with the arguments of the file: {error}"
            ) from error
        _compare(name, expected, state)
    with torch.random.fork_rng(devices=[]):
        module = cls(**made_with)
    module.load_state_dict(state)
    return module


@contextmanager
def _few_parts(most: int) -> Iterator[None]:
    """Ends the making of modules that have far more parts than their file has tensors."""
    parts = count()

    def another(*_: Any) -> None:
        if next(parts) >= most:
            raise ValueError(f"they ask for more than {most} parts, which the file does not hold")

    hooks = [
        register(another)
        for register in (
            hooks_of.register_module_module_registration_hook,
            hooks_of.register_module_parameter_registration_hook,
            hooks_of.register_module_buffer_registration_hook,
        )
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def class_and_arguments(
    registry: Mapping[str, type[Any]], name: str, arguments: Mapping[str, Any]
) -> tuple[type[Any], dict[str, Any]]:
    """A registered class by name, and its arguments as it takes them: sequences are tuples, and a
    dictionary is made the dataclass that the constructor asks for.

    Raises:
        ValueError: there is no such class, or it does not take the arguments.
    """
    cls = registry.get(name)
    if cls is None:
        raise ValueError(
            f"there is no class {name!r} in this program; known: {', '.join(sorted(registry))}. A "
            "class of your own is known once the module that defines it is imported"
        )
    _refuse_unknown(name, arguments, [] if _takes_any(cls) else inspect.signature(cls).parameters)
    # Type hints are compiled, which a watcher of executed code sees: only where they are needed.
    if not any(isinstance(value, (list, Mapping)) for value in arguments.values()):
        return cls, dict(arguments)
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for base in reversed(cls.__mro__):  # a class with **options hands them to its base
        constructor = vars(base).get("__init__", object.__init__)
        parameters = inspect.signature(constructor).parameters
        hints |= _hints(constructor)
        defaults |= {key: parameter.default for key, parameter in parameters.items()}
    return cls, {
        key: as_asked(value, hints.get(key), defaults.get(key)) for key, value in arguments.items()
    }


def _takes_any(cls: type) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())


def _refuse_unknown(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuses arguments that are not among the known ones; nothing known is anything taken."""
    unknown = sorted(set(given) - set(known)) if known else []
    if unknown:
        near = did_you_mean(closest(unknown[0], known)) or f"it takes {', '.join(known)}"
        raise ValueError(f"{name} does not take {', '.join(unknown)}; {near}")


def _hints(function: Any) -> dict[str, Any]:
    """Type hints; none where they name what only a type checker sees."""
    try:
        return get_type_hints(function)
    except NameError:
        return {}


def as_asked(value: Any, hint: Any = None, default: Any = None) -> Any:
    """A value as it comes from JSON or YAML, as the object that a type hint asks for.

    Sequences become tuples, dictionaries dataclasses, and {class_path, init_args} an object of a
    class derived from the hint's, found by its name: no module is imported.

    Args:
        value: plain values.
        hint: type of the argument; None keeps plain values.
        default: of the argument; its fields stand in for those that a dictionary leaves out.

    Raises:
        ValueError: a name is not known, or a class does not take its arguments.
    """
    inner = [kind for kind in (hint, *get_args(hint)) if kind is not None]
    if isinstance(value, (list, tuple)):
        items = [
            arg for kind in inner for arg in get_args(kind) if get_origin(kind) in (list, tuple)
        ]
        return tuple(as_asked(item, *items[:1]) for item in value)
    if not isinstance(value, Mapping):
        return value

    asked = [kind for kind in inner if isinstance(kind, type)]
    if "class_path" in value:
        return _derived(value, asked)
    kind = next(filter(is_dataclass, asked), None)
    if kind is None:
        return {key: as_asked(item) for key, item in value.items()}
    _refuse_unknown(kind.__name__, value, [field.name for field in fields(kind)])
    hints = _hints(kind)
    given = {
        key: as_asked(item, hints.get(key), getattr(default, key, None))
        for key, item in value.items()
    }
    try:
        return replace(default, **given) if isinstance(default, kind) else kind(**given)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} cannot be made of {dict(value)}: {error}") from error


def _derived(section: Mapping[str, Any], bases: Iterable[type]) -> Any:
    """An object of {class_path, init_args}, its class being one of some bases or of theirs."""
    classes: dict[str, type] = {}
    queue = [base for base in bases if base is not type(None)]
    while queue:
        cls = queue.pop()
        classes[cls.__name__] = cls
        queue += cls.__subclasses__()
    name = str(section["class_path"]).rpartition(".")[2]
    cls, arguments = class_and_arguments(classes, name, section.get("init_args") or {})
    return cls(**arguments)


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
        return build(registry, name, arguments, state, trusted=Path(path).parent == SHIPPED)
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
