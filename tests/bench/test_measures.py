"""What the benchmark measures: equal to the metrics it is made of, whatever the model."""

import math
from dataclasses import replace

import pytest
import torch

from gan3d.bench.evaluation import evaluate, origin_of
from gan3d.bench.measures import MEASURES, column_of
from gan3d.camera import DatasetPoses
from gan3d.data.heads import head_camera
from gan3d.generators import GENERATORS
from gan3d.metrics.alarms import flatness
from gan3d.metrics.epipolar import EpipolarLines
from gan3d.metrics.equivariance import measure_equivariance
from gan3d.metrics.fields import FitOptions
from gan3d.metrics.frechet import feature_moments, frechet_distance
from gan3d.metrics.heads import measure_heads
from gan3d.metrics.measure import (
    Protocol,
    collect,
    fake_pictures,
    latent_batches,
    path_steps,
)
from gan3d.metrics.path_length import trimmed_mean
from gan3d.metrics.precision_recall import precision_and_recall
from gan3d.metrics.readings import AttributeDrift, PoseError
from gan3d.metrics.refit import Reconstruction, SelfConsistency
from gan3d.metrics.reprojection import Reprojection
from gan3d.metrics.symmetry import mirror_symmetry
from gan3d.metrics.turn import YAWS
from gan3d.metrics.views import measure_views

ABOUT = {"name": "a", "file": "a", "sha256": "0" * 64, "origin": "trained here"}


@pytest.mark.parametrize("conditioning", ["same", "frontal"])
def test_a_distance_is_that_of_the_pictures_of_its_conditioning(subject_of, conditioning):
    subject = subject_of("EG3D")
    pictures = "same" if conditioning == "same" else "3d"
    value = MEASURES["frechet"].compute(subject)[f"fd_headnet/{pictures}"]

    protocol = Protocol(num=12, batch_size=16, conditioning=conditioning)
    cameras = DatasetPoses().bind(subject.reals.labels).sample
    made = fake_pictures(subject.generator, protocol, cameras)
    fake = collect(made, {"headnet": subject.networks["headnet"]})["headnet"]
    images = torch.stack([subject.reals[k][0] for k in range(24)]) / 127.5 - 1
    real = subject.networks["headnet"](images)
    expected = frechet_distance(*feature_moments(real), *feature_moments(fake))
    assert value.value == pytest.approx(float(expected), rel=1e-4)


def test_both_distances_differ_for_a_conditioned_model_and_are_one_for_others(subject_of):
    conditioned, free = subject_of("EG3D"), subject_of("PiGAN")
    assert conditioned.is_conditioned
    assert not free.is_conditioned
    for subject, are_equal in ((conditioned, False), (free, True)):
        values = MEASURES["frechet"].compute(subject)
        assert (values["fd_small/same"] == values["fd_small/3d"]) == are_equal


def test_precision_and_recall_are_those_of_the_metric(subject_of):
    subject = subject_of("PiGAN")
    values = MEASURES["precision_recall"].compute(subject)
    real, fake = subject.real["headnet"], subject.fake("3d")["headnet"]
    precision, recall = precision_and_recall(real, fake)
    assert values["precision_headnet"].value == float(precision)
    assert values["recall_headnet"].value == float(recall)


def test_relief_and_turn_are_those_of_measure_heads(subject_of):
    subject = subject_of("EG3D")
    found = {**MEASURES["relief"].compute(subject), **MEASURES["turn"].compute(subject)}
    draws = replace(subject.protocol, num=4).draws()
    latents = [draw.normal("z", subject.generator.z_dim) for draw in draws]
    expected = measure_heads(subject.generator, latents)
    assert list(found) == list(expected)
    for name, interval in found.items():
        assert interval.value == pytest.approx(expected[name], rel=1e-5, abs=1e-6)
        assert interval.low <= interval.value + 1e-12
        assert interval.high >= interval.value - 1e-12


def test_readings_and_views_are_means_over_the_heads_of_the_metrics(subject_of):
    subject = subject_of("PiGAN")
    found = {**MEASURES["readings"].compute(subject), **MEASURES["views"].compute(subject)}
    metrics = (PoseError(), AttributeDrift(), Reprojection(), EpipolarLines())
    expected = measure_views(subject.generator, subject.latents(subject.heads_protocol), metrics)
    for name, value in expected.items():
        if isinstance(found[name], str):
            assert math.isnan(value)
        else:
            assert found[name].value == pytest.approx(value, rel=1e-3)
    assert not isinstance(found["drift"], str)


def test_fields_are_fitted_to_the_first_scenes_as_the_suite_says(subject_of):
    subject = subject_of("PiGAN")
    found = MEASURES["fields"].compute(subject)
    options = FitOptions(steps=subject.suite.fit_steps)
    latents = [z[:2] for z in subject.latents(subject.heads_protocol)]
    metrics = [Reconstruction(options), SelfConsistency(options)]
    expected = measure_views(subject.generator, latents, metrics)
    assert list(found) == list(expected)
    for name, value in expected.items():
        if not math.isnan(value):
            assert found[name].value == pytest.approx(value, rel=1e-3)
    assert not isinstance(found["self_psnr"], str)


def test_flatness_is_that_of_the_front_and_mirroring_that_of_its_metric(subject_of):
    subject = subject_of("EG3D")
    (z,) = subject.latents(subject.heads_protocol)
    front = head_camera(torch.zeros(4), torch.zeros(4))
    generator = subject.generator
    with torch.no_grad():
        view = generator.render(generator.represent(generator.map(z, front)), front)
    values = flatness(view.depth, view.opacity, front) / 2.7
    found = MEASURES["flatness"].compute(subject)["flatness"]
    assert found.value == pytest.approx(float(values.mean()), rel=1e-4)

    expected = mirror_symmetry(generator, z, yaw=0.5, num=2)
    assert MEASURES["mirror"].compute(subject)["mirror"].value == pytest.approx(
        expected.mean, rel=1e-3, abs=1e-4
    )


def test_heads_that_are_symmetric_have_no_mirroring(subject_of):
    subject = subject_of("EG3D")
    images = torch.rand(4, len(YAWS), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    subject.turned = subject.turned._replace(images=images + images.flip(-1))
    assert "symmetric from the front" in MEASURES["mirror"].compute(subject)["mirror"]


def test_equivariance_is_that_of_the_metric_with_a_motion_per_picture(subject_of):
    subject = subject_of("StyleGAN3")
    found = MEASURES["equivariance"].compute(subject)
    protocol = Protocol(num=4, batch_size=1)
    batches = latent_batches(subject.generator, protocol)
    expected = measure_equivariance(subject.generator.synthesize, batches, ("eqt", "eqr"))
    for kind, value in expected.items():
        assert found[kind].value == pytest.approx(value, rel=1e-6)
        assert found[kind].low <= value <= found[kind].high


@pytest.mark.parametrize("name", ["StyleGAN2", "EG3D"])
def test_the_path_length_is_that_of_the_metric(subject_of, name):
    subject = subject_of(name)
    found = MEASURES["path_length"].compute(subject)["ppl_headnet"]
    network = subject.networks["headnet"]
    protocol = Protocol(num=4, batch_size=16)
    steps = path_steps(subject.generator, network, protocol, subject.cameras)
    assert found.value == pytest.approx(float(trimmed_mean(torch.cat(list(steps)))), rel=1e-6)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_member_is_measured_and_what_it_cannot_have_is_absent_with_the_reason(
    subject_of, name
):
    subject = subject_of(name)
    record = evaluate(subject, ABOUT)
    expected = {key for measure in MEASURES.values() for key in measure.columns}
    found = {*record["values"], *record["absent"]}
    assert expected == {next(k for k in expected if key.startswith(k)) for key in found}
    assert all(map(column_of, found))
    moved = {key: record["absent"].pop(key, "") for key in ("eqt", "eqr")}
    for why in moved.values():
        assert ("takes no transform of its picture" in why) == (not subject.generator.movable)
    if subject.generator.has_camera:  # of random scenes there may be nothing to compare
        assert set(record["absent"].values()) <= {"there is nothing to compare in any head"}
    else:
        without = {"fd_headnet/3d", "turn", "face_slope", "flatness", "mirror", "self_psnr"}
        assert without <= set(record["absent"])
        assert all("no camera" in record["absent"][key] for key in without)
        assert {"fd_headnet/same", "precision_headnet", "ppl_headnet"} <= set(record["values"])
    speed = record["speed"]
    for key in ("cached_images_per_second", "ms_per_view"):  # a 2D scene is the picture
        assert (speed[key] is not None) == subject.generator.has_camera
    assert speed["gflops_per_image"] > 0


def test_pictures_that_are_not_finite_are_absent_and_end_nothing(subject_of):
    subject = subject_of("StyleGAN2")
    with torch.no_grad():
        next(subject.generator.synthesis.parameters()).fill_(torch.nan)
    record = evaluate(subject, ABOUT)
    assert not record["values"]
    assert "not finite" in record["absent"]["fd"]


def test_a_measure_that_is_not_there_is_refused(subject_of, suite):
    with pytest.raises(ValueError, match="there is no measure beauty; known: frechet"):
        evaluate(subject_of("PiGAN", replace(suite, measures=("beauty",))), ABOUT)


def test_weights_say_where_they_were_trained():
    assert origin_of({"source": "generator_ema"}) == "trained here"
    assert origin_of({"source": "ffhq512-128.pkl"}) == "official weights, evaluated here"
