"""Names of tensors in official files and in ours, as one table that is read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


class Names:
    """Official names and ours, where they differ.

        Names(("siren.network.*.layer.", "siren.network.*."))

    Args:
        rules: pairs of beginnings of names, official and ours; `*` is one word without dots. The
            first rule that fits a name is the one that counts; a name that none fits is the same on
            both sides.
    """

    def __init__(self, *rules: tuple[str, str]):
        self._ours = [(_pattern(official), _template(ours)) for official, ours in rules]
        self._official = [(_pattern(ours), _template(official)) for official, ours in rules]

    def ours(self, name: str) -> str:
        """Our name of an official one."""
        return _renamed(name, self._ours)

    def official(self, name: str) -> str:
        """The official name of ours."""
        return _renamed(name, self._official)

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.ours(name): tensor for name, tensor in state.items()}

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.official(name): tensor for name, tensor in state.items()}


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.escape(beginning).replace(r"\*", r"([^.]+)"))


def _template(beginning: str) -> str:
    words = beginning.split("*")
    return words[0] + "".join(rf"\{i}{word}" for i, word in enumerate(words[1:], 1))


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in rules:
        match = pattern.match(name)
        if match:
            return match.expand(template) + name[match.end() :]
    return name
