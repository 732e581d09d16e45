"""The verb `models`: trained models that come with gan3d."""

from __future__ import annotations

from gan3d.zoo.models import Card, list_models, read_card

# Scores in the list, as far as a card has them: key of the card, heading.
SCORES = {
    "distance": "distance",
    "body_convex": "bodies",
    "face_convex": "faces",
    "turn": "turn",
}


def print_models(pattern: str = "*") -> int:
    """Lists the trained models that come with gan3d, with their scores.

    Every verb takes such a name for MODEL, and in Python `gan3d.from_pretrained`.

    Args:
        pattern: names to list: * is anything, ? one letter.
    """
    names = list_models(pattern, pretrained=True)
    if not names:
        print(f"no trained model that comes with gan3d fits {pattern!r}")
        return 0
    rows = [("model", "architecture", "px", "MB", *SCORES.values(), "")]
    rows += [_row(read_card(name)) for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        words = (word.ljust(width) for word, width in zip(row, widths, strict=True))
        print("  ".join(words).rstrip())
    print(
        "\ndistance: Frechet distance to held-out heads, lower is better; bodies, faces: share that"
        "\nis convex; turn: yaw seen per yaw of the camera, 1 is right. More: docs/zoo.md"
    )
    return 0


def _row(card: Card) -> tuple[str, ...]:
    scores = card.facts.get("scores", {})
    numbers = (f"{scores[key]['value']:.2f}" if key in scores else "-" for key in SCORES)
    resolution = "-" if card.resolution is None else str(card.resolution)
    status = "preview" if card.facts.get("status") == "preview" else ""
    return (
        card.name,
        card.architecture,
        resolution,
        f"{card.megabytes:.1f}",
        *numbers,
        status,
    )
