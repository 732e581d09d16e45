"""Processes share out the batches of a measurement; the numbers are those of one."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest
import torch

from gan3d.bench import subject as subjects
from gan3d.bench.evaluation import evaluate
from gan3d.bench.subject import Subject, networks_of
from gan3d.bench.workers import Workers
from gan3d.data.dataset import PosedImages
from gan3d.generators import GENERATORS

CPUS = ("cpu", "cpu")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The other processes import this module by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def made(place, name, suite, heads) -> Subject:
    torch.manual_seed(0)
    generator = GENERATORS[name](**GENERATORS[name].tiny).eval().to(place)
    reals = PosedImages(heads, resolution=generator.img_resolution)
    return Subject(generator, suite, reals, networks_of(suite))


def killed(subject: Subject, batch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refused(subject: Subject, batch) -> None:
    raise ValueError(f"batch {batch.first} has no heads")


@pytest.mark.parametrize("name", [pytest.param("EG3D", marks=pytest.mark.slow), "StyleGAN3"])
def test_two_processes_measure_what_one_does(name, suite, heads, monkeypatch):
    """Bit for bit, with batches that do not divide evenly."""
    monkeypatch.setattr(subjects, "BATCH", 5)  # of 12 fakes, 24 real images
    with torch.random.fork_rng(devices=[]):
        one, two = (made("cpu", name, suite, heads) for _ in range(2))
    two.workers = Workers(partial(made, name=name, suite=suite, heads=heads), CPUS)
    try:
        alone, together = (evaluate(subject, {}) for subject in (one, two))
    finally:
        two.workers.close()
    assert together["values"] == alone["values"]
    assert together["absent"] == alone["absent"]
    assert len(alone["values"]) >= 8


def test_errors_in_another_process_are_those_of_this_one_and_a_killed_one_is_noticed(suite, heads):
    with torch.random.fork_rng(devices=[]):
        subject = made("cpu", "EG3D", suite, heads)
    subject.workers = Workers(partial(made, name="EG3D", suite=suite, heads=heads), CPUS)
    try:
        with pytest.raises(ValueError, match="batch 0 has no heads"):
            subject.each("batches", refused, subject.protocol)
        with pytest.raises(BrokenProcessPool):
            subject.each("batches", killed, subject.protocol)
    finally:
        subject.workers.close()
