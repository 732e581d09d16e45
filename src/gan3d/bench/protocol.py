"""What numbers follow from, and its hash: numbers of different hashes are never ranked together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan3d.bench.suites import Suite
from gan3d.data.dataset import PosedImages
from gan3d.data.fingerprint import fingerprint
from gan3d.metrics.features import ScriptedFeatures

# Of the code that makes numbers of pictures; a change of what they mean is another one.
VERSION = 1


def protocol_of(suite: Suite, reals: PosedImages, networks: Mapping[str, nn.Module]) -> dict:
    """All that the values of a suite follow from, beside the model: plain values.

    Args:
        suite: as it is measured.
        reals: the real images, with their labels if they have any.
        networks: feature networks, by name.
    """
    return {
        "version": VERSION,
        "real": fingerprint(reals),
        "real_resolution": reals.resolution,
        "resize_filter": suite.resize_filter,
        "measures": list(suite.measures),
        "features": {name: network_hash(network) for name, network in networks.items()},
        "num_fakes": suite.num_fakes,
        "num_heads": suite.num_heads,
        "num_scenes": suite.num_scenes,
        "fit_steps": suite.fit_steps,
        "seed": suite.seed,
        "cameras": "none" if reals.labels is None else "labels of the real images",
        "conditioning": ["same", suite.conditioning],
        "truncation": suite.truncation,
        "noise": "constant",
        "resamples": suite.resamples,
        "precision": "float32",
    }


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol as canonical JSON, 64 hexadecimal digits.

    Example:
        >>> protocol_hash({"seed": 0, "num": 2}) == protocol_hash({"num": 2, "seed": 0})
        True
    """
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def network_hash(network: nn.Module) -> str:
    """SHA-256 of the names, shapes and numbers of a network; of a TorchScript file, which is a
    program too, of all its bytes.
    """
    digest = hashlib.sha256(type(network).__name__.encode())
    if isinstance(network, ScriptedFeatures):
        digest.update(json.dumps([network.flags, network.rounded], sort_keys=True).encode())
        digest.update(Path(network.path).read_bytes())
        return digest.hexdigest()
    for name, tensor in sorted(network.state_dict().items()):
        numbers = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {numbers.dtype} {tuple(numbers.shape)}".encode())
        digest.update(numbers.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def protocol_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two protocols: "name: this / that"."""
    return list(_differences(one, other, ""))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{prefix}{name}.")
        elif isinstance(a, list) and isinstance(b, list) and set(a) != set(b):
            alone = [[str(x) for x in one if x not in two] for one, two in ((a, b), (b, a))]
            yield f"{prefix}{name}: {' / '.join(', '.join(some) or 'none' for some in alone)}"
        elif a != b:
            yield f"{prefix}{name}: {_short(a)} / {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value).strip('"')
    return text if len(text) <= 24 else f"{text[:10]}.."
