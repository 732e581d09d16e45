"""Results on disk: one JSON per model and suite, of `result.schema.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gan3d.bench.protocol import protocol_hash
from gan3d.results import write_whole

FORMAT = 1
SCHEMA = Path(__file__).parent / "result.schema.json"
Record = dict[str, Any]


def write_result(path: Path, record: Record) -> Path:
    """Writes a result, as a whole or not at all."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Record:
    """A result.

    Raises:
        ValueError: the file is none, of another format, or its protocol was changed by hand.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        form, protocol, number = record["format"], record["protocol"], record["protocol_hash"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is no result of gan3d bench ({error!r}); give its JSON, or their folder"
        ) from error
    if form != FORMAT:
        raise ValueError(f"{path} has format {form}, expected {FORMAT}; evaluate the model again")
    if protocol_hash(protocol) != number:
        raise ValueError(
            f"{path}: its protocol has another hash than the one beside it, so somebody changed "
            "it; evaluate the model again"
        )
    return record


def find_results(paths: Iterable[Path]) -> list[Path]:
    """Result files among files and folders, each once; of a folder those directly in it.

    Raises:
        ValueError: there is none.
    """
    found: list[Path] = []
    for path in (Path(p).expanduser() for p in paths):
        found += sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not found:
        raise ValueError("there are no results; give the .json files of gan3d bench, or a folder")
    return list(dict.fromkeys(found))
