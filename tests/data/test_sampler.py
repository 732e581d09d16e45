"""The order of training images: endless, stateless, divided among processes."""

from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan3d.data.sampler import EndlessBatches, EndlessOrder, permutation


def first_indices(num_batches: int, *args, **kwargs) -> list[list[int]]:
    return list(islice(EndlessBatches(*args, **kwargs), num_batches))


@given(num=st.integers(1, 100), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_every_epoch_shows_every_item_once(num, seed, epoch):
    items = np.arange(num) * 3 + 1
    order = EndlessOrder(items, seed)
    assert sorted(order[epoch * num + position] for position in range(num)) == items.tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(EndlessOrder(range(20), seed)[e * 20 + i] for i in range(20))
        for seed in (0, 1)
        for e in range(4)
    }
    assert len(orders) == 8


def test_the_order_is_the_same_on_every_machine_forever():
    # A change here changes which images every resumed run sees next.
    order = EndlessOrder(range(10), seed=0)
    assert [order[i] for i in range(10)] == [9, 4, 7, 2, 6, 8, 3, 5, 1, 0]
    assert [order[i] for i in range(10, 20)] == [4, 5, 8, 7, 0, 3, 6, 2, 1, 9]


def test_the_order_has_no_memory():
    order = EndlessOrder(range(7), 3)
    forwards = [order[i] for i in range(40)]
    permutation.cache_clear()
    assert [EndlessOrder(range(7), 3)[i] for i in reversed(range(40))] == forwards[::-1]


def test_an_item_is_shown_equally_often_at_every_place_of_the_epoch():
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        counts[np.arange(4), permutation(4, 0, "epoch", epoch)] += 1
    # Pearson's statistic with 9 degrees of freedom: one fair order in a thousand exceeds 27.9.
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


def test_a_permutation_cannot_be_changed_by_its_user():
    with pytest.raises(ValueError, match="read-only"):
        permutation(5, 0)[0] = 1


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match="training set is empty"):
        EndlessOrder([], 0)


@given(
    local=st.integers(1, 5),
    world_size=st.sampled_from([1, 2, 4]),
    start=st.integers(0, 1000),
    count=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_processes_share_each_global_batch_in_contiguous_blocks(local, world_size, start, count):
    size = local * world_size
    shares = [
        first_indices(count, size, start=lambda: start, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for number in range(count):
        together = list(chain(*(share[number] for share in shares)))
        assert together == list(range(start + number * size, start + (number + 1) * size))


def test_a_resumed_run_sees_the_tail_of_an_uninterrupted_one():
    assert first_indices(6, 4)[2:] == first_indices(4, 4, start=lambda: 8)


def test_the_batch_size_may_change_on_resume():
    before, after = first_indices(3, 4), first_indices(2, 6, start=lambda: 12)
    assert list(chain(*before, *after)) == list(range(24))


def test_start_is_asked_when_iteration_begins():
    seen = 0
    batches = EndlessBatches(2, start=lambda: seen)
    seen = 10
    assert next(iter(batches)) == [10, 11]
    seen = 30
    assert next(iter(batches)) == [30, 31]


def test_endless_batches_have_no_length():
    with pytest.raises(TypeError):
        len(EndlessBatches(2))


def test_a_batch_that_processes_cannot_share_is_refused():
    message = r"batch_size 32 .* among 6 processes; use a multiple of 6, such as 30"
    with pytest.raises(ValueError, match=message):
        EndlessBatches(32, world_size=6)
    with pytest.raises(ValueError, match=r"batch_size 0 "):
        EndlessBatches(0)
    with pytest.raises(ValueError, match="rank 2 of 2 processes; expected 0 to 1"):
        EndlessBatches(4, rank=2, world_size=2)
