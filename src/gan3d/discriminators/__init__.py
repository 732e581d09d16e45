"""Discriminators by name; importing this package imports all modules in it, which register them.

It then imports the modules that installed packages name in the entry point group `gan3d.models`, so
that `class_path: TheirGenerator` works.
"""

import importlib
import logging
import pkgutil
from importlib.metadata import entry_points

from gan3d.discriminators.contract import (
    DISCRIMINATORS,
    Discriminator,
    DiscriminatorOutput,
    check_pair,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DISCRIMINATORS",
    "Discriminator",
    "DiscriminatorOutput",
    "check_pair",
    *sorted(DISCRIMINATORS),
]
globals().update(DISCRIMINATORS)

for _point in entry_points(group="gan3d.models"):
    try:
        _point.load()
    except Exception as _error:  # errors of other packages must not prevent the import of gan3d
        logging.getLogger(__name__).warning(
            "the models of %s (entry point %s) are left out: %s: %s",
            _point.dist.name if _point.dist else "an installed package",
            _point.name,
            type(_error).__name__,
            _error,
        )
