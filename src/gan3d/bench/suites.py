"""Suites: what is measured, and how. A suite is one YAML file, found by name like a config; a new
file in `shipped/` is a new suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from gan3d.data.heads.dataset import RECIPES, Recipe
from gan3d.data.images import ResizeFilter
from gan3d.metrics.measure import Conditioning
from gan3d.spelling import closest, did_you_mean
from gan3d.zoo.configs import read

FOLDER = Path(__file__).parent / "shipped"
PHOTOGRAPHS = "photographs"  # the suite of `--data`
Stages = Literal["all", "last"]
CHOICES = {
    "stages": get_args(Stages),
    "conditioning": get_args(Conditioning),
    "resize_filter": get_args(ResizeFilter),
}


@dataclass(frozen=True)
class Heads:
    """A set of procedural heads: what `gan3d data heads` makes.

    Attributes:
        num: of the heads, one view each.
        seed: of the set; that of the real images is held out from training.
        recipe: how far the cameras spread.
        resolution: side in pixels.
    """

    num: int
    seed: int
    recipe: Recipe
    resolution: int

    @property
    def file(self) -> str:
        """Name of the zip."""
        return f"{self.recipe}{self.resolution}_{self.num}_{self.seed}.zip"


@dataclass(frozen=True)
class Suite:
    """One protocol.

    Attributes:
        name: of the file.
        about: its first comment line.
        train: what models are trained on; None: the suite only evaluates.
        real: the real images, which no training has seen; None: a file of the user.
        budget_kimg: images of training, thousands.
        stages: which stages of a training the budget counts: "all", with those it started from, or
            the "last" one alone.
        options: of `fit`, beside the config: the same for all models.
        measures: by name (`gan3d.bench.measures.MEASURES`).
        features: feature networks by name (`gan3d.bench.subject.FEATURES`).
        num_fakes: pictures of the distances.
        num_heads: heads of the signed measures, of views, motions and paths.
        num_scenes: heads that fields are fitted to.
        fit_steps: of each of these fields.
        seed: of all draws of the evaluation.
        truncation: psi of `Generator.map`.
        conditioning: of the second distance, `3d`; the first one is always `same`.
        resize_filter: how real images are shrunk.
        resamples: of the bootstrap.
    """

    name: str
    about: str = ""
    train: Heads | None = None
    real: Heads | None = None
    budget_kimg: float = 0.0
    stages: Stages = "all"
    options: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("frechet", "kernel", "precision_recall")
    features: tuple[str, ...] = ("small",)
    num_fakes: int = 1000
    num_heads: int = 64
    num_scenes: int = 4
    fit_steps: int = 300
    seed: int = 0
    truncation: float = 1.0
    conditioning: Conditioning = "frontal"
    resize_filter: ResizeFilter = "lanczos"
    resamples: int = 200

    def __post_init__(self) -> None:
        for name in ("num_fakes", "num_heads", "num_scenes", "fit_steps", "resamples"):
            if (value := getattr(self, name)) < 2:
                raise ValueError(f"{name} {value} is too few; give 2 or more")


def suite_names() -> list[str]:
    """Names of the suites that come with gan3d, but for that of photographs."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != PHOTOGRAPHS)


def find_suite(name: str | Path) -> Suite:
    """A suite by its name, or from a file.

    Raises:
        ValueError: there is neither; the nearest names are given.
    """
    path = Path(name).expanduser()
    if path.suffix == ".yaml" and path.is_file():
        return read_suite(path)
    stem = str(name).removesuffix(".yaml")
    if stem in suite_names():
        return read_suite(FOLDER / f"{stem}.yaml")
    near = did_you_mean(closest(stem, suite_names())) or f"suites: {', '.join(suite_names())}"
    raise ValueError(f"there is no suite {name}: no such file, and none of that name\n  {near}")


def photographs() -> Suite:
    """The suite of photographs, whose real images are a file of the user."""
    return read_suite(FOLDER / f"{PHOTOGRAPHS}.yaml")


def read_suite(path: Path) -> Suite:
    """The suite in a YAML file.

    Raises:
        ValueError: it is no suite; what is wrong is named.
    """
    content = read(path)
    known = {part.name for part in fields(Suite)} - {"name", "about", "train", "real"}
    data = content.pop("data", None)
    for key in content:
        if key not in known:
            near = did_you_mean(closest(key, [*known, "data"])) or f"known: {sorted(known)}"
            raise ValueError(f"{path}: a suite has no {key}; {near}")
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    about = first.lstrip("# ").strip() if first.startswith("#") else ""
    values = {key: _typed(path, key, value) for key, value in content.items()}
    sets: dict[str, Any] = _sets(path, data)
    return replace(Suite(path.stem, about, **sets), **values)


def _typed(path: Path, key: str, value: Any) -> Any:
    """A value of the type of its default."""
    default, choices = getattr(Suite(""), key), CHOICES.get(key)
    if choices is not None:
        if value not in choices:
            raise ValueError(f"{path}: {key} {value} is none of {', '.join(choices)}")
        return value
    if isinstance(default, tuple):
        if isinstance(value, list):
            return tuple(map(str, value))
    elif isinstance(value, (int, float)) and type(default)(value) == value:
        return type(default)(value)
    expected = "a list" if isinstance(default, tuple) else f"a number like {default}"
    raise ValueError(f"{path}: {key} is {value!r}, expected {expected}")


def _sets(path: Path, data: Mapping[str, Any] | None) -> dict[str, Heads]:
    """The two sets of heads of a suite."""
    if data is None:
        return {}
    try:
        recipe, resolution = data["recipe"], int(data["resolution"])
        made = {
            key: Heads(int(data[key]["num"]), int(data[key]["seed"]), recipe, resolution)
            for key in ("train", "real")
        }
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: data has no {error}; expected recipe, resolution, and num and seed of train "
            "and of real"
        ) from error
    if recipe not in RECIPES:
        raise ValueError(f"{path}: recipe {recipe} is none of {', '.join(RECIPES)}")
    if made["train"].seed == made["real"].seed:
        raise ValueError(
            f"{path}: the real images have the seed of training, {made['real'].seed}: the same "
            "heads; give them another one"
        )
    return made


@dataclass(frozen=True)
class Changes:
    """What a user measures otherwise than the suite says: the hash is then another one.

    Attributes:
        seed, truncation, conditioning, resize_filter, num_fakes, num_heads, features: as of
            `Suite`; None changes nothing.
    """

    seed: int | None = None
    truncation: float | None = None
    conditioning: Conditioning | None = None
    resize_filter: ResizeFilter | None = None
    num_fakes: int | None = None
    num_heads: int | None = None
    features: tuple[str, ...] | None = None

    def of(self, suite: Suite) -> Suite:
        """The suite with these changes."""
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(suite, **{name: v for name, v in given.items() if v is not None})
