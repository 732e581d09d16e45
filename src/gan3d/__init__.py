"""gan3d: a zoo of 3D-aware GANs. One harness, interchangeable generators and discriminators, one
benchmark.

    import gan3d

    generator = gan3d.from_pretrained("runs/eg3d_heads32")  # or a file, a folder, user/name
    gan3d.picture(gan3d.sample(generator, seeds=range(8))).show()

Importing this package imports nothing heavy: a name loads its module when it is first used. Beside
the functions and classes of `__all__` every generator and discriminator is here by its name
(`gan3d.EG3D`), and every room of the house (`gan3d.ops`, `gan3d.metrics`, ..).
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
    "create": "gan3d.checkpoints.models",
    "extract_mesh": "gan3d.apps.extraction",
    "from_pretrained": "gan3d.checkpoints.models",
    "invert": "gan3d.apps.inversion",
    "list_models": "gan3d.zoo.models",
    "orbit": "gan3d.apps.samples",
    "picture": "gan3d.apps.samples",
    "sample": "gan3d.apps.samples",
    "save_pretrained": "gan3d.checkpoints.portable",
    "view": "gan3d.apps.viewer",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _rooms():
        return importlib.import_module(f"gan3d.{name}")
    # Networks are looked up last, and only for what looks like a class: other programs ask modules
    # for all sorts of names, and asking is not to import torch.
    networks = _networks() if name[0].isupper() else {}
    if name in networks:
        return networks[name]
    raise AttributeError(_missing(name, [*__all__, *_rooms(), *networks]))


def __dir__() -> list[str]:
    return sorted({*__all__, *_rooms(), *_networks()})


def _rooms() -> set[str]:
    """Folders and files of the package."""
    import pkgutil  # takes as long as all the rest of this import

    return {room.name for room in pkgutil.iter_modules(__path__) if not room.name.startswith("_")}


def _networks() -> dict[str, type]:
    """Every generator and discriminator that is registered, by name."""
    generators = importlib.import_module("gan3d.generators").GENERATORS
    return generators | importlib.import_module("gan3d.discriminators").DISCRIMINATORS


def _missing(name: str, known: list[str]) -> str:
    message = f"module 'gan3d' has no attribute {name!r}"
    if name.startswith("_"):
        return message
    spelling = importlib.import_module("gan3d.spelling")
    near = spelling.did_you_mean(spelling.closest(name, known), "gan3d.{}")
    return f"{message}; {near or 'it has ' + ', '.join(sorted(known))}"
