"""Files of official code: the networks in a pickled snapshot, or in a plain state dict.

read_network("ffhq512-128.pkl", "G_ema")        # a snapshot, read by `checkpoints.unpickle`, nothing executed
read_network("generator.pt")                    # names and tensors, by torch.load(weights_only=True)
read_network("generator.safetensors")
read_saved("ema.pth")                           # also whole modules and torch_ema's averages, by `checkpoints.archive`
write_state("generator.pt", module)             # for official code
"""

from __future__ import annotations

import os
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
from gan3d.checkpoints.portable import build, from_pretrained, load_discriminator

LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # head of torch.save before torch 1.6
MAX_FACTS = 2000
LARGEST = 2**31
Built = TypeVar("Built", bound=nn.Module)


OfficialStates = Mapping[type, Callable[[Any], Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Network:
    """A network of official code, as data.

    Attributes:
        state: its state dict.
        options: the arguments that it was made with, where the file states them.
        rendering: its present rendering options (EG3D).
        class_name: of the official code; empty where not stated.
        record: its modules with their attributes; None for a plain state dict.
        facts: more of the file that is worth keeping.
    """

    state: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    rendering: Mapping[str, Any] = field(default_factory=dict)
    class_name: str = ""
    record: Record | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise ValueError(
                f"the network has no {name}; this is not a state dict of the kind that was asked "
                "for"
            )
        return tuple(self.state[name].shape)

    def numbered(self, pattern: str) -> list[int]:
        """The numbers in names that begin with a pattern of one group, sorted:
        numbered(r"b([0-9]+)[.]").
        """
        found = (re.match(pattern, name) for name in self.state)
        return sorted({int(match[1]) for match in found if match and len(match[1]) < 6})

    def attribute(self, path: str, name: str, default: Any) -> Any:
        """An attribute of the module at a dotted path; the default where the file does not have
        it.
        """
        module: Any = self.record
        for word in path.split(".") if path else ():
            modules = module.state.get("_modules", {}) if isinstance(module, Record) else {}
            module = modules.get(word) if isinstance(modules, dict) else None
        return module.state.get(name, default) if isinstance(module, Record) else default


@dataclass(frozen=True)
class Average:
    """Weights as torch_ema averages them: those of a network's trained parameters, in order and
    without names.

    Attributes:
        tensors: in the order of the network's parameters.
        facts: its decay and its number of updates, as far as the file states them.
    """

    tensors: Sequence[Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, network: Network, names: Sequence[str]) -> Network:
        """The network with its average's tensors in place of those called `names`, in this
        order.
        """
        if len(self.tensors) != len(names):
            raise ValueError(
                f"the average holds {len(self.tensors)} tensors, expected {len(names)}, the "
                "trained parameters of the network beside it; give the generator of the same run"
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
    """One network of a file.

    Args:
        path: a snapshot (.pkl) or a state dict (.pt, .pth, .safetensors), told apart by their
            content.
        name: of the network: "G", "G_ema" or "D" (a plain state dict has only one, without a name).

    Raises:
        ValueError: the file is refused or broken, or has no such network.
    """
    return read_networks(path, name)[0]


def read_networks(path: Path | str, name: str, *others: str) -> list[Network]:
    """Network `name` of a file, and those of `others` if it is a snapshot; see `read_network`."""
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
    """What official code gave to torch.save: a state dict, a whole module, or an average of
    torch_ema.

    Raises:
        ValueError: the file is none of these, is broken, or asks for more than data; nothing in it
        is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return Network(load_safetensors(path), facts={"source": path.name})
    try:
        content = load_plain(path)
    except (UnsafePickleError, OSError):  # OSError: torch's answer to an archive without an end
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise
        content = load_objects(path)
    return _saved(path, content)


def read_state(path: Path | str) -> Network:
    """A state dict or a whole module of `read_saved`, with names."""
    saved = read_saved(path)
    if isinstance(saved, Average):
        raise ValueError(
            f"{path} is an average of torch_ema, without names; give the file of the network itself"
        )
    return saved


def read_averaged(
    path: Path | str, beside: Path | str | None, trained: Callable[[Network], Sequence[str]]
) -> Network:
    """A network of `read_saved`; an average with the names, and what is not averaged, of the
    network beside it.

    Args:
        path: the file.
        beside: the file of the network whose average it is; None is the same name with "generator"
            for "ema".
        trained: names of the averaged parameters of that network, in order.
    """
    saved = read_saved(path)
    if isinstance(saved, Network):
        return saved
    other = generator_beside(Path(path)) if beside is None else Path(beside)
    if not other.is_file():
        raise ValueError(
            f"{path} is an average without names, and there is no {other} that would tell them; "
            "give --generator, the generator of the same run"
        )
    network = read_state(other)
    if other.suffix == ".safetensors":
        raise ValueError(
            f"{other} does not keep the order of its tensors; give a file of torch.save"
        )
    network = saved.of(network, trained(network))
    return replace(network, facts={**network.facts, "source": Path(path).name})


def generator_beside(path: Path) -> Path:
    """The generator that a file of an average belongs to: generator.pth for ema.pth or ema2.pth."""
    return path.with_name(re.sub(r"ema2?(?=[^/]*$)", "generator", path.name))


def build_official(
    cls: type[Built],
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    absent: Mapping[str, Callable[[torch.Size], Tensor]],
) -> Built:
    """A generator or discriminator with official weights (`portable.build`).

    Args:
        cls: its class.
        arguments: of its constructor.
        state: its state dict, in our names.
        absent: what official code does not store: by the last word of a tensor's name, the tensor
            of a shape.

    Raises:
        ValueError: the state is not one of this class with these arguments.
    """
    try:
        with torch.device("meta"):
            expected = {key: tensor.shape for key, tensor in cls(**arguments).state_dict().items()}
    except Exception as error:
        raise ValueError(
            f"{cls.__name__} can not be made with the sizes of the file: {error}"
        ) from error
    words = {key: key.rpartition(".")[2] for key in expected if key not in state}
    added = {key: absent[word](expected[key]) for key, word in words.items() if word in absent}
    return build({cls.__name__: cls}, cls.__name__, arguments, {**state, **added})


def write_state(path: Path, module: nn.Module) -> Path:
    """Writes a module's state dict for official code: torch.save of names and tensors."""
    return write_tensors(path, module.state_dict())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes names and tensors for official code: torch.save of them."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        torch.save(
            {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, partial
        )
        os.replace(partial, path)
    except RuntimeError as error:  # torch's word for a place that it can not write to
        raise OSError(f"{path} can not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_official(
    file: Path,
    out: Path | None,
    which: Literal["generator", "discriminator"],
    states: OfficialStates,
    owner: str,
) -> str:
    """Writes a network of a portable file as a state dict for official code, and says so.

    Args:
        file: a portable file.
        out: the new file; by default beside `file`, ending in .pth.
        which: of the two networks.
        states: for each class that the official code knows, its state dict in official names.
        owner: whose networks these are, for the error.

    Raises:
        ValueError: the network is of another class.
    """
    module: Any = from_pretrained(file) if which == "generator" else load_discriminator(file)
    for cls, state in states.items():
        if isinstance(module, cls):
            path = write_tensors(beside(file, out, ".pth"), state(module))
            return f"{path}: a state dict of official names"
    raise ValueError(f"{file} holds {type(module).__name__}, none of {owner} networks")


def beside(file: Path, out: Path | None, suffix: str) -> Path:
    """Where a converted file goes: `out`, or the same name with another ending; never the file
    itself.
    """
    path = Path(file).with_suffix(suffix) if out is None else Path(out)
    if path.resolve() == Path(file).resolve():
        raise ValueError(f"{path} would overwrite the file that is read; give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def number(value: Any, name: str) -> float:
    """A number of the file, refused if it is none."""
    if type(value) not in (int, float) or not abs(value) <= LARGEST:
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected a number of "
            "reasonable size"
        )
    return value


def whole(value: Any, name: str) -> int:
    """A count of the file, refused if it is none."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected a count of reasonable "
            "size"
        )
    return value


def section(value: Any, name: str) -> dict[str, Any]:
    """A dictionary of options of the file, refused if it is none."""
    if not isinstance(value, dict):
        raise ValueError(
            f"{name} of the file is of type {type(value).__name__}, expected a dictionary"
        )
    return value


def _network(path: Path, snapshot: Any, name: str) -> Network:
    records = (
        {key: r for key, r in snapshot.items() if isinstance(r, Record)}
        if isinstance(snapshot, dict)
        else {}
    )
    if name not in records:
        raise ValueError(
            f"{path} holds no network {name}; it holds {', '.join(map(str, records)) or 'none'}"
        )
    record = records[name]
    options = section(record.state.get("_init_kwargs", {}), "_init_kwargs")
    rendering = section(
        record.state.get("rendering_kwargs", options.get("rendering_kwargs", {})),
        "rendering_kwargs",
    )
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
    """`read_saved` of the content of a file."""
    record = content if isinstance(content, Record) else None
    inner = content.state if isinstance(content, Record) else content
    if isinstance(inner, dict) and isinstance(inner.get("shadow_params"), (list, tuple)):
        facts = {key: _plain(inner.get(key), [1]) for key in ("decay", "num_updates")}
        return Average(_tensors(path, inner["shadow_params"]), facts)
    facts = {"source": path.name}
    if record is not None and "_modules" in record.state:
        return Network(state_dict(record), class_name=record.class_name, record=record, facts=facts)
    pairs = inner.items() if record is None and isinstance(inner, dict) else ()
    if pairs and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in pairs
    ):
        return Network(dict(pairs), facts=facts)
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
    if not isinstance(inner, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in inner.items()
    ):
        raise ValueError(
            f"{path} is not a state dict: expected names and tensors, under {name} or directly"
        )
    return dict(inner)


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """What JSON can hold of a value of the file; a file may repeat itself without end, so there is
    a budget.
    """
    budget[0] -= 1
    if budget[0] < 0 or depth > 4:
        return None
    if isinstance(value, dict):
        return {
            key: _plain(item, budget, depth + 1)
            for key, item in value.items()
            if isinstance(key, str)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, budget, depth + 1) for item in value[:100]]
    return value if isinstance(value, (str, int, float, bool)) and value == value else None
