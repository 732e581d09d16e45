"""What the command line says, and what it says when it is misused: what is wrong, the nearest right
thing, where to read more.

All of it goes through the logger "gan3d" and the one handler that `listen` gives it, and so does
what the library logs: `gan3d: <message>` on stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable

from gan3d.spelling import closest, did_you_mean

log = logging.getLogger(__name__)
MOST_SHOWN = 8000  # characters of a message
# Where launchers write which process this is.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class CommandError(ValueError):
    """The command line is wrong. Args: the lines of the message, the first one says what is wrong;
    empty ones go.
    """

    def __init__(self, *lines: str):
        super().__init__("\n  ".join(line for line in lines if line))


def nearest(name: str, known: Iterable[str], *, like: str = "--{}") -> str:
    """'did you mean ...?', or nothing where nothing is near. Dotted names are compared within their
    group first.
    """
    known = list(dict.fromkeys(known))
    group, _, leaf = name.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    near = [siblings[k] for k in closest(leaf, siblings)]
    near = near or [k for k in known if "." in k and k.rpartition(".")[2] == leaf][:3]
    return did_you_mean(near or closest(name, known), like)


def wants_traceback() -> bool:
    return os.environ.get("GAN3D_TRACEBACK", "0") not in ("", "0")


def is_first_process() -> bool:
    """Whether this is the first of several processes, or the only one."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


class Console(logging.Handler):
    """Writes messages on stderr, past a progress bar. All processes of a run know the same: what is
    no error is said by the first one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or is_first_process()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"gan3d: {harmless(record.getMessage())}"
        if "tqdm" in sys.modules:  # a bar may be there
            sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
        sys.stderr.flush()


def harmless(text: str) -> str:
    """A message as a terminal may show it: what a file has put into it moves no cursor, and fills
    no screen.
    """
    text = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} .."
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def listen() -> None:
    """Shows what gan3d logs from INFO on. Once is enough."""
    logger = logging.getLogger("gan3d")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, Console) for handler in logger.handlers):
        logger.addHandler(Console())


def say(message: str) -> None:
    """One message to the user."""
    log.info("%s", message)
