"""Translates names of tensors between official files and ours, in both directions by one table."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


class Names:
    """A translation between official names and ours.

        Names(("siren.network.*.layer.", "siren.network.*."))

    Args:
        rules: pairs of prefixes, official and ours; `*` matches one word without dots. The first
            matching rule applies; a name that matches no rule is the same on both sides.
    """

    def __init__(self, *rules: tuple[str, str]):
        self._ours = [(_pattern(official), _template(ours)) for official, ours in rules]
        self._official = [(_pattern(ours), _template(official)) for official, ours in rules]

    def ours(self, name: str) -> str:
        """Translates an official name to ours."""
        return _renamed(name, self._ours)

    def official(self, name: str) -> str:
        """Translates one of our names to the official one."""
        return _renamed(name, self._official)

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with our names."""
        return {self.ours(name): tensor for name, tensor in state.items()}

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with official names."""
        return {self.official(name): tensor for name, tensor in state.items()}


def _pattern(prefix: str) -> re.Pattern[str]:
    return re.compile(re.escape(prefix).replace(r"\*", r"([^.]+)"))


def _template(prefix: str) -> str:
    words = prefix.split("*")
    return words[0] + "".join(rf"\{i}{word}" for i, word in enumerate(words[1:], 1))


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        match = pattern.match(name)
        if match:
            return match.expand(template) + name[match.end() :]
    return name
