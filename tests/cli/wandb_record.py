"""Reads a `.wandb` file, the record of an offline run: LevelDB's log format around protobufs."""

import json
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4


def records(path: Path) -> Iterator[Record]:
    """The records of a file: chunks [crc 4, size 2, kind 1, payload] in blocks of 32 KiB."""
    data, at, whole = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is too small for a chunk
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (FULL, LAST):
            yield Record.FromString(whole)
            whole = b""


def items(update) -> dict:
    """Names and values; a medium is a dictionary of its own."""
    found: dict = {}
    for item in update:
        name, *inner = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if inner:
            found.setdefault(name, {})[".".join(inner)] = value
        else:
            found[name] = value
    return found


def read(path: Path) -> dict:
    """history: a dictionary per log; summary: the last values; axes: the x axis of each metric."""
    content: dict = {"history": [], "summary": {}, "axes": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            content["history"].append(items(record.history.item))
        elif kind == "summary":
            content["summary"] |= items(record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            content["axes"][name] = record.metric.step_metric
    return content
