"""gan3d: a zoo of 3D-aware GANs. One harness, interchangeable generators and discriminators, one
benchmark.

Importing this package imports nothing heavy: the names below load their modules when they are first
used.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Camera": "gan3d.camera",
    "PosePrior": "gan3d.camera",
    "Randomness": "gan3d.randomness",
    "Generator": "gan3d.generators",
    "Rendering": "gan3d.generators",
    "GENERATORS": "gan3d.generators",
    "Discriminator": "gan3d.discriminators",
    "DiscriminatorOutput": "gan3d.discriminators",
    "DISCRIMINATORS": "gan3d.discriminators",
    "GAN": "gan3d.training.gan",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(
            f"module 'gan3d' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
