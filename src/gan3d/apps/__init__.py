"""Apps: what is done with a trained generator. Written once against the contract; none of them
needs Lightning.

Each is a file of its own, loaded when it is first used: `gan3d.apps.video`, `gan3d.apps.fusion`, ..
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
