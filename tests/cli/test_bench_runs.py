"""Which stages of a training a suite's budget counts."""

from dataclasses import replace

import pytest

from gan3d.bench.suites import find_suite
from gan3d.cli.bench_runs import RunStage, counted, images_of


@pytest.mark.parametrize(("stages", "images"), [("all", 20000), ("last", 5000)])
def test_a_budget_counts_all_stages_or_the_last_one(stages, images):
    training = [RunStage("gram", 15000), RunStage("gramhd", 5000)]
    suite = replace(find_suite("heads64"), stages=stages)
    assert images_of(counted(training, suite)) == images


def test_ablations_count_the_last_stage_and_the_leaderboard_counts_all():
    assert find_suite("ablations").stages == "last"
    assert find_suite("heads64").stages == "all"
