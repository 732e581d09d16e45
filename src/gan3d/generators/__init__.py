"""Generators by name; importing this package imports all modules in it, which register them."""

import importlib
import pkgutil

from gan3d.generators.contract import GENERATORS, Generator, Rendering
from gan3d.generators.pinned import pin, unpin

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["GENERATORS", "Generator", "Rendering", "pin", "unpin", *sorted(GENERATORS)]
globals().update(GENERATORS)
