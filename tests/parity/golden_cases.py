"""What all readers of the golden numbers share: where these are, what a folder holds, which keys
only describe it.

Use: `golden = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))`.

A reader returns the cases that it finds and nothing else: no test is collected for a kind that no
case is of, and where there are no golden numbers at all, every test is skipped and says so
(conftest.py).
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

# Beginnings of keys that say where numbers come from, how many or how accurate they are, and
# nothing of what was run.
DESCRIBING = (
    *(
        "case",
        "comment",
        "commit",
        "date",
        "description",
        "fp32_",
        "float32_",
        "float64_",
        "image_std",
        "license",
    ),
    *(
        "max_abs",
        "mean_abs",
        "min_abs",
        "note",
        "numpy",
        "official_",
        "provenance",
        "python",
        "remark",
        "seconds",
    ),
    *(
        "seed",
        "source",
        "tolerance",
        "torch",
        "version",
        "what",
        "dtype",
        "device",
        "threads",
        "removed_randomness",
    ),
    *("valid_fraction", "alpha_quantiles", "perturbation", "quantiles"),
)


def unheeded(given: Iterable[str], *known: Collection[str]) -> list[str]:
    """The keys that a reader neither heeds (they are in none of `known`) nor may pass over as mere
    description.
    """
    return sorted(
        k for k in given if not k.startswith(DESCRIBING) and not any(k in keys for keys in known)
    )


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
    """Whether the files of this pattern hold, for each of these names or patterns, a tensor that is
    called so.
    """
    stored = tensor_names(folder, files)
    return all(any(fnmatchcase(name, pattern) for name in stored) for pattern in names)
