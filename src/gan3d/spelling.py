"""Misspelt names: the nearest right ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> list[str]:
    """The closest of some known words: the best one, and those about as good; none where nothing is
    near.

    Example:
        >>> closest("eg3d_head32", ["eg3d_heads32", "eg3d_ffhq512", "pigan_heads32"])
        ['eg3d_heads32']
    """
    found = difflib.get_close_matches(word, list(dict.fromkeys(known)), 3, 0.6)
    likeness = {k: difflib.SequenceMatcher(None, k, word).ratio() for k in found}
    return [k for k in found if likeness[k] > likeness[found[0]] - 0.1]


def did_you_mean(names: Iterable[str], like: str = "{}") -> str:
    """A question after some names; nothing where there are none.

    Args:
        names: what may have been meant.
        like: how a name is shown, such as "--{}".

    Example:
        >>> did_you_mean(["gamma", "beta"], "--{}")
        'did you mean --gamma or --beta?'
    """
    shown = " or ".join(like.format(name) for name in names)
    return f"did you mean {shown}?" if shown else ""
