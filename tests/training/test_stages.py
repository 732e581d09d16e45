import pytest

from gan3d.training.stages import Stage, Stages, names_of

THREE = [Stage(0, 16), Stage(2, 32, fade_kimg=1), Stage(5, 64)]


def test_a_stage_holds_from_its_beginning_to_that_of_the_next():
    stages = Stages(THREE)
    assert [stages.at(seen).resolution for seen in (0, 1999, 2000, 4999, 5000, 10**9)] == [
        16,
        16,
        32,
        32,
        64,
        64,
    ]
    assert [stages.index(seen) for seen in (0, 2000, 5000)] == [0, 1, 2]


def test_without_stages_there_is_one_that_asks_for_nothing():
    assert Stages(None).at(123) == Stage()


def test_the_newest_block_fades_in_from_the_beginning_of_its_stage():
    stage = THREE[1]
    assert [stage.fade(seen) for seen in (2000, 2500, 3000, 4000)] == [0.0, 0.5, 1.0, 1.0]
    assert THREE[0].fade(0) == 1.0  # nothing to fade


@pytest.mark.parametrize("starts", [(1,), (0, 2, 2), (0, 3, 1)])
def test_stages_out_of_order_are_refused(starts):
    with pytest.raises(ValueError, match="the first must begin at 0"):
        Stages([Stage(start) for start in starts])


def test_parts_are_named_as_one_text_or_as_several():
    assert names_of(None) == ()
    assert names_of("nerf") == ("nerf",)
    assert names_of("nerf, inr") == names_of(["nerf", "inr"]) == ("nerf", "inr")
