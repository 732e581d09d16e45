"""`gan3d bench suites | run | eval | table`: every architecture by one protocol
(docs/benchmark.md).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gan3d.bench.evaluation import evaluate, origin_of, subject_of
from gan3d.bench.pictures import write_pictures
from gan3d.bench.results import find_results, read_result, write_result
from gan3d.bench.subject import Subject, check_features, networks_of
from gan3d.bench.suites import (
    PHOTOGRAPHS,
    Changes,
    Heads,
    Suite,
    find_suite,
    photographs,
    suite_names,
)
from gan3d.bench.table import leaderboard
from gan3d.bench.workers import Workers
from gan3d.checkpoints.models import find_model, load_model
from gan3d.cli.bench_runs import (
    RunStage,
    counted,
    images_of,
    newest_of,
    refuse_unfit,
    stages_of,
    training_of,
)
from gan3d.cli.checks import at_least, device_of, existing, file_for, folder_for
from gan3d.cli.messages import CommandError, say
from gan3d.cli.models import sha256_of
from gan3d.cli.threads import use_threads
from gan3d.data.heads import write_heads
from gan3d.data.images import ResizeFilter
from gan3d.generators import GENERATORS, Generator
from gan3d.metrics.measure import Conditioning
from gan3d.results import MARKER, refuse_existing
from gan3d.zoo.configs import find, generator_of
from gan3d.zoo.configs import read as read_config
from gan3d.zoo.models import locate


def print_suites() -> int:
    """Lists the suites of the benchmark, each with what it is."""
    width = max(map(len, suite_names()))
    for name in suite_names():
        print(f"  {name:{width}}  {find_suite(name).about}")
    print("\nmeasure a model: gan3d bench eval MODEL --suite NAME; docs/benchmark.md")
    return 0


def run_suite(
    suite: str,
    model: str,
    overlays: str = "",
    init: Path | None = None,
    seed: int = 0,
    out: Path = Path("runs/bench"),
    device: str = "auto",
    processes: int = 1,
) -> int:
    """Trains a model under a suite's budget, on its data, and evaluates the average of it.

    What was stopped goes on by the same command; a finished run is only evaluated.

    Args:
        suite: of the benchmark: a name (gan3d bench suites), or a YAML file.
        model: a config (gan3d configs), or the folder of a finished run, which must have the
            suite's data and budget.
        overlays: configs to lay over it, with commas between them.
        init: what the training starts from, the stage before: a run folder, or a checkpoint. Its
            images count: they are taken off the budget.
        seed: of the training.
        out: folder of data, runs and results.
        device: of the evaluation: cpu, cuda, cuda:1, ..; auto takes a GPU where there is one.
        processes: of the evaluation, which share out the pictures: one per GPU, or some on a
            CPU. The numbers are those of one.
    """
    out = folder_for(out)
    chosen = find_suite(suite)
    if chosen.train is None:
        raise CommandError(f"suite {chosen.name} only evaluates: gan3d bench eval MODEL")
    places = _places(device, processes)
    if (Path(model).expanduser() / MARKER).exists():
        run = Path(model).expanduser()
        name = run.resolve().name
        data = made(chosen.train, out)
    else:
        configs = [find(word.strip()) for word in (model, *overlays.split(",")) if word.strip()]
        _refuse_another_size(configs, chosen.train)
        start = _start_of(configs, init)
        name = f"{'+'.join(path.stem for path in configs)}-seed{seed}"
        run = out / chosen.name / name
        data = made(chosen.train, out)
        if (code := _train(run, configs, chosen, data, seed, start)) != 0:
            return code
    refuse_unfit(run, chosen, data)
    _evaluate_one(str(run), name, chosen, made(_real_of(chosen), out), out, None, places, True)
    return 0


def evaluate_models(
    models: list[str],
    suite: str | None = None,
    data: Path | None = None,
    out: Path = Path("runs/bench"),
    seed: int | None = None,
    num_fakes: int | None = None,
    num_heads: int | None = None,
    truncation: float | None = None,
    conditioning: Conditioning | None = None,
    resize_filter: ResizeFilter | None = None,
    features: str | None = None,
    inception: Path | None = None,
    device: str = "auto",
    processes: int = 1,
    overwrite: bool = False,
) -> int:
    """Evaluates trained models by one protocol: a JSON, pictures and an orbit of each.

    What is asked for otherwise than the suite says gives another protocol, with another hash.

    Args:
        models: files (.safetensors, .ckpt), folders, run folders, or names (docs/checkpoints.md);
            of a training checkpoint the average is taken.
        suite: of the benchmark: a name (gan3d bench suites), or a YAML file.
        data: folder or zip of photographs, in place of a suite.
        out: folder of data and results.
        seed: of all draws.
        num_fakes: pictures of the distances.
        num_heads: heads of the signed measures.
        truncation: psi.
        conditioning: of the second distance, 3d: frontal, or independent.
        resize_filter: how real images are shrunk.
        features: networks of the distances, with commas between: headnet (procedural heads),
            small, mobilenet (photographs; docs/metrics.md says how to get its weights). Precision
            and recall have the first.
        inception: TorchScript file inception-2015-12-05.pt, for FID and KID.
        device: cpu, cuda, cuda:1, ..; auto takes a GPU where there is one.
        processes: that share out the pictures: one per GPU, or some on a CPU. The numbers are those
            of one.
        overwrite: replace results that are there.
    """
    out = folder_for(out)
    if (suite is None) == (data is None):
        raise CommandError(
            "give either --suite NAME or --data PHOTOGRAPHS.zip",
            f"suites: {', '.join(suite_names())}",
        )
    networks = None if features is None else tuple(word.strip() for word in features.split(","))
    changes = Changes(seed, truncation, conditioning, resize_filter, num_fakes, num_heads, networks)
    chosen = changes.of(photographs() if suite is None else find_suite(suite))
    check_features(chosen)
    places = _places(device, processes)
    names = [_name_of(model) for model in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CommandError(f"two of the models are called {twice[0]}; evaluate one by one")
    refuse_existing([_result(out, chosen, name) for name in names], overwrite)
    if len(models) > 1:
        options: dict[str, Any] = {"suite": suite, "data": data, "out": out, "inception": inception}
        options |= {"device": device, "processes": processes}
        options |= {"overwrite": str(overwrite).lower()}
        return _one_by_one(models, options | vars(changes) | {"features": features})
    reals = existing("data", data) if data is not None else made(_real_of(chosen), out)
    _evaluate_one(models[0], names[0], chosen, reals, out, inception, places, overwrite)
    return 0


def write_table(
    results: list[Path],
    out: Path | None = None,
    html: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Puts results of one protocol into one table.

    Args:
        results: JSON files of gan3d bench, or folders of them.
        out: a Markdown file for the table; by default it is printed.
        html: a self-contained page with pictures and videos.
        overwrite: replace files that are there.
    """
    text = None if out is None else file_for(out, ".md", overwrite=overwrite)
    page = None if html is None else file_for(html, ".html", overwrite=overwrite)
    paths = find_results(results)
    board = leaderboard([(path, read_result(path)) for path in paths])
    if text is not None:
        text.write_text(board.markdown(), encoding="utf-8")
        say(f"the table of {len(paths)} results is in {text}")
    if page is not None:
        from gan3d.bench.page import write_page

        write_page(page, board)
        say(f"the page is {page}")
    if text is None and page is None:
        print(board.markdown(), end="")
    return 0


# ------------------------------------------------------------ steps


def made(heads: Heads, out: Path) -> Path:
    """A set of heads, made if it is not there."""
    path = out / "data" / heads.file
    if not path.exists():
        say(f"making {heads.num} heads of {heads.resolution} px: {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_heads(
            path,
            num=heads.num,
            resolution=heads.resolution,
            seed=heads.seed,
            recipe=heads.recipe,
            workers=1,
        )
    return path


def _real_of(suite: Suite) -> Heads:
    if suite.real is None:
        raise CommandError(f"suite {suite.name} has no real images; give --data FOLDER_OR_ZIP")
    return suite.real


def _refuse_another_size(configs: Sequence[Path], heads: Heads) -> None:
    """Refuses a config whose generator makes pictures of another size than the suite's."""
    sides = [_side_of(config) for config in configs]
    known = [side for side in sides if side is not None]
    if known and known[-1] != heads.resolution:
        raise CommandError(
            f"{' with '.join(path.name for path in configs)} makes pictures of {known[-1]} px, the "
            f"suite is one of {heads.resolution} px",
            "choose a suite of its size (gan3d bench suites), or another config (gan3d configs)",
        )


def _side_of(config: Path) -> int | None:
    """The size of a config's pictures; None: it does not say."""
    content = read_config(config)
    section = (content.get("model") or {}).get("generator") or {}
    return (section.get("init_args") or {}).get("img_resolution")


def _start_of(configs: Sequence[Path], init: Path | None) -> Path | None:
    """The checkpoint or file that a training starts from; None: random weights.

    Raises:
        CommandError: there is none, and the generator needs one.
    """
    contents = [read_config(config) for config in configs]
    named = [
        ((content.get("model") or {}).get("run") or {}).get("init_from") for content in contents
    ]
    source = init or next((name for name in reversed(named) if name), None)
    if source is not None:
        return find_model(source).absolute()
    section = next((s for s in map(generator_of, reversed(contents)) if s is not None), {})
    name = str(section.get("class_path", "")).rpartition(".")[2]
    if name in GENERATORS and GENERATORS[name].starts_from:
        raise CommandError(
            f"{name} starts from {GENERATORS[name].starts_from}; give it: --init RUN_FOLDER"
        )
    return None


def _train(
    run: Path, configs: Sequence[Path], suite: Suite, data: Path, seed: int, start: Path | None
) -> int:
    """Trains to the end of the budget; what is finished is left as it is. Returns the exit code.

    Raises:
        CommandError: what it starts from does not say its images, or has used up the budget.
    """
    if (newest := newest_of(run)) is not None:
        refuse_unfit(run, suite, data, finished=False)
        if images_of(counted(stages_of(newest), suite)) >= suite.budget_kimg * 1000:
            return 0
    words: list[Any] = ["fit"]
    for config in configs:
        words += ["--config", config]
    budget = suite.budget_kimg
    if start is not None:
        before = counted([*stages_of(start), RunStage(run.name, 0)], suite)[:-1]
        if any(stage.images is None for stage in before):
            raise CommandError(
                f"{start} does not say how many images its training saw; give the run folder of it"
            )
        budget -= images_of(before) / 1000
        if budget <= 0:
            raise CommandError(
                f"{start} has seen {images_of(before):,} images, all of the budget of "
                f"{suite.budget_kimg:g} kimg; give an earlier checkpoint of it"
            )
        words += ["--model.run.init_from", start]
    words += ["--data.path", data, "--model.run.total_kimg", f"{budget:g}"]
    words += ["--seed_everything", seed, "--run_dir", run, "--resume", "auto", "--threads", 1]
    command = [sys.executable, "-m", "gan3d", *map(str, words), *suite.options]
    return _to_its_end(command, os.environ | {"OMP_NUM_THREADS": "1"})


def _to_its_end(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a program and returns its exit code. What asks this one to stop asks the other one,
    which saves first, and is waited for.
    """
    program = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGTERM, lambda number, _: program.send_signal(number))
    try:
        return program.wait()
    except KeyboardInterrupt:  # a terminal interrupts both
        return program.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _evaluate_one(
    model: str,
    name: str,
    suite: Suite,
    data: Path,
    out: Path,
    inception: Path | None,
    places: Sequence[str],
    overwrite: bool,
) -> Path:
    """Writes the result of one model, and its pictures beside it."""
    use_threads(1)
    path = _result(out, suite, name)
    file = find_model(model)
    generator, facts = load_model(file)
    subject = _subject(generator, facts, places[0], suite, data, inception)
    if len(places) > 1:
        begin = partial(_subject_on, file=file, suite=suite, data=data, inception=inception)
        subject.workers = Workers(begin, places)
    about: dict[str, Any] = {
        "name": name,
        "file": file.name,
        "sha256": sha256_of(file),
        "origin": origin_of(facts),
    }
    if "images_seen" in facts:
        about["images_seen"] = int(facts["images_seen"])
    say(f"measuring {name} by suite {suite.name}")
    try:
        record = evaluate(subject, about)
    except BrokenProcessPool as error:
        raise CommandError(
            f"one of {len(places)} processes was killed or failed; nothing is written",
            "out of memory? fewer --processes need less",
        ) from error
    finally:
        if subject.workers is not None:
            subject.workers.close()
    record["training"] = _training(Path(model).expanduser(), suite, out, facts)
    refuse_existing([path], overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.with_suffix("")
    record["pictures"] = {}
    write_result(path, record)  # the numbers took long: they are safe whatever pictures do
    record["pictures"] = write_pictures(subject.generator, subject.view, stem, subject.resolution)
    write_result(path, record)
    say(f"{path}, in {record['made_with']['seconds']:g} s")
    return path


def _subject_on(
    place: str, file: Path, suite: Suite, data: Path, inception: Path | None
) -> Subject:
    """A model under a suite, on a device."""
    return _subject(*load_model(file), place, suite, data, inception)


def _subject(
    generator: Generator,
    facts: Mapping[str, Any],
    place: str,
    suite: Suite,
    data: Path,
    inception: Path | None,
) -> Subject:
    networks = networks_of(suite, None if inception is None else str(inception))
    generator = generator.to(torch.device(place))
    return subject_of(generator, suite, data, networks, facts.get("resolution"))


def _places(device: str, processes: int) -> list[str]:
    """The devices of some processes.

    Raises:
        CommandError: there are not enough of them.
    """
    at_least(1, "processes", processes)
    place = device_of(device)
    if place.type != "cuda" or processes == 1:
        return [str(place)] * processes
    found = torch.cuda.device_count()
    if place.index is not None or found < processes:
        raise CommandError(
            f"--processes {processes} need a GPU each, and --device {device} has "
            f"{1 if place.index is not None else found}",
            "give fewer, or one",
        )
    return [f"cuda:{k}" for k in range(processes)]


def _training(model: Path, suite: Suite, out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of the training of a model."""
    if (model / MARKER).exists():
        data = None if suite.train is None else out / "data" / suite.train.file
        return training_of(model, suite, data)
    if "images_seen" not in facts:
        return None
    images, minutes = int(facts["images_seen"]), facts.get("training_minutes")
    seconds = None if minutes is None else 60 * float(minutes)
    return {
        "by_suite": False,
        "why_not": ["it is a file, which does not say all of its training"],
        "config": facts.get("config"),
        "seed": None,
        "images": images,
        "seconds": seconds,
        "cpu_seconds": None,
        "images_per_second": images / seconds if seconds else None,
        "device": facts.get("made_with", {}).get("machine"),
        "stages": [],
    }


def _one_by_one(models: Sequence[str], options: Mapping[str, Any]) -> int:
    """Evaluates each model in a process of its own: memory is measured in a fresh one, and what
    ends one evaluation does not end the others. Returns the worst exit code.
    """
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    start = [sys.executable, "-m", "gan3d", "bench", "eval"]
    return max(subprocess.run([*start, model, *words]).returncode for model in models)


def _name_of(model: str) -> str:
    """What a model is called in the table: the name of its file or folder."""
    found = locate(model)
    return Path(model).name if found is None else found.resolve().name.removesuffix(".safetensors")


def _result(out: Path, suite: Suite, name: str) -> Path:
    folder = PHOTOGRAPHS if suite.real is None else suite.name
    return out / folder / f"{name}.json"
