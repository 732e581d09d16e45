"""gan3d.randomness: draws depend on (seed, image index, phase, name) and on nothing else."""

import pytest
import torch

from gan3d.randomness import Randomness, Recorded, key


def test_an_image_draws_the_same_whatever_batch_it_sits_in():
    together = Randomness(0, [4, 5, 6]).normal("z", 7)
    alone = Randomness(0, [5]).normal("z", 7)
    assert torch.equal(together[1], alone[0])


def test_an_image_draws_the_same_whatever_was_drawn_before():
    fresh, used = Randomness(0, [1]), Randomness(0, [1])
    used.uniform("jitter", 100)
    assert torch.equal(fresh.uniform("u", 5), used.uniform("u", 5))


@pytest.mark.parametrize(
    "other",
    [
        Randomness(1, [3]),
        Randomness(0, [4]),
        Randomness(0, [3], "density"),
        Randomness(0, [3]).in_phase("real"),
    ],
    ids=["seed", "index", "phase", "in_phase"],
)
def test_seed_index_and_phase_each_change_the_draw(other):
    assert not torch.equal(Randomness(0, [3]).normal("z", 8), other.normal("z", 8))


def test_names_are_separate_streams():
    draw = Randomness(0, [3])
    assert not torch.equal(draw.normal("a", 8), draw.normal("b", 8))


def test_draws_have_the_stated_distributions():
    draw = Randomness(7, range(2000))
    normal, uniform, integers = (
        draw.normal("n", 10),
        draw.uniform("u", 10),
        draw.integers("i", 3, 10),
    )
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert torch.bincount(integers.flatten()).float().div(20000).sub(1 / 3).abs().max() < 0.02


def test_double_precision_draws_are_the_single_precision_ones():
    single, double = Randomness(0, [1, 2]), Randomness(0, [1, 2], dtype=torch.float64)
    assert torch.equal(single.normal("z", 5).double(), double.normal("z", 5))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Randomness(0, [1]).normal("z", 5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_of_a_stream_never_changes_between_versions():
    # Checkpoints and published numbers rest on this value.
    assert key(0, 1, "phase", "z") == 1486047766190380427


def test_recorded_draws_come_back_and_a_missing_one_is_named():
    recorded = Recorded({"z": torch.arange(6.0).reshape(2, 3)})
    assert torch.equal(recorded.normal("z", 3)[1], torch.tensor([3.0, 4.0, 5.0]))
    with pytest.raises(ValueError, match="no recorded draw named 'u'; recorded: z"):
        recorded.uniform("u", 1)


def test_chosen_elements_have_the_draws_they_have_among_all():
    draw, some = Randomness(3, [5, 9], "generator"), torch.tensor([7, 0, 3])
    for kind in ("normal", "uniform"):
        whole = getattr(draw, kind)("jitter", 10, 4)
        assert torch.equal(getattr(draw.chosen(some, 10), kind)("jitter", 3, 4), whole[:, some])
    assert torch.equal(
        draw.chosen(some, 10).integers("k", 50, 3), draw.integers("k", 50, 10)[:, some]
    )
    other = draw.chosen(some, 10).in_phase("x").normal("jitter", 3)
    assert torch.equal(other, draw.in_phase("x").normal("jitter", 10)[:, some])


def test_a_draw_that_is_not_per_element_is_refused_among_chosen_ones():
    with pytest.raises(ValueError, match="they come first"):
        Randomness(3, [5]).chosen(torch.arange(3), 10).normal("z", 8)
