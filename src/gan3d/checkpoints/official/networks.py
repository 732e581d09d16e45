"""Reads and writes the networks of official files; nothing in a file is executed.

# a pickled snapshot, read by `official.unpickle`
read_network("ffhq512-128.pkl", "G_ema")
# names and tensors, by torch.load(weights_only=True) or safetensors
read_network("generator.pt")
read_network("generator.safetensors")
# also whole modules and averages of torch_ema, by `official.archive`
read_saved("ema.pth")
# for official code
write_state("generator.pt", module)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from gan3d.checkpoints.official.archive import load_objects
from gan3d.checkpoints.official.records import Record, StridedTensor, UnsafePickleError, copies
from gan3d.checkpoints.official.unpickle import load, state_dict
from gan3d.checkpoints.plain import load_plain, load_safetensors
from gan3d.checkpoints.portable import build, load_discriminator, load_generator
from gan3d.results import refuse_existing, write_whole

LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # header of torch.save before 1.6
MAX_FACTS = 2000
LARGEST = 2**31
Built = TypeVar("Built", bound=nn.Module)
# A function per class that returns a module's state dict in official names.
OfficialStates = Mapping[type, Callable[[Any], Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Network:
    """A network of official code, as data.

    Attributes:
        state: its state dict.
        options: its constructor arguments; empty if the file does not state them.
        rendering: its current rendering options (EG3D).
        class_name: its class in the official code; empty if the file does not state it.
        record: its modules with their attributes; None for a plain state dict.
        facts: other facts of the file that are worth keeping.
    """

    state: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    rendering: Mapping[str, Any] = field(default_factory=dict)
    class_name: str = ""
    record: Record | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises ValueError if there is none of that name."""
        if name not in self.state:
            raise ValueError(
                f"the network has no {name}; this is not a state dict of the expected network"
            )
        return tuple(self.state[name].shape)

    def numbered(self, pattern: str) -> list[int]:
        """The sorted numbers in names that match a pattern with one group: r"b([0-9]+)[.]"."""
        found = (re.match(pattern, name) for name in self.state)
        return sorted({int(match[1]) for match in found if match and len(match[1]) < 6})

    def attribute(self, path: str, name: str, default: Any) -> Any:
        """An attribute of the module at a dotted path; the default if the file lacks it."""
        module: Any = self.record
        for word in path.split(".") if path else ():
            modules = module.state.get("_modules", {}) if isinstance(module, Record) else {}
            module = modules.get(word) if isinstance(modules, dict) else None
        return module.state.get(name, default) if isinstance(module, Record) else default


@dataclass(frozen=True)
class Average:
    """Weights averaged by torch_ema: a network's trained parameters, in order, without names.

    Attributes:
        tensors: the averages, in the order of the network's parameters.
        facts: decay and number of updates, if the file states them.
    """

    tensors: Sequence[Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, network: Network, names: Sequence[str]) -> Network:
        """The network with its parameters `names` replaced by the tensors of the average.

        Raises:
            ValueError: number or shapes of the tensors do not match.
        """
        if len(self.tensors) != len(names):
            raise ValueError(
                f"the average holds {len(self.tensors)} tensors, expected {len(names)}, the number "
                "of trained parameters of the network; give the generator of the same run"
            )
        for i, (name, tensor) in enumerate(zip(names, self.tensors)):
            if tuple(tensor.shape) != network.shape(name):
                raise ValueError(
                    f"tensor {i} of the average has shape {tuple(tensor.shape)}, expected "
                    f"{network.shape(name)} of {name}; give the generator of the same run"
                )
        state = {**network.state, **dict(zip(names, self.tensors))}
        return replace(network, state=state, facts={**network.facts, "average": dict(self.facts)})


def read_network(path: Path | str, name: str = "G_ema") -> Network:
    """Reads one network of a file.

    Args:
        path: a snapshot (.pkl) or a state dict (.pt, .pth, .safetensors), distinguished by their
            content.
        name: name of the network: "G", "G_ema" or "D". A plain state dict has a single network
            without a name.

    Raises:
        ValueError: the file is refused or broken, or has no such network.
    """
    return read_networks(path, name)[0]


def read_networks(path: Path | str, name: str, *others: str) -> list[Network]:
    """Reads network `name`, and the networks `others` of a snapshot; see `read_network`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with path.open("rb") as file:
        head = file.read(len(LEGACY_TORCH))
    if path.suffix == ".safetensors":
        return [Network(load_safetensors(path))]
    if head[:2] == b"PK" or head == LEGACY_TORCH:
        return [Network(_torch_state(path, name))]
    return [_network(path, load(path), wanted) for wanted in (name, *others)]


def read_saved(path: Path | str) -> Network | Average:
    """Reads a file of torch.save: a state dict, a whole module, or an average of torch_ema.

    Raises:
        ValueError: the file is none of these, is broken, or asks for more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return Network(load_safetensors(path), facts={"source": path.name})
    try:
        content = load_plain(path)
    except (UnsafePickleError, OSError):  # OSError: torch raises it for truncated archives
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise
        content = load_objects(path)
    return _saved(path, content)


def read_state(path: Path | str) -> Network:
    """Reads a state dict or a whole module; see `read_saved`."""
    saved = read_saved(path)
    if isinstance(saved, Average):
        raise ValueError(
            f"{path} is an average of torch_ema, without names; give the file of the network itself"
        )
    return saved


def read_averaged(
    path: Path | str, beside: Path | str | None, trained: Callable[[Network], Sequence[str]]
) -> Network:
    """Reads a network or an average of `read_saved`.

    An average gets its names, and the tensors that are not averaged, from the file of the network.

    Args:
        path: the file.
        beside: the file of the averaged network; None is `path` with "generator" for "ema" in its
            name.
        trained: returns the names of the averaged parameters of that network, in order.
    """
    saved = read_saved(path)
    if isinstance(saved, Network):
        return saved

    other = generator_beside(Path(path)) if beside is None else Path(beside)
    if not other.is_file():
        raise ValueError(
            f"{path} is an average without names, and there is no {other} to read them from; give "
            "--generator, the generator of the same run"
        )
    network = read_state(other)
    if other.suffix == ".safetensors":
        raise ValueError(
            f"{other} does not keep the order of its tensors; give a file of torch.save"
        )
    network = saved.of(network, trained(network))
    return replace(network, facts={**network.facts, "source": Path(path).name})


def generator_beside(path: Path) -> Path:
    """The file of the generator beside its average: generator.pth for ema.pth or ema2.pth."""
    return path.with_name(re.sub(r"ema2?(?=[^/]*$)", "generator", path.name))


def build_official(
    cls: type[Built],
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    absent: Mapping[str, Callable[[torch.Size], Tensor]],
) -> Built:
    """Builds a generator or discriminator with official weights (`portable.build`).

    Args:
        cls: its class.
        arguments: its constructor arguments.
        state: its state dict, in our names.
        absent: makes the tensors that official code does not store: last word of the name ->
            function of the shape.

    Raises:
        ValueError: the state does not fit the class with these arguments.
    """
    try:
        with torch.device("meta"):
            expected = {key: tensor.shape for key, tensor in cls(**arguments).state_dict().items()}
    except Exception as error:
        raise ValueError(
            f"{cls.__name__} cannot be made with the sizes of the file: {error}"
        ) from error

    words = {key: key.rpartition(".")[2] for key in expected if key not in state}
    added = {key: absent[word](expected[key]) for key, word in words.items() if word in absent}
    return build({cls.__name__: cls}, cls.__name__, arguments, {**state, **added})


def write_state(path: Path, module: nn.Module) -> Path:
    """Writes a module's state dict for official code: torch.save of names and tensors."""
    return write_tensors(path, module.state_dict())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes names and tensors for official code by torch.save, atomically."""
    copied = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    try:
        return write_whole(path, lambda partial: torch.save(copied, partial))
    except RuntimeError as error:  # torch raises it for paths that cannot be written
        raise OSError(f"{path} cannot be written: {error}") from error


def write_official(
    file: Path,
    out: Path | None,
    which: Literal["generator", "discriminator"],
    states: OfficialStates,
    owner: str,
    *,
    overwrite: bool = False,
) -> str:
    """Writes a network of a portable file as a state dict for official code.

    Args:
        file: a portable file.
        out: the new file; by default beside `file`, ending in .pth.
        which: network to write.
        states: for each class of the official code, a function that returns its state dict in
            official names.
        owner: name of the method in the possessive, for the error.
        overwrite: replace a file that is there.

    Returns:
        A message for the user.

    Raises:
        ValueError: the network is of another class.
    """
    path = beside(file, out, ".pth", overwrite)
    module: Any = load_generator(file) if which == "generator" else load_discriminator(file)
    for cls, state in states.items():
        if isinstance(module, cls):
            return f"{write_tensors(path, state(module))}: a state dict of official names"
    raise ValueError(f"{file} holds {type(module).__name__}, none of {owner} networks")


def beside(file: Path, out: Path | None, suffix: str, overwrite: bool) -> Path:
    """The path of a converted file: `out`, or `file` with another suffix.

    Raises:
        ValueError: this is `file` itself, or it is there and not to be replaced.
    """
    path = Path(file).with_suffix(suffix) if out is None else Path(out)
    if path.resolve() == Path(file).resolve():
        raise ValueError(f"{path} would overwrite the file that is read; give another --out")
    refuse_existing([path], overwrite)
    return path


def number(value: Any, name: str) -> float:
    """Checks a number of the file."""
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected a number of "
            "reasonable size"
        )
    return value


def integer(value: Any, name: str) -> int:
    """Checks an integer of the file, at least 0."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected an integer of "
            "reasonable size"
        )
    return value


def section(value: Any, name: str) -> dict[str, Any]:
    """Checks a dictionary of options of the file."""
    if not isinstance(value, dict):
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected a dictionary"
        )
    return value


def _network(path: Path, snapshot: Any, name: str) -> Network:
    """One network of the content of a snapshot."""
    content = snapshot if isinstance(snapshot, dict) else {}
    records = {key: value for key, value in content.items() if isinstance(value, Record)}
    if name not in records:
        raise ValueError(
            f"{path} holds no network {name}; it holds {', '.join(map(str, records)) or 'none'}"
        )
    record = records[name]

    # options
    options = section(record.state.get("_init_kwargs", {}), "_init_kwargs")
    rendering = record.state.get("rendering_kwargs", options.get("rendering_kwargs", {}))
    rendering = section(rendering, "rendering_kwargs")

    # facts
    budget = [MAX_FACTS]
    kept = {
        "source": f"official snapshot, {name}",
        "rendering_kwargs": _plain(rendering, budget),
        "training_set_kwargs": _plain(snapshot.get("training_set_kwargs"), budget),
    }
    augment = snapshot.get("augment_pipe")
    if isinstance(augment, Record):
        p = state_dict(augment).get("p")
        kept["ada_p"] = None if p is None or p.numel() != 1 else float(p)
    facts = {key: value for key, value in kept.items() if value}

    return Network(state_dict(record), options, rendering, record.class_name, record, facts)


def _saved(path: Path, content: Any) -> Network | Average:
    """The network or average of the content of a file, for `read_saved`."""
    record = content if isinstance(content, Record) else None
    inner = content.state if isinstance(content, Record) else content

    # an average
    if isinstance(inner, dict) and isinstance(inner.get("shadow_params"), (list, tuple)):
        facts = {key: _plain(inner.get(key), [1]) for key in ("decay", "num_updates")}
        return Average(_tensors(path, inner["shadow_params"]), facts)

    # a module
    facts = {"source": path.name}
    if record is not None and "_modules" in record.state:
        return Network(state_dict(record), class_name=record.class_name, record=record, facts=facts)

    # a state dict
    if record is None and isinstance(inner, dict) and inner and _is_state_dict(inner):
        return Network(dict(inner), facts=facts)

    kind = record.class_name if record is not None else type(content).__name__
    raise ValueError(
        f"{path} holds a {kind[:80]}; expected a state dict, a module, or an average of torch_ema "
        "(generator.pth, G_ema.pth, ema.pth, ..)"
    )


def _tensors(path: Path, items: Sequence[Any]) -> list[Tensor]:
    if all(isinstance(item, Tensor) for item in items):
        return list(items)
    if not all(type(item) is StridedTensor for item in items):
        raise ValueError(f"{path} is broken: its shadow_params are not tensors")
    return copies(items)


def _torch_state(path: Path, name: str) -> dict[str, Tensor]:
    content = load_plain(path)
    inner = content.get(name, content) if isinstance(content, dict) else content
    if not isinstance(inner, dict) or not _is_state_dict(inner):
        raise ValueError(
            f"{path} is not a state dict: expected names and tensors, under {name} or directly"
        )
    return dict(inner)


def _is_state_dict(content: dict) -> bool:
    return all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """The part of a value that JSON can hold, within a budget of items.

    The budget is needed because a small file can describe a huge value.
    """
    budget[0] -= 1
    if budget[0] < 0 or depth > 4:
        return None
    if isinstance(value, dict):
        pairs = [(key, item) for key, item in value.items() if isinstance(key, str)]
        return {key: _plain(item, budget, depth + 1) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        return [_plain(item, budget, depth + 1) for item in value[:100]]
    return value if isinstance(value, (str, int, float, bool)) and value == value else None
