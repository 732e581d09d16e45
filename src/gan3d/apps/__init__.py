"""Applications of trained generators, written against the generator contract, without Lightning.

The modules are imported on first use: `gan3d.apps.video`, `gan3d.apps.fusion`, ..
"""

import importlib
import pkgutil

__all__ = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(
            f"module 'gan3d.apps' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return importlib.import_module(f"gan3d.apps.{name}")


def __dir__() -> list[str]:
    return __all__
