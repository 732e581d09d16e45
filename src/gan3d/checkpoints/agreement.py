"""Whether the content of a checkpoint fits the networks that are to go on from it, asked before
anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gan3d import __version__
from gan3d.checkpoints.runs import CONFIG_FORMAT, CONFIG_KEY
from gan3d.pretrained import FORMAT_KEY, VERSION_KEY

MOST_IMAGES = 10**12
NAMED = 3  # problems in a message
# What Lightning and the harness look up.
NEEDED = ("optimizer_states", "loops", "running_means")
MOMENTS = ("exp_avg", "exp_avg_sq")


def refuse_misfit(
    content: Mapping[str, Any],
    expected: Mapping[str, Tensor],
    optimized: Sequence[Sequence[nn.Parameter]] | None = None,
) -> None:
    """Compares a checkpoint with the tensors that a run has.

    Args:
        content: of the checkpoint.
        expected: the state of the run's module.
        optimized: parameters of each of its optimizers; None: they are not needed.

    Raises:
        ValueError: naming the first tensors that do not fit, the format and who wrote it.
    """
    problems = _of_state(content.get("state_dict"), expected)
    if not problems and optimized is not None:
        problems = [f"{key} is missing" for key in NEEDED if key not in content]
        problems = problems or _of_optimizers(content["optimizer_states"], optimized)
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise ValueError(f"{'; '.join(problems[:NAMED])}{more} ({_written_by(content)})")


def _of_state(state: Any, expected: Mapping[str, Tensor]) -> list[str]:
    if not isinstance(state, Mapping):
        return [f"state_dict is {type(state).__name__}, expected a dictionary of tensors"]
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not known" for name in state if name not in expected]
    for name, tensor in expected.items():
        if name in state:
            problems += _of_tensor(name, state[name], tensor)
    if problems:
        return problems
    for name in ("images_seen", "iterations"):
        if name in state and not 0 <= int(state[name]) <= MOST_IMAGES:
            problems.append(f"{name} is {int(state[name])}, expected 0 to {MOST_IMAGES}")
    return problems


def _of_tensor(name: str, value: Any, expected: Tensor) -> list[str]:
    if not isinstance(value, Tensor):
        return [f"{name} is {type(value).__name__}, expected a tensor"]
    if value.shape != expected.shape:
        return [f"{name} has shape {tuple(value.shape)}, expected {tuple(expected.shape)}"]
    if value.is_floating_point() != expected.is_floating_point():
        return [f"{name} has {value.dtype}, expected {expected.dtype}"]
    return []


def _of_optimizers(states: Any, optimized: Sequence[Sequence[nn.Parameter]]) -> list[str]:
    if not isinstance(states, Sequence) or len(states) != len(optimized):
        return [f"optimizer_states is not that of {len(optimized)} optimizers"]
    problems: list[str] = []
    for index, (state, parameters) in enumerate(zip(states, optimized, strict=True)):
        name = f"optimizer_states.{index}"
        try:
            numbers = [n for group in state["param_groups"] for n in group["params"]]
            moments = dict(state["state"])
        except (TypeError, LookupError, ValueError):
            problems.append(f"{name} is not the state of an optimizer")
            continue
        if len(numbers) != len(parameters) or not moments.keys() <= set(numbers):
            problems.append(f"{name} is of {len(numbers)} tensors, expected {len(parameters)}")
            continue
        for number, parameter in zip(numbers, parameters, strict=True):
            of_one = moments.get(number)
            for moment in MOMENTS if of_one is not None else ():
                value = of_one.get(moment) if isinstance(of_one, Mapping) else None
                problems += _of_tensor(f"{name}.state.{number}.{moment}", value, parameter)
    return problems


def _written_by(content: Mapping[str, Any]) -> str:
    try:
        packed = json.loads(content[CONFIG_KEY])
        form, version = int(packed[FORMAT_KEY]), str(packed[VERSION_KEY])[:20]
    except (ValueError, TypeError, LookupError, RecursionError):
        return f"of no known format; this is gan3d {__version__}, which writes {CONFIG_FORMAT}"
    return f"format {form}, written by gan3d {version}; this is gan3d {__version__}"
