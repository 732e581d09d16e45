"""Rays, limits, samples, plane sampling and the ray marcher against the published renderer's
numbers (golden/eg3d).
"""

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera, Rays
from gan3d.ops.composite import Samples, composite, interval_weights, optical_depths, reference
from gan3d.ops.triplane import PROJECTIONS, PlaneTable, plane_features_reference
from gan3d.rendering import (
    RenderOptions,
    importance_depths,
    inverse_cdf,
    ray_box,
    ray_limits,
    render_rays,
    stratified_depths,
)

BOXES = pytest.mark.parametrize("box_warp", [1.0, 1.6, 2.4])


@pytest.fixture(scope="module")
def rays(golden, load) -> dict[str, Tensor]:
    return load(golden / "eg3d/components/rays.safetensors")


@pytest.fixture(scope="module")
def renderer(golden, load) -> dict[str, Tensor]:
    return load(golden / "eg3d/components/renderer.safetensors")


@pytest.fixture
def marched(renderer) -> Samples:
    return Samples(
        renderer["march.depths"][..., 0],
        renderer["march.densities"][..., 0],
        renderer["march.colors"],
    )


@pytest.mark.parametrize("resolution", [4, 7])
def test_rays(rays, resolution, near):
    camera = Camera.from_label(rays["c"]).rays(resolution)
    near(camera.origins, rays[f"origins.{resolution}"])
    near(camera.directions, rays[f"directions.{resolution}"])


def test_box_limits(rays, near):
    entry, exit_ = ray_box(rays["box.origins"], rays["box.directions"], 1.6)
    near(entry, rays["box.near"])
    near(exit_, rays["box.far"])


@pytest.mark.parametrize(
    ("name", "start", "end", "samples"),
    [
        ("fixed", 2.25, 3.3, 8),
        ("disparity", 2.25, 3.3, 8),
        ("disparity_wide", 0.1, 2.6, 64),
        ("per_ray", None, None, 8),
    ],
)
def test_stratified_depths(rays, near, name, start, end, samples):
    limits = [
        rays[f"box.{side}"] if value is None else torch.full_like(rays["box.near"], value)
        for side, value in (("near", start), ("far", end))
    ]
    depths = stratified_depths(*limits, samples, disparity=name.startswith("disparity"))
    near(depths[..., None], rays[f"stratified.{name}"])


@BOXES
def test_features_of_each_plane(renderer, box_warp, near):
    features = plane_features_reference(
        renderer["planes"], renderer["coordinates"], box_warp=box_warp, axes="official"
    )
    near(features, renderer[f"features.box{box_warp:g}"])


@BOXES
def test_table_gives_the_mean_of_the_planes(renderer, box_warp, near):
    features = PlaneTable.of(renderer["planes"], "official").features(
        renderer["coordinates"], box_warp=box_warp
    )
    near(features, renderer[f"features.box{box_warp:g}"].mean(1))


@pytest.mark.parametrize(
    ("axes", "name"), [("official", "projected"), ("fixed", "fixed_axes.projected")]
)
def test_projections(renderer, axes, name, near):
    projected = torch.stack(
        [renderer["coordinates"][..., list(pair)] for pair in PROJECTIONS[axes]], 1
    )
    near(projected.flatten(0, 1), renderer[name])


@pytest.mark.parametrize("form", [reference, composite])
@pytest.mark.parametrize("white", [0, 1])
def test_marcher(renderer, marched, form, white, near):
    seen = form(marched, background=float(white) if white else None)
    # The published clamp: rays that meet nothing show the largest depth of the batch.
    depth = torch.where(seen.opacity > 0, seen.depth, marched.depths.max())
    near(2 * seen.rgb - 1, renderer[f"march.rgb.white{white}"])
    near(depth[..., None], renderer[f"march.depth.white{white}"])
    weights = interval_weights(optical_depths(marched.sigma, marched.depths))
    near(weights[..., None], renderer[f"march.weights.white{white}"])
    near(seen.opacity, renderer[f"march.weights.white{white}"].sum((-2, -1)))


def test_importance_depths(renderer, marched, near):
    depths = importance_depths(marched.depths, renderer["march.weights.white0"][..., 0], 6)
    near(depths[..., None], renderer["importance.depths"])


@pytest.mark.parametrize(("eps", "name"), [(1e-5, "pdf.samples"), (0.1, "pdf.samples_eps0.1")])
def test_inverse_cdf(renderer, eps, name, near):
    u = torch.linspace(0, 1, 7).expand(len(renderer["pdf.bins"]), -1)
    near(inverse_cdf(renderer["pdf.bins"], renderer["pdf.weights"], u, eps), renderer[name])


def test_merged_blocks_are_the_published_union(renderer, marched, near):
    second = Samples(
        renderer["unify.depths2"][..., 0],
        renderer["unify.densities2"][..., 0],
        renderer["unify.colors2"],
    )
    union = Samples(
        renderer["unify.depths"][..., 0],
        renderer["unify.densities"][..., 0],
        renderer["unify.colors"],
    )
    for got, want in zip(composite(marched, second), reference(union)):
        near(got, want)


def test_rays_that_miss_take_the_published_limits(rays, near):
    """Q6 of the spec: from the smallest to the largest near limit of the batch."""
    case = Rays(rays["box.origins"], rays["box.directions"], torch.ones_like(rays["box.near"]))
    options = RenderOptions(ray_start="auto", ray_end="auto", box_warp=1.6, auto_limits="official")
    start, end = ray_limits(case, options)
    hit = rays["box.far"] > rays["box.near"]
    near(start[hit], rays["box.near"][hit])
    near(end[hit], rays["box.far"][hit])
    assert (start[~hit] == rays["box.near"][hit].min()).all()
    assert (end[~hit] == rays["box.near"][hit].max()).all()
    seen = render_rays(lambda points, directions: (points[..., :1], points), case, options)
    assert all(value.isfinite().all() for value in seen)
