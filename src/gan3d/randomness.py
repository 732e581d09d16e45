"""Counter-based randomness: every draw is a pure function of (seed, image, phase, name, element).

    words of block k of image i = Philox4x32-10(counter = (k, i, stream), key = seed)
    stream                      = 64-bit hash of (phase, name, kind of draw)

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a bijection of its
128-bit counter: there is no state to carry, save or split. A draw never depends on the rank, on
the batch that an image sits in or on what was drawn before, so a run is the same on one process
and on eight, with or without accumulation, resumed or not, and a few rays draw only their own
numbers. Integers and uniform draws are equal on every device, normal draws to 2 ulp.

Convention: an *image index* counts the images a run has seen since its start, over all processes.
A draw of shape [n *rest] consists of n *elements*, each beginning with a block of its own; a draw
of shape [n] is one element. `None` in place of a `Randomness` means "no randomness": constant
noise, bin mid-points.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from gan3d.host import constant, kind_of, upload

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MAX_SEED, MAX_IMAGES, MAX_HIGH = 2**64, 2**32, 2**31
# Draws of at most this many blocks per image are made together with the others of their phase: on a
# CPU those that stay in its cache, elsewhere all those of rays and noise, because a pass of the
# generator is as many launches whatever its size.
SMALL, SMALL_ON_DEVICE = 1 << 12, 1 << 18
# Blocks that a CPU computes at once: their words stay in its cache.
CPU_BLOCKS = 1 << 14

Kind = Literal["normal", "uniform", "words"]


def key(*parts: int | str) -> int:
    """A 63-bit seed from any labels, stable across machines, processes and Python versions."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@lru_cache(maxsize=4096)
def _stream_words(phase: str, name: str, kind: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{phase}\x1f{name}\x1f{kind}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def stream_words(phase: str, name: str, kind: str) -> tuple[int, int]:
    """The third and fourth word of the counters of a stream: a hash of its labels."""
    return _stream_words(phase, name, kind)


# The labels are constants of a compiled function. This is what the decorator
# torch.compiler.assume_constant_result does after it has imported the compiler, which takes longer
# than all the rest of gan3d.
stream_words._dynamo_marked_constant = True  # type: ignore[attr-defined]


# ------------------------------------------------------------ the generator


def philox(counter: Sequence[Tensor], seed: int) -> Tensor:
    """Philox4x32-10 in plain torch, for any device.

    Args:
        counter: the four words of every counter, int64 of [0, 2^32), [..] each; they are broadcast.
        seed: the key, 64 bits; its low half is the first word.

    Returns:
        int32 [.. 4]: the bits of the words in the order of the publication, read as signed numbers.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    multipliers = constant(MULTIPLIERS, c0).view(2, *[1] * c0.ndim)
    even, odd = torch.stack([c0, c2]), torch.stack([c3, c1])
    for k0, k1 in round_keys(seed):
        # The product of two 32-bit words wraps in int64, but its 64 bits are right. Low words are
        # left unmasked: only their low 32 bits enter the next round.
        products = even * multipliers
        mixed = (products >> 32) ^ odd
        even, odd = torch.stack([mixed[1] ^ k0, mixed[0] ^ k1]) & MASK, products
    return torch.stack([even[0], odd[1], even[1], odd[0]], dim=-1).to(torch.int32)


def philox_numpy(counter: Sequence[Tensor], seed: int) -> Tensor:
    """`philox` for tensors on the CPU, in half the time: a call of numpy costs less."""
    c0, c1, c2, c3 = (c.numpy().view(np.uint64) for c in torch.broadcast_tensors(*counter))
    even, odd, products = (np.empty((2, *c0.shape), dtype=np.uint64) for _ in range(3))
    even[0], even[1], odd[0], odd[1] = c0, c2, c3, c1
    pair = (2, *[1] * c0.ndim)
    multipliers = np.array(MULTIPLIERS, dtype=np.uint64).reshape(pair)
    keys = np.array(round_keys(seed), dtype=np.uint64)[:, ::-1].reshape(ROUNDS, *pair)
    for round_key in keys:
        np.multiply(even, multipliers, out=products)
        np.right_shift(products, np.uint64(32), out=even)
        even ^= odd
        even ^= round_key
        even &= np.uint64(MASK)
        even = even[::-1]
        odd, products = products, odd
    words = np.empty((*c0.shape, 4), dtype=np.uint32)
    for k, word in enumerate((even[0], odd[1], even[1], odd[0])):
        np.copyto(words[..., k], word, casting="unsafe")  # the low 32 bits
    return torch.from_numpy(words.view(np.int32))


def round_keys(seed: int) -> list[tuple[int, int]]:
    """The two words of the key of each round."""
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    return [((k0 + r * WEYL[0]) & MASK, (k1 + r * WEYL[1]) & MASK) for r in range(ROUNDS)]


def to_uniform(words: Tensor) -> Tensor:
    """The upper 24 bits as float32 of [0, 1): 0 is the most negative word."""
    return (words >> 8).to(torch.float32).mul_(2.0**-24).add_(0.5)


def to_normal(words: Tensor) -> Tensor:
    """N(0, 1) in float32 from pairs of words, [.. 2k] -> [.. 2k] (Box and Muller 1958).

        sqrt(-2 ln u) (cos a, sin a),   u uniform in (0, 1], a in [-pi, pi)

    Computed in float64, so that devices agree; the largest magnitude is 6.66.
    """
    first, second = (words[..., k::2].to(torch.float64) for k in (0, 1))
    radius = first.add_(2.0**31 + 1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = second.mul_(math.pi * 2.0**-31)
    # Each half is rounded into its place: to interleave them in float64 takes longer than all else.
    normal = torch.empty(words.shape, dtype=torch.float32, device=words.device)
    normal[..., 0::2] = angle.cos().mul_(radius)
    normal[..., 1::2] = angle.sin_().mul_(radius)
    return normal


# Each makes a new tensor: `Images._make` counts from the beginning of its storage.
CONVERSIONS = {"normal": to_normal, "uniform": to_uniform, "words": lambda words: words.clone()}


# ------------------------------------------------------------ draws by name


class Request(NamedTuple):
    """A draw: its labels, and its size per image as elements of some numbers each."""

    kind: Kind
    phase: str
    name: str
    elements: int
    numbers: int

    @property
    def labels(self) -> tuple[str, str, Kind]:
        return self.phase, self.name, self.kind

    @property
    def blocks(self) -> int:
        """Blocks of four words that one image takes."""
        return self.elements * -(-self.numbers // 4)


class Images:
    """The images of one batch on one device: makes their draws, for all phases of an iteration.

    Small draws are made together: the first one of a phase brings all that this phase asked for the
    last time, in one pass of the generator. That changes how fast a draw comes, never what it is.
    """

    plans: ClassVar[dict[tuple[str, str], dict[Request, None]]] = {}

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device):
        if not 0 <= seed < MAX_SEED:
            raise ValueError(f"seed {seed} is not in [0, 2^64)")
        if outside := [index for index in indices if not 0 <= index < MAX_IMAGES]:
            raise ValueError(f"image index {outside[0]} is not in [0, 2^32)")
        self.seed, self.device = seed, device
        self._numbers = upload(torch.tensor(indices, dtype=torch.int64), device)[:, None]
        self._made: dict[Request, Tensor] = {}
        self._asked: dict[str, dict[Request, None]] = {}

    def draw(self, request: Request) -> Tensor:
        """The numbers of a draw, [b elements numbers]; not to be changed."""
        small = SMALL if kind_of(self.device) == "cpu" else SMALL_ON_DEVICE
        if torch.compiler.is_compiling() or request.blocks > small:
            return self._make((request,))[request]
        phase = request.phase.partition("/")[0]
        asked = self._asked.get(phase)
        if asked is None:
            plan = self.plans.get((phase, self.device.type), {})
            asked = self._asked[phase] = self.plans[phase, self.device.type] = {}
            self._made |= self._make(tuple(sorted(plan)))
        asked[request] = None
        if request not in self._made:
            self._made |= self._make((request,))
        return self._made[request]

    def draw_elements(self, request: Request, elements: Tensor) -> Tensor:
        """Those elements [r] of a draw, [b r numbers], without making the others."""
        if request.elements == 1:  # its numbers are the elements, four to a block
            values = self._values(request, elements // 4)  # b r 4
            return values.gather(2, (elements % 4)[None, :, None].expand(len(values), -1, 1))[
                ..., 0
            ]
        per_element = request.blocks // request.elements
        steps = torch.arange(per_element, device=self.device)
        blocks = (elements[:, None] * per_element + steps).flatten()
        values = self._values(request, blocks).unflatten(1, (-1, per_element))
        return values.flatten(2)[:, :, : request.numbers]

    def _values(self, request: Request, blocks: Tensor) -> Tensor:
        """Blocks [k] of a draw, [b k 4]."""
        c2, c3 = (torch.full_like(blocks, word) for word in stream_words(*request.labels))
        return CONVERSIONS[request.kind](self._words(blocks, c2, c3))

    def _make(self, requests: tuple[Request, ...]) -> dict[Request, Tensor]:
        """Several draws in one pass of the generator, those of one kind beside each other."""
        made: dict[Request, Tensor] = {}
        if not requests:
            return made
        compiling = torch.compiler.is_compiling()
        counters = (make_counters if compiling else known_counters)(requests, self.device)
        words, start = self._words(*counters), 0
        for kind, some in groupby(requests, key=lambda request: request.kind):
            of_kind = list(some)
            size = sum(request.blocks for request in of_kind)
            values = CONVERSIONS[kind](words[:, start : start + size]).contiguous()
            images, start, offset = len(values), start + size, 0
            for request in of_kind:
                wide = 4 * request.blocks // request.elements
                shape = (images, request.elements, request.numbers)
                made[request] = values.as_strided(shape, (4 * size, wide, 1), offset)
                offset += 4 * request.blocks
        return made

    def _words(self, blocks: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
        """The words of blocks [k] of all images, [b k 4]."""
        if type(blocks) is not Tensor or not blocks.is_cpu or torch.compiler.is_compiling():
            return philox((blocks, self._numbers, c2, c3), self.seed)
        step = max(CPU_BLOCKS // max(len(self._numbers), 1), 1)
        parts = zip(*(t.split(step) for t in (blocks, c2, c3)))
        made = [philox_numpy((k, self._numbers, a, b), self.seed) for k, a, b in parts]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def make_counters(requests: tuple[Request, ...], device: torch.device) -> tuple[Tensor, ...]:
    """First, third and fourth word of the counters of all blocks of some draws."""
    words = [stream_words(*request.labels) for request in requests]
    sizes = [request.blocks for request in requests]
    blocks = torch.cat([torch.arange(size, device=device) for size in sizes])
    ones = [torch.ones(size, dtype=torch.int64, device=device) for size in sizes]
    c2 = torch.cat([one * word for one, (word, _) in zip(ones, words)])
    c3 = torch.cat([one * word for one, (_, word) in zip(ones, words)])
    return blocks, c2, c3


known_counters = lru_cache(maxsize=64)(make_counters)


class Randomness:
    """Draws for one batch, one independent stream per (phase, name) and image.

    Args:
        seed: the run's seed, of [0, 2^64); all its bits count.
        indices: image index of each batch element, [b], of [0, 2^32).
        phase: label mixed into every stream, so that the phases of one iteration draw differently.
        device: where the draws are made and returned.
        dtype: of the draws. They are made in float32 whatever it is, so that a float64 run is the
            float32 run with less rounding.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        phase: str = "",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.seed, self.indices, self.phase = seed, [int(index) for index in indices], phase
        self.device, self.dtype = torch.device(device), dtype
        self._shared: dict[torch.device, Images] = {}  # for all phases
        self._images()
        self._elements: Tensor | None = None
        self._total = 0

    def __len__(self) -> int:
        return len(self.indices)

    def in_phase(self, phase: str) -> Randomness:
        """The same images, other draws."""
        return self._changed(phase=f"{self.phase}/{phase}" if self.phase else phase)

    def on(self, device: torch.device | str) -> Randomness:
        """The same draws on another device."""
        if torch.device(device) == self.device:
            return self
        return self._changed(device=torch.device(device))

    def chosen(self, elements: Tensor, total: int) -> Randomness:
        """The draws of some elements (rays), made without those of the others.

        Shapes of draws then start with the number of elements chosen.

        Args:
            elements: their indices, [r].
            total: of all elements; chosen(arange(total), total) draws as without choosing.
        """
        return self._changed(_elements=upload(elements, self.device), _total=total)

    def normal(self, name: str, *shape: int) -> Tensor:
        """N(0, 1) draws, [b *shape]."""
        return self._draw(name, "normal", shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """U[0, 1) draws, [b *shape]."""
        return self._draw(name, "uniform", shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Integers of [0, high), int64, [b *shape]."""
        if not 1 <= high <= MAX_HIGH:
            raise ValueError(f"integers of [0, {high}): high must be in [1, 2^31]")
        words = self._numbers(name, "words", shape).to(torch.int64) & MASK
        return (words * high) >> 32

    def _draw(self, name: str, kind: Kind, shape: tuple[int, ...]) -> Tensor:
        return self._numbers(name, kind, shape).to(self.dtype)

    def _numbers(self, name: str, kind: Kind, shape: tuple[int, ...]) -> Tensor:
        images, numbers = self._images(), math.prod(shape[1:])
        if self._elements is None:
            size = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], numbers)
            made = images.draw(Request(kind, self.phase, name, *size))
        else:
            if not shape or shape[0] != len(self._elements):
                count = len(self._elements)
                raise ValueError(
                    f"draw {name!r} of shape {shape} for {count} elements; they come first"
                )
            size = (1, self._total) if len(shape) < 2 else (self._total, numbers)
            request = Request(kind, self.phase, name, *size)
            made = images.draw_elements(request, self._elements.to(images.device))
        return made.reshape(len(self), *shape).to(self.device)

    def _images(self) -> Images:
        # Apple's GPUs have no float64, which normal draws are made in.
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        if device not in self._shared:
            self._shared[device] = Images(self.seed, self.indices, device)
        return self._shared[device]

    def _changed(self, **attributes: Any) -> Self:
        other = copy.copy(self)
        other.__dict__ |= attributes
        return other


class Recorded(Randomness):
    """Given draws in place of random ones (parity tests, fixed noise): `draws[name]` has shape
    [b *shape].
    """

    def __init__(self, draws: Mapping[str, Tensor]):
        first = next(iter(draws.values()))
        super().__init__(0, range(len(first)), device=first.device, dtype=first.dtype)
        self.draws = dict(draws)

    def in_phase(self, phase: str) -> Recorded:
        return self

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return self._draw(name, "words", shape)

    def _draw(self, name: str, kind: Kind, shape: tuple[int, ...]) -> Tensor:
        if name not in self.draws:
            recorded = ", ".join(sorted(self.draws))
            raise ValueError(f"no recorded draw named {name!r}; recorded: {recorded}")
        if self._elements is None:
            return self.draws[name].reshape(len(self), *shape)
        whole = self.draws[name].reshape(len(self), self._total, *shape[1:])
        return whole[:, self._elements]
