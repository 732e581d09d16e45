"""Discriminators by name. Importing this package imports every sibling file, and the class
statement registers.
"""

import importlib
import pkgutil

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
