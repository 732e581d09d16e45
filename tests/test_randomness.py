"""gan3d.randomness: a draw depends on (seed, image, phase, name, element) and on nothing else."""

import math
import subprocess
import sys

import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from gan3d.randomness import (
    Randomness,
    Recorded,
    key,
    philox,
    philox_numpy,
    stream_words,
    to_normal,
    to_uniform,
)

# ------------------------------------------------------------ the generator

# Known answers of Philox4x32-10, published with Random123 (Salmon et al. 2011).
ALL = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL, ALL, ALL, ALL), (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),  # digits of pi
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("form", [philox, philox_numpy])
@pytest.mark.parametrize(("counter", "words", "answer"), KNOWN)
def test_philox_gives_the_published_words(form, counter, words, answer):
    made = form([torch.tensor([word]) for word in counter], words[0] | words[1] << 32)
    assert (made[0].long() & ALL).tolist() == list(answer)


def test_both_forms_of_philox_are_equal_to_the_bit():
    counters = torch.randint(0, 2**32, (4, 5, 63), generator=torch.Generator().manual_seed(0))
    for seed in (0, 1, 2**63 + 12345):
        assert torch.equal(philox(counters.unbind(), seed), philox_numpy(counters.unbind(), seed))


def test_uniform_and_normal_numbers_of_known_words():
    least, largest = -(2**31), 2**31 - 1
    words = torch.tensor([least, largest, 0, 0, 2**30, -(2**30)], dtype=torch.int32)
    assert to_uniform(words).tolist() == [0.0, 1 - 2.0**-24, 0.5, 0.5, 0.75, 0.25]
    normal = to_normal(words).tolist()
    assert normal[0] == pytest.approx(-math.sqrt(64 * math.log(2)), rel=1e-6)  # the largest of all
    assert normal[2] == pytest.approx(math.sqrt(2 * math.log(2)), rel=1e-6)
    assert normal[3] == 0.0
    assert normal[4] == pytest.approx(0.0, abs=1e-7)
    assert normal[5] == pytest.approx(-math.sqrt(2 * math.log(4 / 3)), rel=1e-6)


# ------------------------------------------------------------ draws by name


def test_an_image_draws_the_same_whatever_batch_it_sits_in():
    together = Randomness(0, [4, 5, 6]).normal("z", 7)
    alone = Randomness(0, [5]).normal("z", 7)
    assert torch.equal(together[1], alone[0])


def test_an_image_draws_the_same_alone_when_several_kinds_are_made_in_one_pass():
    def draws(indices):
        draw = Randomness(0, indices, "alone")
        kinds = {"normal": draw.normal("n", 3), "uniform": draw.uniform("u", 5)}
        return kinds | {name: draw.integers(name, 1000, 2) for name in ("i", "j")}

    draws([4, 5, 6])  # from now on all are made together
    together, alone = draws([4, 5, 6]), draws([5])
    for name, values in together.items():
        assert torch.equal(values[1], alone[name][0]), name


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


@pytest.mark.parametrize("shape", [(10,), (10, 3), (10, 4), (10, 2, 5)])
def test_chosen_elements_of_any_shape_are_those_among_all(shape):
    draw, some = Randomness(3, [5, 9], "generator"), torch.tensor([7, 0, 3])
    for kind in ("normal", "uniform"):
        whole = getattr(draw, kind)("jitter", *shape)
        assert torch.equal(
            getattr(draw.chosen(some, 10), kind)("jitter", 3, *shape[1:]), whole[:, some]
        )


def test_a_large_draw_is_made_in_pieces_that_do_not_show():
    whole = Randomness(3, range(3)).uniform("u", 40_000, 4)
    some = torch.tensor([0, 8191, 8192, 39_999])
    assert torch.equal(
        Randomness(3, range(3)).chosen(some, 40_000).uniform("u", 4, 4), whole[:, some]
    )


def test_some_rays_draw_only_their_own_numbers():
    made: list[int] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    draw = Randomness(3, [5]).chosen(torch.arange(100), 1_000_000)
    with Count():
        draw.uniform("jitter", 100, 24)
    assert max(made) <= 100 * 24 * 2  # even and odd words side by side


def test_what_was_planned_for_a_phase_changes_no_draw():
    def draws(names):
        draw = Randomness(11, [2, 3], "planned")
        return {name: draw.normal(name, 6) for name in names} | {
            f"swap/{name}": draw.in_phase("swap").uniform(name, 6) for name in names
        }

    first = draws("abc")  # one by one: nothing is planned
    again = draws("cab")  # all together
    other = draws("bd")  # with two that nobody asks for, and one that was not planned
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], value) for name, value in other.items() if name in first)
    assert torch.equal(other["d"], Randomness(11, [2, 3], "planned").normal("d", 6))


def test_a_phase_makes_its_small_draws_in_one_pass(monkeypatch):
    passes = []
    monkeypatch.setattr(
        "gan3d.randomness.philox_numpy",
        lambda counter, seed: passes.append(seed) or philox_numpy(counter, seed),
    )

    def phase():
        draw = Randomness(1, range(4), "one_pass")
        draw.normal("z", 16)
        draw.uniform("jitter", 64, 8)
        draw.in_phase("swap").integers("index", 10)
        for k in range(6):
            draw.normal(f"noise{k}", 8, 8)

    phase()
    assert len(passes) == 9  # the first time nothing is known
    passes.clear()
    phase()
    assert len(passes) == 1


def test_the_whole_seed_and_the_whole_index_count():
    base = Randomness(5, [7]).normal("z", 8)
    for bit in (0, 31, 32, 62, 63):
        assert not torch.equal(base, Randomness(5 ^ 1 << bit, [7]).normal("z", 8)), bit
    for bit in (0, 16, 31):
        assert not torch.equal(base, Randomness(5, [7 ^ 1 << bit]).normal("z", 8)), bit


def test_no_two_images_of_a_long_run_have_the_same_latent():
    # The generator before this one took 32 bits of its seed: 77 equal pairs in 800,000.
    z = torch.cat(
        [Randomness(0, range(k, k + 50_000)).normal("z", 4) for k in range(0, 800_000, 50_000)]
    )
    assert len(torch.unique(z.double() @ torch.tensor([1, 1e3, 1e6, 1e9]).double())) == len(z)


def test_images_and_seeds_out_of_range_are_refused():
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"seed {seed} is not in"):
            Randomness(seed, [0])
    for index in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"image index {index} is not in"):
            Randomness(0, [index])
    with pytest.raises(ValueError, match="high must be in"):
        Randomness(0, [0]).integers("i", 0, 1)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Correlation of two sets of numbers, in standard errors."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1]) * math.sqrt(len(a))


def test_moments_are_those_of_the_distributions():
    n = 400_000
    normal = Randomness(3, range(4000)).normal("n", 100).double().flatten()
    for power, mean, deviation in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15))):
        error = (normal.pow(power).mean() - mean) / (deviation / math.sqrt(n))
        assert abs(error) < 4, power
    assert abs((normal.pow(4).mean() - 3) / math.sqrt(96 / n)) < 4
    assert stats.kstest(normal[:50_000].numpy(), "norm").pvalue > 1e-3
    uniform = Randomness(3, range(4000)).uniform("u", 100).double().flatten()
    assert stats.kstest(uniform[:50_000].numpy(), "uniform").pvalue > 1e-3
    counts = torch.bincount(Randomness(3, range(4000)).integers("i", 64, 100).flatten())
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_neighbors_phases_images_seeds_and_names_are_uncorrelated():
    draw = Randomness(3, range(2000), "a")
    x = draw.normal("n", 100)
    others = {
        "next element": (x[:, :-1], x[:, 1:]),
        "element after next": (x[:, :-2], x[:, 2:]),
        "next block": (x[:, :-4], x[:, 4:]),
        "next image": (x[:-1], x[1:]),
        "another epoch": (x, Randomness(3, range(70_000, 72_000), "a").normal("n", 100)),
        "phase": (x, Randomness(3, range(2000), "b").normal("n", 100)),
        "sub-phase": (x, draw.in_phase("b").normal("n", 100)),
        "seed": (x, Randomness(4, range(2000), "a").normal("n", 100)),
        "high seed": (x, Randomness(3 + 2**40, range(2000), "a").normal("n", 100)),
        "name": (x, draw.normal("m", 100)),
        "kind": (x, draw.uniform("n", 100)),
        "squares of names": (x.square(), draw.normal("m", 100).square()),
        "squares of images": (x[:-1].square(), x[1:].square()),
    }
    for name, pair in others.items():
        assert abs(correlation(*pair)) < 4.5, name


def test_labels_are_marked_as_torch_marks_constants_without_the_compiler():
    def one() -> int:
        return 1

    assert vars(torch.compiler.assume_constant_result(one)).items() <= vars(stream_words).items()
    look = "import sys, gan3d; gan3d.EG3D(**gan3d.EG3D.tiny); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_compiled_function_draws_the_same_in_one_graph():
    def use(x, draw):
        swapped = draw.in_phase("swap").uniform("u", 4)
        return x + draw.normal("z", 4) + swapped + draw.integers("i", 5, 4)

    compiled = torch.compile(use, fullgraph=True, backend="eager")
    for index in (1, 7, 9):
        plain = use(torch.zeros(2, 4), Randomness(3, [index, 2], "compiled"))
        assert torch.equal(
            compiled(torch.zeros(2, 4), Randomness(3, [index, 2], "compiled")), plain
        )


def test_a_draw_of_this_version_stays_what_it_is():
    # Resumed runs rest on these numbers.
    draw = Randomness(1, [2], "phase")
    assert draw.integers("i", 1000, 6)[0].tolist() == [787, 47, 695, 203, 779, 906]
    assert draw.normal("z", 3)[0].tolist() == pytest.approx(
        [-1.22707403, 0.59860671, -0.92441458], rel=1e-6
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="draws on a GPU need a CUDA device")
def test_a_gpu_draws_the_same():
    here, there = Randomness(3, [5, 9]), Randomness(3, [5, 9], device="cuda")
    assert torch.equal(here.integers("i", 2**31, 999), there.integers("i", 2**31, 999).cpu())
    assert torch.equal(here.uniform("u", 999), there.uniform("u", 999).cpu())
    ulp = torch.finfo(torch.float32).eps
    assert torch.allclose(here.normal("z", 999), there.normal("z", 999).cpu(), rtol=2 * ulp, atol=0)
