"""Inversion: the latents, and the camera, with which a generator shows given pictures.

    w      the latents stay among those that the mapping network makes: coordinates along the
           principal components of mapped latents (Harkonen et al. 2020, section 3.1)
    w+     from half of the steps on, every latent also moves along its own components (Abdal et
           al. 2019, section 5)
    pti    w, then the generator itself is tuned around it (Roich et al. 2021, section 3)

The search begins at the nearest of `CANDIDATES` scenes, seen by the cameras it starts from: from
the mean it may end in a scene that is turned otherwise. Coordinates are measured in standard
deviations, so one learning rate fits all generators, and their square is the prior. The schedule of
steps and the shrinking noise on the coordinates are those of StyleGAN2's projector (Karras et al.
2020, appendix D). Yaw and pitch of every view are refined with the latents, and the focal length,
which all views share, if asked for. A generator that is conditioned on the camera is given the
frontal one throughout.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from kornia.geometry.transform import build_laplacian_pyramid
from torch import Tensor, nn
from tqdm.auto import tqdm

from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.camera.pinhole import DEFAULT_FOV, field_of_view, focal_length
from gan3d.generators import Generator, Rendering, pin, unpin
from gan3d.metrics.mobilenet import mobilenet_features
from gan3d.randomness import Randomness

Space = Literal["w", "w+", "pti"]
Distance = Callable[[Tensor, Tensor], Tensor]  # two batches of pictures -> a number

MAPPED = 1024  # latents whose components are taken
CANDIDATES = 64  # of them, of which the nearest is where the search begins
LEAST_SPREAD = 1e-4  # of a component, relative to the first one; others are left out


@dataclass(frozen=True)
class InversionOptions:
    """How a picture is inverted.

    Args:
        space: where the latents may go.
        steps: of the latents and cameras.
        tuning_steps: of the generator's weights, for pti.
        lr: of the coordinates, in standard deviations.
        pose_lr: of yaw and pitch, radians, and of the logarithm of the focal length.
        tuning_lr: of the weights.
        noise: standard deviation of the noise on the coordinates at the beginning.
        prior: weight of the mean square of the coordinates.
        pixels: weight of the mean square of the difference of pixels.
        locality: weight of what tuning changes in other scenes (Roich et al., equation 4).
        refine_pose: whether yaw and pitch are refined.
        refine_focal: whether the focal length is.
        seed: of the draws.
    """

    space: Space = "w"
    steps: int = 200
    tuning_steps: int = 100
    lr: float = 0.2
    pose_lr: float = 0.02
    tuning_lr: float = 3e-4
    noise: float = 0.2
    prior: float = 1e-3
    pixels: float = 1.0
    locality: float = 0.1
    refine_pose: bool = True
    refine_focal: bool = False
    seed: int = 0

    @property
    def total(self) -> int:
        """All steps."""
        return self.steps + (self.tuning_steps if self.space == "pti" else 0)


@dataclass(frozen=True)
class Pose:
    """Where the cameras of v views stand, looking at the origin.

    Attributes:
        yaw: radians, [v].
        pitch: radians, [v].
        fov: degrees.
        radius: distance.
    """

    yaw: Tensor
    pitch: Tensor
    fov: float = DEFAULT_FOV
    radius: float = 2.7

    def camera(self) -> Camera:
        """v cameras."""
        return Camera.from_angles(self.yaw, self.pitch, radius=self.radius, fov=self.fov)


@dataclass(frozen=True)
class Components:
    """Principal components of latents: ws = mean + (coordinates * spread) @ directions, in groups.

    Attributes:
        mean: [g k], k numbers in each of g groups: one group of all latents, or a group each.
        directions: orthonormal rows, [g c k].
        spread: standard deviation along them, [g c]; 0 for those that are left out.
        shape: (n, w) of the latents.
    """

    mean: Tensor
    directions: Tensor
    spread: Tensor
    shape: tuple[int, int]

    def latents(self, coordinates: Tensor) -> Tensor:
        """[g c] -> ws [1 n w]."""
        return self.mean.reshape(1, *self.shape) + self.moves(coordinates)

    def moves(self, coordinates: Tensor) -> Tensor:
        """[g c] -> how far from the mean, [1 n w]."""
        moved = torch.einsum("gc,gck->gk", coordinates * self.spread, self.directions)
        return moved.reshape(1, *self.shape)

    def coordinates(self, ws: Tensor) -> Tensor:
        """The nearest coordinates of ws [1 n w], [g c]."""
        away = ws.reshape(self.mean.shape) - self.mean
        along = torch.einsum("gk,gck->gc", away, self.directions)
        return torch.where(self.spread > 0, along / self.spread.clamp_min(1e-12), 0)


def components(ws: Tensor, *, of_each: bool = False) -> Components:
    """Principal components of mapped latents.

    Args:
        ws: [m n w], of m random z.
        of_each: whether each of the n latents has components of its own.
    """
    m, n, w = ws.shape
    groups = ws.transpose(0, 1) if of_each else ws.reshape(1, m, n * w)
    mean = groups.mean(dim=1)
    _, s, directions = torch.linalg.svd(groups - mean[:, None], full_matrices=False)
    spread = s / math.sqrt(m - 1)
    kept = spread >= LEAST_SPREAD * spread[:, :1]
    return Components(mean, directions, spread * kept, (n, w))


def laplacian_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the levels of a Laplacian pyramid of the mean absolute difference.

    Args:
        a: pictures [b 3 H W].
        b: others of this shape.
    """
    levels = max(1, int(math.log2(a.shape[-1])) - 2)
    first, second = (build_laplacian_pyramid(x, levels) for x in (a, b))
    total = a.new_zeros(())
    for x, y in zip(first, second, strict=True):
        total = total + (x - y).abs().mean()
    return total


def mobilenet_distance() -> Distance:
    """`laplacian_distance`, plus the squared differences of MobileNetV2's activations, of unit
    length at every place (Zhang et al. 2018, equation 1, without learned weights), summed over five
    resolutions.

    Raises:
        ValueError: the package of the weights is not installed.
    """
    network = mobilenet_features()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        network.to(a.device)
        total = laplacian_distance(a, b)
        for x, y in zip(network.maps(a), network.maps(b), strict=True):
            apart = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1)
            total = total + apart.mean().to(total)
        return total

    return distance


class Inversion:
    """The search for a scene, step by step: `state_dict` and `load_state_dict` outlast a stop.

    Args:
        generator: any generator, in evaluation mode; `pti` changes its weights.
        pictures: v views of one scene [v 3 H W] in [-1, 1], of the generator's size.
        start: of the cameras; None for a 2D model, which has one view.
        options: how.
        mask: what counts, in [0, 1], [v 1 H W]; None is everything.
        distance: perceptual distance of pictures, beside that of pixels.
        resolution: of the rendering; None is the generator's own.

    Raises:
        ValueError: pictures, mask and cameras do not fit each other or the generator.
    """

    def __init__(
        self,
        generator: Generator,
        pictures: Tensor,
        start: Pose | None,
        options: InversionOptions,
        *,
        mask: Tensor | None = None,
        distance: Distance = laplacian_distance,
        resolution: int | None = None,
    ):
        _check(generator, pictures, start, mask)
        self.generator, self.options, self.resolution = unpin(generator), options, resolution
        self.pictures, self.mask, self.distance = pictures, mask, distance
        self.start = start
        self.step = 0
        self.losses: list[float] = []

        # the space of the latents
        with evaluating(generator):
            draw = Randomness(options.seed, range(MAPPED), device=pictures.device)
            front = None if start is None else start.camera()
            condition = None if front is None else generator.frontal_condition(front, MAPPED)
            ws = generator.map(draw.normal("z", generator.z_dim), condition)
        self.components = components(ws)
        self.of_each = components(ws, of_each=True) if options.space == "w+" else None
        self.others = ws  # where to begin, and for locality

        # what is searched
        self.coordinates = nn.Parameter(torch.zeros_like(self.components.spread))
        own = self.of_each.spread if self.of_each else ws.new_zeros(0)
        self.offsets = nn.Parameter(torch.zeros_like(own))
        angles = pictures.new_zeros(2, len(pictures))
        if start is not None:
            angles = torch.stack([start.yaw, start.pitch]).to(angles)
        self.angles = nn.Parameter(angles)
        self.log_focal = nn.Parameter(angles.new_zeros(()))
        posed = [self.angles] if start is not None and options.refine_pose else []
        posed += [self.log_focal] if start is not None and options.refine_focal else []
        groups = [{"params": [self.coordinates, self.offsets], "lr": options.lr}]
        groups += [{"params": posed, "lr": options.pose_lr}] if posed else []
        self.searching = torch.optim.Adam(groups, betas=(0.9, 0.999))
        self.rates = [group["lr"] for group in self.searching.param_groups]
        pti = options.space == "pti"
        self.original = copy.deepcopy(generator) if pti else None
        self.tuned = list(generator.parameters()) if pti else []
        self.tuning = torch.optim.Adam(self.tuned, lr=options.tuning_lr) if self.tuned else None

    @property
    def ws(self) -> Tensor:
        """The latents, [1 n w], without gradient."""
        return self._latents(self.coordinates, free=True).detach()

    def pose(self) -> Pose | None:
        """The cameras of the views; None for a 2D model."""
        if self.start is None:
            return None
        yaw, pitch = self.angles.detach()
        focal = focal_length(self.start.fov, None) * self.log_focal.detach().exp()
        return Pose(yaw, pitch, float(field_of_view(focal)), self.start.radius)

    def run(self) -> Iterator[int]:
        """Takes the steps that are left, and yields the number of steps taken after each."""
        if self.step == 0:
            self._begin()
        while self.step < self.options.total:
            searching = self.step < self.options.steps
            with _differentiable(self.generator, self.tuned if not searching else []):
                loss = self._search() if searching else self._tune()
            if not math.isfinite(loss):
                raise ArithmeticError(
                    f"step {self.step + 1} of the inversion has loss {loss}; choose a smaller "
                    "learning rate"
                )
            self.losses.append(loss)
            self.step += 1
            yield self.step

    def show(self) -> Rendering:
        """The views as they are inverted so far."""
        pose = self.pose()
        with evaluating(self.generator):
            scene = self.generator.represent(self._of_each_view(self.ws))
            return self.generator.render(
                scene, pose.camera() if pose else None, resolution=self.resolution
            )

    def result(self) -> Inverted:
        """What there is so far; the generator is pinned to it."""
        views = self.show()
        missed = (views.image.cpu() - self.pictures.cpu()) / 2
        counted = (
            torch.ones_like(missed) if self.mask is None else self.mask.cpu().expand_as(missed)
        )
        mse = (missed.square() * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp_min(1)
        psnr = (-10 * mse.clamp_min(1e-12).log10()).tolist()
        return Inverted(pin(self.generator, self.ws), self.ws, self.pose(), views, tuple(psnr))

    def state_dict(self) -> dict[str, Any]:
        """All that changes; tensors and numbers."""
        return {
            "step": self.step,
            "losses": self.losses,
            "coordinates": self.coordinates.detach(),
            "offsets": self.offsets.detach(),
            "angles": self.angles.detach(),
            "log_focal": self.log_focal.detach(),
            "searching": self.searching.state_dict(),
            "tuning": self.tuning.state_dict() if self.tuning else {},
            "generator": self.generator.state_dict() if self.tuned else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same inversion."""
        self.step, self.losses = state["step"], list(state["losses"])
        with torch.no_grad():
            for name in ("coordinates", "offsets", "angles", "log_focal"):
                getattr(self, name).copy_(state[name])
        self.searching.load_state_dict(state["searching"])
        if self.tuning is not None:
            self.tuning.load_state_dict(state["tuning"])
            self.generator.load_state_dict(state["generator"])

    # -- Steps -------------------------------------------------------------------------------------

    @torch.no_grad()
    def _begin(self) -> None:
        """Goes to the candidate that misses least."""
        camera = self._cameras()
        candidates = self.others[:CANDIDATES].split(1)
        with evaluating(self.generator):
            missed = [self._misses(self._render(ws, camera).image) for ws in candidates]
        nearest = candidates[int(torch.stack(missed).argmin())]
        self.coordinates.copy_(self.components.coordinates(nearest))

    def _search(self) -> float:
        options, share = self.options, self.step / self.options.steps
        for group, rate in zip(self.searching.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1, (1 - share) / 0.25, (share + 1 / options.steps) / 0.05)
        draw = Randomness(options.seed, [self.step], "inversion", device=self.angles.device)
        noise = draw.normal("noise", self.coordinates.numel()).reshape(self.coordinates.shape)
        strength = options.noise * max(0.0, 1 - share / 0.75) ** 2
        ws = self._latents(self.coordinates + strength * noise, free=share >= 0.5)
        loss = self._misses(self._render(ws, self._cameras()).image)
        loss = loss + options.prior * self.coordinates[self.components.spread > 0].square().mean()
        if self.of_each is not None:
            loss = loss + options.prior * self.offsets[self.of_each.spread > 0].square().mean()
        return _step(loss, self.searching)

    def _tune(self) -> float:
        """A step of the weights: the views, and other scenes that are to stay as they are."""
        assert self.tuning is not None
        assert self.original is not None
        options, ws = self.options, self.ws
        pose = self.pose()
        camera = None if pose is None else pose.camera()
        loss = self._misses(self._render(ws, camera).image)
        other = self.others[self.step % len(self.others)][None]
        other = (ws + other) / 2
        with evaluating(self.original):
            expected = self._render(other, camera, self.original).image
        changed = self._render(other, camera).image - expected
        return _step(loss + options.locality * changed.square().mean(), self.tuning)

    def _latents(self, coordinates: Tensor, *, free: bool) -> Tensor:
        """ws [1 n w]; `free`: with the offsets of every latent, if there are any."""
        ws = self.components.latents(coordinates)
        return ws if self.of_each is None or not free else ws + self.of_each.moves(self.offsets)

    def _misses(self, image: Tensor) -> Tensor:
        target = self.pictures
        if self.mask is not None:
            image, target = image * self.mask, target * self.mask
        return self.distance(image, target) + self.options.pixels * F.mse_loss(image, target)

    def _render(
        self, ws: Tensor, camera: Camera | None, generator: Generator | None = None
    ) -> Rendering:
        generator = generator or self.generator
        scene = generator.represent(self._of_each_view(ws))
        return generator.render(scene, camera, resolution=self.resolution, raw=False)

    def _of_each_view(self, ws: Tensor) -> Tensor:
        return ws.expand(len(self.pictures), -1, -1)

    def _cameras(self) -> Camera | None:
        if self.start is None:
            return None
        yaw, pitch = self.angles
        focal = focal_length(self.start.fov, None) * self.log_focal.exp()
        return Camera.from_angles(yaw, pitch, radius=self.start.radius, focal=focal)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@contextmanager
def _differentiable(generator: Generator, weights: list[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode with gradients, for some of the weights."""
    wanted = {parameter: parameter.requires_grad for parameter in generator.parameters()}
    with evaluating(generator), torch.enable_grad():
        generator.requires_grad_(False)
        for parameter in weights:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter, before in wanted.items():
                parameter.requires_grad_(before)


def _check(generator: Generator, pictures: Tensor, start: Pose | None, mask: Tensor | None) -> None:
    kind, side = type(generator).__name__, pictures.shape[-1]
    size = generator.img_resolution
    if pictures.ndim != 4 or pictures.shape[1:] != (3, side, side):
        raise ValueError(
            f"pictures have shape {tuple(pictures.shape)}; expected [v 3 {size} {size}]"
        )
    if side != size and not generator.any_resolution:
        raise ValueError(f"pictures have {side} px, {kind} makes {size} px; resize them")
    if mask is not None and mask.shape != (len(pictures), 1, side, side):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; expected [{len(pictures)} 1 {side} {side}]"
        )
    if not generator.has_camera:
        if start is not None or len(pictures) > 1:
            raise ValueError(
                f"{kind} is a 2D model, it has one view and no camera; give one picture, no pose"
            )
        return
    if start is None or not len(start.yaw) == len(start.pitch) == len(pictures):
        given = "none" if start is None else f"{len(start.yaw)} yaws, {len(start.pitch)} pitches"
        raise ValueError(
            f"{len(pictures)} views of {kind} need a yaw and a pitch to start from each, "
            f"got {given}"
        )


@dataclass(frozen=True)
class Inverted:
    """What became of an inversion.

    Attributes:
        generator: pinned to the scene: every verb and function shows it, whatever the seed.
        ws: its latents, [1 n w].
        pose: where the cameras of the pictures stand; None for a 2D model.
        views: the pictures as the generator shows them.
        psnr: of each of them against what was given, dB, where the mask is not 0.
    """

    generator: Generator
    ws: Tensor
    pose: Pose | None
    views: Rendering
    psnr: tuple[float, ...]


def invert(
    generator: Generator,
    pictures: Tensor,
    yaw: float | Sequence[float] = 0.0,
    pitch: float | Sequence[float] = 0.0,
    *,
    radius: float = 2.7,
    fov: float = DEFAULT_FOV,
    mask: Tensor | None = None,
    progress: bool = True,
    **options: Any,
) -> Inverted:
    """Finds the scene that pictures show.

    Args:
        generator: any generator; it is not changed.
        pictures: v views of one scene [v 3 H W] in [-1, 1].
        yaw: where to start from, radians, one for all views or one each.
        pitch: the same.
        radius: distance of the cameras; that of the training.
        fov: degrees.
        mask: what counts, in [0, 1], [v 1 H W].
        progress: show a progress bar.
        options: of `InversionOptions`: space, steps, seed, ..

    Example:
        >>> import gan3d
        >>> generator = gan3d.from_pretrained("eg3d_heads32")
        >>> picture = gan3d.sample(generator, seeds=[3]).image
        >>> head = gan3d.invert(generator, picture, steps=4, progress=False)
        >>> gan3d.sample(head.generator, seeds=[0]).image.shape
        torch.Size([1, 3, 32, 32])
    """
    generator = copy.deepcopy(generator)
    place = next(generator.parameters())
    start = None
    if generator.has_camera:
        yaws, pitches = (
            torch.as_tensor(angles, dtype=torch.float32).expand(len(pictures)).to(place)
            for angles in (yaw, pitch)
        )
        start = Pose(yaws, pitches, fov, radius)
    masked = None if mask is None else mask.to(place)
    search = Inversion(
        generator, pictures.to(place), start, InversionOptions(**options), mask=masked
    )
    steps = tqdm(search.run(), total=search.options.total, unit="step", disable=not progress)
    for _ in steps:
        pass
    return search.result()
