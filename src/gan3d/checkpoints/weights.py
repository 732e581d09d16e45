"""Starting from other weights: tensors are taken by name where shapes agree, everything else stays
as initialized.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gan3d.checkpoints.models import find_model
from gan3d.checkpoints.plain import load_safetensors
from gan3d.checkpoints.runs import load_content
from gan3d.pretrained import SUFFIX

log = logging.getLogger(__name__)


# Weights that fill less of a network, and of which less is used, are refused unless asked for: they
# are another network's. A first stage fills little of a second one, but all of it is used.
LEAST_SHARE = 0.5


def init_from(
    path: Path | str, networks: Mapping[str, nn.Module], *, partial: bool = False
) -> None:
    """Copies weights into networks, in place, and logs how many of their tensors it filled.

    Args:
        path: a portable file or a training checkpoint of any run, or what stands for one: a run
            folder, user/name of the hub, .. (docs/checkpoints.md, "Models by name").
        networks: by their names in the file: generator, generator_ema, discriminator. A portable
            file has no generator_ema: its generator serves for both.
        partial: accept weights that fill less than half of a network, and of which less than half
            is used.

    Raises:
        ValueError: the file cannot be read, or is another network's.
    """
    weights = _read(path)
    for name, network in networks.items():
        source = name
        if not any(key.startswith(f"{name}.") for key in weights):
            source = name.removesuffix("_ema")
        prefix = f"{source}."
        offered = {
            key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)
        }
        if not offered:
            log.warning("%s holds no %s: it starts from its own initial weights", path, source)
            continue

        own = network.state_dict()
        taken = {key: t for key, t in offered.items() if key in own and own[key].shape == t.shape}
        left = sorted(own.keys() - taken.keys())
        listed = ", ".join(left[:5]) + (", .." if len(left) > 5 else "")
        share = sum(own[key].numel() for key in taken) / sum(t.numel() for t in own.values())
        used = sum(t.numel() for t in taken.values()) / sum(t.numel() for t in offered.values())
        count = f"{len(taken)} of {len(own)} tensors ({share:.0%} of the numbers)"
        if not taken or (max(share, used) < LEAST_SHARE and not partial):
            raise ValueError(
                f"{path} fills {count} of the {name} of this run; expected at least "
                f"{LEAST_SHARE:.0%}: is it another class or size? Not filled: {listed}. To start "
                "from these all the same: --model.run.init_partial true"
            )
        network.load_state_dict(taken, strict=False)
        rest = f"; at their initial values: {listed}" if left else ""
        log.warning("%s starts from %s: %s%s", name, path, count, rest)


@torch.no_grad()
def copy_frozen(network: nn.Module, average: nn.Module, trained: Container[nn.Parameter]) -> None:
    """Gives a network its average's weights wherever it is not trained."""
    for kept, own in zip(average.parameters(), network.parameters(), strict=True):
        if own not in trained:
            own.copy_(kept)


def _read(model: Path | str) -> dict[str, Tensor]:
    path = find_model(model)
    try:
        if path.suffix == SUFFIX:
            return load_safetensors(path)
        return load_content(path)["state_dict"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is neither a portable file nor a training checkpoint of gan3d: {error}"
        ) from error
