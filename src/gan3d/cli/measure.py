"""`gan3d measure`: the numbers of the papers for a trained generator, with the protocol that they
stand for.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gan3d.bench.machine import machine_facts
from gan3d.camera import DatasetPoses
from gan3d.checkpoints.models import find_model, load_model
from gan3d.cli.checks import at_least, device_of, file_for
from gan3d.cli.messages import CommandError, say
from gan3d.cli.models import beside, sha256_of
from gan3d.cli.scores import (
    SCORES,
    Network,
    left,
    names_of,
    parts_of,
    reasons,
    says,
    without_reals,
)
from gan3d.data.dataset import ImageSequence, PosedImages, collate
from gan3d.data.fingerprint import fingerprint
from gan3d.data.heads import is_heads
from gan3d.data.images import ResizeFilter
from gan3d.generators import Generator
from gan3d.metrics.equivariance import Kind, measure_equivariance
from gan3d.metrics.exact import full_precision
from gan3d.metrics.features import (
    inception_features,
    inception_probabilities,
    vgg_embedding,
    vgg_features,
)
from gan3d.metrics.frechet import SmallFeatures, feature_moments, frechet_distance
from gan3d.metrics.heads import measure_heads
from gan3d.metrics.inception import inception_score
from gan3d.metrics.kernel import kernel_distance
from gan3d.metrics.measure import (
    Cameras,
    Conditioning,
    Protocol,
    collect,
    fake_pictures,
    latent_batches,
    movable,
    path_steps,
)
from gan3d.metrics.path_length import trimmed_mean
from gan3d.metrics.precision_recall import precision_and_recall
from gan3d.results import write_whole

Element = TypeVar("Element")
MAX_PR_REALS = 200_000  # of pr50k3_full; its cost is quadratic
REAL_BATCH = 16


# What is not measured with the published network does not carry its name.
SMALL_NAMES = {
    "fid": "small/frechet",
    "kid": "small/kernel",
    "precision": "small/precision",
    "recall": "small/recall",
    "ppl": "small/path_length",
}
KINDS: tuple[Kind, ...] = ("eqt", "eqt_frac", "eqr")


@dataclass(frozen=True)
class Job:
    """All that the values follow from."""

    names: list[str]
    generator: Generator
    device: torch.device
    protocol: Protocol
    networks: dict[Network, nn.Module]
    reals: PosedImages | None
    cameras: Cameras | None
    num_workers: int


def measure(
    model: str,
    metrics: str = "fid",
    data: Path | None = None,
    out: Path | None = None,
    num: int = 50_000,
    batch_size: int = 4,
    seed: int = 0,
    truncation: float = 1.0,
    resolution: int | None = None,
    noise: bool = False,
    conditioning: Conditioning = "same",
    features: Literal["published", "small"] = "published",
    inception: Path | None = None,
    vgg: Path | None = None,
    resize_filter: ResizeFilter = "lanczos",
    num_workers: int = 2,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Measures a trained generator: prints a table, and writes it with its protocol as JSON.

    What cannot be measured is named, and does not cancel the others; the exit code is then 2.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        metrics: with commas between them: fid, kid, pr, is, ppl, eqt, eqt_frac, eqr; for generators
            of procedural heads also relief and turn (docs/metrics.md), for which 64 heads will do.
        data: folder or zip of real images; their labels are the cameras of the fakes, too. All
            images are used.
        out: the JSON file; by default beside the checkpoint, ending in .metrics.json.
        num: fakes (pairs for ppl). Published numbers have 50000.
        batch_size: fakes made at once. For eqt, eqt_frac and eqr all of a batch are moved alike;
            published: 4.
        seed: of all draws.
        truncation: psi; published numbers have 1, no truncation.
        resolution: of the rendering; by default as in training, in the stage of the checkpoint.
        noise: draw per-pixel noise and ray jitter; else noise is constant.
        conditioning: camera that the latents of a conditioned model are made for: same as renders
            the picture (older papers), frontal, or independent of it. relief and turn are always
            frontal.
        features: networks of the published protocols, or small fixed ones of gan3d: those tell good
            from bad within one data set, need no file, and give numbers that compare with no
            published one.
        inception: TorchScript file inception-2015-12-05.pt, for fid, kid and is.
        vgg: TorchScript file vgg16.pt, for pr and ppl.
        resize_filter: how real images are shrunk to the size of the fakes.
        num_workers: processes that read real images.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace a file that is there.
    """
    names = names_of(metrics)
    at_least(1, "num", num)
    at_least(1, "batch_size", batch_size)
    refused = without_reals(names) if data is None else {}
    names = left(names, refused)
    checkpoint = find_model(model)
    default = beside(model, checkpoint, ".metrics.json")
    path = file_for(default if out is None else out, overwrite=overwrite)
    place = device_of(device)
    networks = _networks(names, features, inception, vgg, refused)
    names = left(names, refused)
    generator, facts = load_model(checkpoint)
    generator = generator.to(place)
    if resolution is None and "resolution" in facts:
        resolution = facts["resolution"]
        say(f"rendered at {resolution} px, as in the stage of training in which {model} stands")
    protocol = Protocol(num, batch_size, seed, truncation, resolution, noise, conditioning)
    reals, cameras = _reals(data, generator, resolution, resize_filter)
    networks = {name: network.to(place) for name, network in networks.items()}
    start = time.monotonic()
    with full_precision():
        values = _scores(
            Job(names, generator, place, protocol, networks, reals, cameras, num_workers), refused
        )
    left(names, refused)
    if features == "small":
        values = {SMALL_NAMES.get(name, name): value for name, value in values.items()}
    record = {
        "results": values,
        "not_measured": refused,
        "checkpoint": {
            "file": str(checkpoint),
            "sha256": sha256_of(checkpoint),
            "class": type(generator).__name__,
        }
        | facts,
        "protocol": {
            **asdict(protocol),
            "features": features,
            "networks": {name: _describe(network) for name, network in networks.items()},
            "data": None if data is None else str(data),
            "num_real": None if reals is None else len(reals),
            "fingerprint": None if reals is None else fingerprint(reals),
            "resize_filter": None if reals is None else resize_filter,
            "real_resolution": None if reals is None else reals.resolution,
            "cameras": "labels of the data" if cameras is not None else None,
            "equivariance_of": "planes" if generator.has_camera else "pictures",
        },
        "made_with": machine_facts(place) | {"seconds": round(time.monotonic() - start, 1)},
    }
    _write(path, record)
    table = _table(values, num, path)
    if refused:
        print(table)
        raise CommandError(*reasons(refused))
    return table


def _networks(
    names: Iterable[str],
    features: str,
    inception: Path | None,
    vgg: Path | None,
    refused: dict[str, str],
) -> dict[Network, nn.Module]:
    """The networks of some metrics; those whose network is not there are refused."""
    makers = {
        "inception": lambda: inception_features(inception),
        "classes": lambda: inception_probabilities(inception),
        "vgg": lambda: vgg_features(vgg),
        "lpips": lambda: vgg_embedding(vgg),
    }
    networks: dict[Network, nn.Module] = {}
    for name in names:
        network = SCORES[name].network
        if network is None or network in networks:
            continue
        with _refusing(refused, name):
            if features == "published":
                networks[network] = makers[network]()
            elif network == "classes":
                raise ValueError(
                    "is needs the classes of Inception, which the small features do not have; "
                    "leave it out"
                )
            else:
                networks[network] = SmallFeatures().eval()
    return networks


@contextmanager
def _refusing(refused: dict[str, str], *names: str) -> Iterator[None]:
    """Notes why metrics cannot be measured, in place of ending all of them."""
    try:
        yield
    except (ValueError, ArithmeticError) as error:
        refused |= dict.fromkeys(names, str(error))


def _reals(
    data: Path | None, generator: Generator, resolution: int | None, resize_filter: ResizeFilter
) -> tuple[PosedImages | None, Cameras | None]:
    """The real images in the size of the fakes, and cameras drawn from their labels."""
    posed = generator.has_camera or generator.camera_conditioned
    if data is None:
        return None, None
    side = (
        resolution
        if resolution is not None and generator.any_resolution
        else generator.img_resolution
    )
    reals = PosedImages(data, resolution=side, resize_filter=resize_filter, use_labels=posed)
    return reals, DatasetPoses().bind(cast(Tensor, reals.labels)).sample if posed else None


def _scores(job: Job, refused: dict[str, str]) -> dict[str, float]:
    """All values by name, in the order asked for; what cannot be measured is refused."""
    kinds = [kind for kind in KINDS if kind in job.names]
    synthesize = None
    if kinds:
        with _refusing(refused, *kinds):  # before the long work
            synthesize = movable(job.generator)
    found: dict[str, float] = {}
    of_pictures = [name for name in job.names if SCORES[name].network not in (None, "lpips")]
    with _refusing(refused, *of_pictures):
        found |= _of_pictures(job, refused)
    if "ppl" in job.names:
        with _refusing(refused, "ppl"):
            steps = path_steps(job.generator, job.networks["lpips"], job.protocol, job.cameras)
            found["ppl"] = float(
                trimmed_mean(torch.cat(list(_progress(steps, job.protocol.num_batches, "paths"))))
            )
    of_heads = [name for name in job.names if SCORES[name].of_heads]
    if of_heads:
        with _refusing(refused, *of_heads):
            found |= _of_heads(job)
    if synthesize is not None:
        with _refusing(refused, *kinds):
            latents = latent_batches(job.generator, job.protocol, job.cameras)
            moved = measure_equivariance(
                synthesize, _progress(latents, job.protocol.num_batches, "motions"), kinds
            )
            found |= {str(kind): value for kind, value in moved.items()}
    values: dict[str, float] = {}
    for name in job.names:
        parts = parts_of(name)
        if any(math.isnan(found.get(part, 0.0)) for part in parts):
            refused[name] = "it came out as NaN: the generator's pictures are not finite"
        elif name not in refused:
            values |= {part: found[part] for part in parts}
    return values


def _of_heads(job: Job) -> dict[str, float]:
    """The signed measures of procedural heads, from the cameras of these."""
    if job.reals is not None and not is_heads(job.reals.archive):
        raise ValueError(
            f"{job.reals.archive.path} holds no procedural heads with their ground truth, and "
            "these metrics know the shape and the camera of those only; leave them out, or give "
            "--data a set of gan3d data heads"
        )
    draws = _progress(job.protocol.draws(job.device), job.protocol.num_batches, "heads")
    return measure_heads(
        job.generator,
        (draw.normal("z", job.generator.z_dim) for draw in draws),
        truncation=job.protocol.truncation,
        resolution=job.protocol.resolution,
        relief="relief" in job.names,
        turn="turn" in job.names,
    )


def _of_pictures(job: Job, refused: dict[str, str]) -> dict[str, float]:
    """Everything that compares features of pictures; these are made once for all of it."""
    scores = [SCORES[name] for name in job.names if SCORES[name].network not in (None, "lpips")]
    of_fakes = {score.network: job.networks[score.network] for score in scores if score.network}
    of_reals = {
        score.network: job.networks[score.network]
        for score in scores
        if score.network and score.real
    }
    if not of_fakes:
        return {}
    real: dict[Network, Tensor] = {}
    if of_reals and job.reals is not None:
        loader = DataLoader(
            ImageSequence(job.reals, range(len(job.reals))),
            REAL_BATCH,
            collate_fn=collate,
            num_workers=job.num_workers,
        )
        batches = (batch.to(job.device).image for batch in _progress(loader, len(loader), "reals"))
        real = collect(batches, of_reals)
    fakes = fake_pictures(job.generator, job.protocol, job.cameras)
    fake = collect(_progress(fakes, job.protocol.num_batches, "fakes"), of_fakes)
    return _compare(job.names, _on(job.device, real), _on(job.device, fake), refused)


def _on(device: torch.device, side: Mapping[Network, Tensor]) -> dict[Network, Tensor]:
    return {name: matrix.to(device) for name, matrix in side.items()}


def _compare(
    names: list[str],
    real: dict[Network, Tensor],
    fake: dict[Network, Tensor],
    refused: dict[str, str],
) -> dict[str, float]:
    """What follows from the features."""
    found: dict[str, float] = {}
    if "fid" in names:
        with _refusing(refused, "fid"):
            moments = (*feature_moments(real["inception"]), *feature_moments(fake["inception"]))
            found["fid"] = float(frechet_distance(*moments))
    if "kid" in names:
        with _refusing(refused, "kid"):
            found["kid"] = float(kernel_distance(real["inception"], fake["inception"]))
    if "pr" in names:
        with _refusing(refused, "pr"):
            precision, recall = precision_and_recall(real["vgg"][:MAX_PR_REALS], fake["vgg"])
            found |= {"precision": float(precision), "recall": float(recall)}
    if "is" in names:
        with _refusing(refused, "is"):
            found["is"] = float(inception_score(fake["classes"])[0])
    return found


def _progress(batches: Iterable[Element], total: int, what: str) -> Iterable[Element]:
    return tqdm(
        batches, desc=what, total=total, unit="batch", disable=not sys.stderr.isatty(), leave=False
    )


def _describe(network: nn.Module) -> str:
    description = getattr(network, "description", None)
    return (
        str(description)
        if description is not None
        else f"gan3d {type(network).__name__}, no published network"
    )


def _write(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=2) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _table(values: dict[str, float], num: int, path: Path) -> str:
    width = max(len(name) for name in values)
    rows = [f"{name:<{width}}  {value:10.5g}  {_says(name)}" for name, value in values.items()]
    if any(name in SMALL_NAMES.values() for name in values):
        rows.append("small/..: by the small features of gan3d, comparable with no published number")
    return "\n".join([*rows, f"{num} fakes; protocol and values: {path}"])


def _says(name: str) -> str:
    name = next((long for long, short in SMALL_NAMES.items() if short == name), name)
    return says(name)
