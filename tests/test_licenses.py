"""Every package that gan3d needs may be used by anybody: its license is permissive, or it is named
here with the reason why it may stay. No network is asked: the metadata of what is installed tells.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-CMU",
    "PSF-2.0",
    "Zlib",
}
# How packages without an SPDX expression write them.
WRITTEN = {
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "Boost Software License": "BSL-1.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Of a package that states its license by the text of it.
BSD_GRANT = (
    "Redistribution and use in source and binary forms, with or without modification, are "
    "permitted provided that the following conditions are met"
)
UNCHANGED = "MPL-2.0 asks to publish changes of its own files: we change none"
EXCEPTIONS = {
    "certifi": UNCHANGED,
    "tqdm": UNCHANGED,
    "hypothesis": f"{UNCHANGED}; tests only",
    "pathspec": f"{UNCHANGED}; tests only",
}
# Of a machine with an NVIDIA GPU: torch's wheels bring its libraries, which NVIDIA licenses.
VENDOR = re.compile(r"nvidia-|cuda-")
EXTRAS = ("apps", "dev", "hub", "metrics", "png", "triton")


def licenses(name: str) -> set[str]:
    """The licenses of an installed package, as SPDX writes them."""
    metadata = distribution(name).metadata
    stated = [metadata.get("License-Expression")]
    if not stated[0]:
        classifiers = metadata.get_all("Classifier", [])
        found = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: OSI")]
        whole = " ".join((metadata.get("License") or "").split())
        first = (metadata.get("License") or "").strip().split("\n")[0]
        if BSD_GRANT in whole:
            first = "BSD-3-Clause" if "endorse or promote" in whole else "BSD-2-Clause"
        stated = [text for text in found if text != "License :: OSI Approved"] or [first]
    words = [w for text in stated for w in re.split(r" (?:AND|OR) |[()]", WRITTEN.get(text, text))]
    return {WRITTEN.get(word.strip(), word.strip()) for word in words if word.strip()}


def needed() -> set[str]:
    """gan3d's requirements, extras and theirs included, as far as they are installed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    queue = [("gan3d", extra) for extra in ("", *EXTRAS)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # an extra that is not installed
            continue
        found.add(name.lower())
        for requirement in map(Requirement, requires):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": extra}):
                queue += [(requirement.name, inner) for inner in ("", *requirement.extras)]
    return found - {"gan3d"}


def test_the_packages_are_found():
    assert {"torch", "wandb", "lightning", "numpy", "pyyaml", "sympy", "ruff"} <= needed()


@pytest.mark.parametrize("name", sorted(needed()))
def test_the_license_of_a_dependency_is_permissive(name):
    if name in EXCEPTIONS or VENDOR.match(name):
        return
    strange = licenses(name) - PERMISSIVE
    assert licenses(name), f"{name} states no license"
    assert not strange, f"{name} has the license {strange}: choose another package, or name it here"


def test_the_exceptions_are_those_that_are_needed():
    for name in EXCEPTIONS.keys() & needed():
        assert licenses(name) - PERMISSIVE, f"{name} is permissive: take it out of EXCEPTIONS"
