"""Suites: those that come with gan3d, and files of a user."""

import pytest

from gan3d.bench.measures import MEASURES
from gan3d.bench.subject import FEATURES
from gan3d.bench.suites import Changes, find_suite, photographs, read_suite, suite_names

TEXT = """\
# Mine.
data:
  recipe: heads
  resolution: 32
  train: {num: 8, seed: 1}
  real: {num: 4, seed: 2}
budget_kimg: 1
measures: [frechet]
"""


@pytest.mark.parametrize("name", suite_names())
def test_every_packaged_suite_can_be_measured(name):
    suite = find_suite(name)
    assert suite.name == name
    assert suite.about
    assert set(suite.measures) <= set(MEASURES)
    assert set(suite.features) <= set(FEATURES)
    assert suite.budget_kimg > 0
    assert suite.train.resolution == suite.real.resolution
    assert suite.train.seed != suite.real.seed


def test_the_named_suites_are_there_and_photographs_are_found_by_data_alone():
    assert {"quick", "heads32", "heads64", "heads-ffhq32"} <= set(suite_names())
    assert "photographs" not in suite_names()
    assert photographs().real is None


def test_a_new_file_is_a_new_suite(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    suite = find_suite(path)
    assert (suite.name, suite.about, suite.budget_kimg) == ("mine", "Mine.", 1.0)
    assert suite.measures == ("frechet",)
    assert suite.train.file == "heads32_8_1.zip"


def test_a_misspelt_suite_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"there is no suite head32.*\n.*did you mean heads32"):
        find_suite("head32")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("budget_kimg: 1", "budget: 1", "a suite has no budget; did you mean budget_kimg"),
        ("budget_kimg: 1", "budget_kimg: long", "budget_kimg is 'long', expected a number"),
        ("budget_kimg: 1", "num_fakes: 2.5", "num_fakes is 2.5, expected a number like 1000"),
        ("budget_kimg: 1", "resize_filter: sinc", "resize_filter sinc is none of lanczos"),
        ("measures: [frechet]", "measures: frechet", "measures is 'frechet', expected a list"),
        ("recipe: heads", "recipe: faces", "recipe faces is none of heads"),
        ("real: {num: 4, seed: 2}", "real: {num: 4}", "data has no 'seed'; expected recipe"),
        ("seed: 2", "seed: 1", "the real images have the seed of training, 1"),
        ("budget_kimg: 1", "num_heads: 1", "num_heads 1 is too few"),
    ],
)
def test_what_is_wrong_in_a_suite_is_named(tmp_path, old, new, message):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_suite(path)


def test_changes_leave_the_rest_as_the_suite_says():
    suite = find_suite("quick")
    assert Changes().of(suite) == suite
    changed = Changes(seed=3, resize_filter="box", features=("small",)).of(suite)
    assert (changed.seed, changed.resize_filter, changed.features) == (3, "box", ("small",))
    assert changed.num_fakes == suite.num_fakes
