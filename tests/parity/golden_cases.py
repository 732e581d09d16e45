"""Shared by all readers of golden numbers: their location, content of folders, descriptive keys.

Use: `golden = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))`.

A reader returns the cases that it finds and nothing else: no test is collected for a kind without
cases. Without any golden numbers, every test is skipped with a reason (conftest.py).
"""

import os
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import safe_open

GOLDEN = Path(
    os.environ.get("GAN3D_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden"
).resolve()
ABSENT = f"no golden numbers at {GOLDEN}; set GAN3D_GOLDEN"

# Prefixes of keys that describe the origin, number or accuracy of numbers, but not what was run.
# fmt: off
DESCRIBING = (
    "case", "comment", "commit", "date", "description", "fp32_", "float32_", "float64_",
    "image_std", "license", "max_abs", "mean_abs", "min_abs", "note", "numpy", "official_",
    "provenance", "python", "remark", "seconds", "seed", "source", "tolerance", "torch", "version",
    "what", "dtype", "device", "threads", "removed_randomness", "valid_fraction",
    "alpha_quantiles", "perturbation", "quantiles",
)
# fmt: on


def unheeded(given: Iterable[str], *known: Collection[str]) -> list[str]:
    """The keys that a reader does not know (in none of `known`) and that are not descriptive."""
    options = [key for key in given if not key.startswith(DESCRIBING)]
    return sorted(key for key in options if not any(key in keys for keys in known))


def has(folder: Path, *files: str) -> bool:
    """Whether a folder has all these files; a name may be a pattern."""
    return all(any(folder.glob(name)) for name in files)


def tensor_names(folder: Path, files: str) -> set[str]:
    """Names of all tensors in the files of this pattern; the files themselves are not loaded."""
    names: set[str] = set()
    for path in folder.glob(files):
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names


def holds(folder: Path, files: str, *names: str) -> bool:
    """Whether the files of a pattern hold a tensor for each of these names or name patterns."""
    stored = tensor_names(folder, files)
    return all(any(fnmatchcase(name, pattern) for name in stored) for pattern in names)
