"""Training checkpoints: the config in them, their networks, the newest one of a run.

A checkpoint is what Lightning saves (`state_dict` and more), and under `CONFIG_KEY` the config of
the run, JSON text that says who wrote it:

    {"gan3d_format": 1, "gan3d_version": "0.1.0", "config": {"model": {..}, "data": {..}, ..}}
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gan3d import __version__
from gan3d.checkpoints.plain import load_plain
from gan3d.checkpoints.portable import build
from gan3d.checkpoints.shards import (
    REST,
    is_sharded_checkpoint,
    read_shards,
    refuse_damaged_shards,
)
from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS, Generator
from gan3d.pretrained import FORMAT_KEY, VERSION_KEY

CONFIG_KEY = "gan3d_config"
CONFIG_FORMAT = 1
MOST_DEEP = 100
# How its scenes are seen, where it matters: {"radius": .., "fov": .., "resolution": ..}.
VIEW_KEY = "gan3d_view"
LAST = "last.ckpt"
Which = Literal["generator_ema", "generator"]
log = logging.getLogger(__name__)


# ------------------------------------------------------------ the config in a checkpoint


def pack_config(config: Mapping[str, Any]) -> str:
    """A config of plain values as the text that a checkpoint holds under `CONFIG_KEY`.

    Example:
        >>> checkpoint = {CONFIG_KEY: pack_config({"model": {"seed": 3}}), "state_dict": {}}
        >>> unpack_config(checkpoint)
        {'model': {'seed': 3}}
    """
    written_by = {FORMAT_KEY: CONFIG_FORMAT, VERSION_KEY: __version__}
    return json.dumps(written_by | {"config": config})


def unpack_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The config in the content of a checkpoint.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    if CONFIG_KEY not in checkpoint:
        raise ValueError("the checkpoint holds no config of gan3d; train with lightning fit")
    try:
        packed = json.loads(checkpoint[CONFIG_KEY])
        form, version, config = packed[FORMAT_KEY], packed[VERSION_KEY], packed["config"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"the checkpoint's config is not that of gan3d {__version__} (JSON with a format "
            "number): it is broken, or was written by an older gan3d"
        ) from error
    if form != CONFIG_FORMAT:
        raise ValueError(
            f"the checkpoint's config has format {form}, written by gan3d {version}; this is gan3d "
            f"{__version__}, which reads {CONFIG_FORMAT}: use that version"
        )
    if not isinstance(config, dict) or _depth(config) > MOST_DEEP:
        raise ValueError(
            "the checkpoint's config is none: expected a dictionary of at most "
            f"{MOST_DEEP} levels; the file is broken, or hostile"
        )
    return config


def _depth(tree: Any) -> int:
    """Levels of nested dictionaries and lists, counted without recursion."""
    depth, level = 0, [tree]
    while level:
        nested = [part for part in level if isinstance(part, (dict, list))]
        depth += 1
        level = [
            inner
            for part in nested
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
    return depth


# ------------------------------------------------------------ files


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint, its tensors left on disk; no code in it is run.

    Raises:
        ValueError: it is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path).expanduser()
    refuse_damaged(path)
    content = load_content(path, mmap=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(
            f"{path} is not a training checkpoint: it has no state_dict; give one of the "
            "checkpoints/ of a run"
        )
    return content


def load_content(path: Path, *, mmap: bool = False) -> Any:
    """What is in a checkpoint, a file or a folder of parts; see `load_plain`."""
    return read_shards(path) if is_sharded_checkpoint(path) else load_plain(path, mmap=mmap)


def refuse_damaged(path: Path) -> None:
    """Reads the whole file, or folder of parts, and compares it with the checksums in it.

    Raises:
        ValueError: it is missing, was cut off, or holds other bits than were written.
    """
    if is_sharded_checkpoint(path):
        refuse_damaged(path / REST)
        refuse_damaged_shards(path)
        return
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no checkpoint, or it was cut off while it was written")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} in it is wrong")


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the last written first.

    What `last.ckpt` points to goes before all others but those that a killed run wrote after it. A
    last.ckpt that is a file of its own is one of them.
    """
    found = sorted(folder.glob("kimg-*.ckpt"), key=_written, reverse=True)
    last = folder / LAST
    if not last.exists():
        return found
    same = next((path for path in found if path.samefile(last)), None)
    if same is None:
        return sorted([*found, last], key=_written, reverse=True)
    after = [path for path in found if _written(path) > _written(same) and path.name > same.name]
    return [*after, same, *(path for path in found if path != same and path not in after)]


def _written(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def newest_whole(folder: Path, warn: Callable[[str], Any] = log.warning) -> Path | None:
    """The last written checkpoint in a folder that is whole; None where there is none.

    Args:
        folder: of checkpoints.
        warn: is given a sentence for each one that cannot be read.
    """
    for path in checkpoints_in(folder):
        try:
            read_checkpoint(path)
        except ValueError as error:
            warn(f"warning: {error}; taking the one before it")
            continue
        return path
    return None


# ------------------------------------------------------------ networks


def load_training(
    path: Path | str, which: Which = "generator_ema"
) -> tuple[Generator, Discriminator, dict[str, Any]]:
    """Generator and discriminator of a training checkpoint, in evaluation mode, and facts about
    them.

    Args:
        path: the checkpoint.
        which: the average of the generator over training, or the last one.

    Returns:
        generator, discriminator, {"source": which, "images_seen": ..}, and how its scenes are seen,
        as far as it is known: radius and fov (degrees) of its cameras, resolution of its stage.

    Raises:
        ValueError: the file is no training checkpoint of gan3d, or its classes are not known here.
    """
    content = read_checkpoint(path)
    try:
        generator, discriminator = networks_of(content, which)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    seen = content["state_dict"].get("images_seen")
    if not isinstance(seen, Tensor) or seen.numel() != 1:
        raise ValueError(f"{path} is broken: it does not count images_seen")
    facts = {"source": which, "images_seen": int(seen)}
    view = content.get(VIEW_KEY) or {}
    facts |= {name: view[name] for name in ("radius", "fov", "resolution") if name in view}
    return generator.eval(), discriminator.eval(), facts


def networks_of(
    checkpoint: Mapping[str, Any], which: Which = "generator_ema"
) -> tuple[Generator, Discriminator]:
    """Generator and discriminator made again from the content of a checkpoint (`read_checkpoint`):
    classes and arguments from its config, weights from its state.

    Raises:
        ValueError: the config is not ours, a class is not known here, or the weights are another's.
    """
    config, state = unpack_config(checkpoint), checkpoint["state_dict"]
    try:
        made = [
            _network(registry, config["model"][kind], state, which if kind == "generator" else kind)
            for registry, kind in ((GENERATORS, "generator"), (DISCRIMINATORS, "discriminator"))
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the checkpoint's config or state is broken: {error!r}") from error
    return made[0], made[1]


def _network(
    registry: Mapping[str, type], section: Mapping[str, Any], state: Mapping[str, Tensor], kind: str
) -> Any:
    name = section["class_path"].rpartition(".")[2]
    prefix = f"{kind}."
    own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    return build(registry, name, section.get("init_args") or {}, own)
