"""Shared fixtures: a small posed data set on disk, and a run folder with checkpoints."""

import copy
import json
import logging
import os
import shutil
import zipfile
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gan3d.camera import Camera
from gan3d.checkpoints.runs import pack_config
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.pretrained import describe

# Kernels run in Triton's interpreter where there is no GPU. Triton has to know before anything
# imports it, as torch's compiler does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--update", action="store_true", help="rewrite what tests compare: docs, the surface"
    )


@pytest.fixture(autouse=True)
def no_handler_is_left():
    """The command line gives gan3d's logger a handler; other tests do not expect its lines. A
    fixture of a session may have called it before.
    """
    _silence()
    yield
    _silence()


@pytest.fixture(autouse=True)
def no_network_is_left():
    """A class that a test defines, or a module that it loads, is registered by its name; tests
    that walk the registries must not meet it.
    """
    registries = GENERATORS, DISCRIMINATORS
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


def _silence() -> None:
    logger = logging.getLogger("gan3d")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def write_posed_zip(path: Path, num: int = 24, resolution: int = 32, seed: int = 0) -> Path:
    """A zip in EG3D's layout: smooth random pictures whose brightness leans with the camera's
    yaw.
    """
    rng = np.random.default_rng(seed)
    yaw, pitch = (
        torch.from_numpy(rng.normal(0, 0.3, num)),
        torch.from_numpy(rng.normal(0, 0.15, num)),
    )
    labels = Camera.from_angles(yaw.float(), pitch.float()).label()
    entries = []
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num):
            small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            buffer = BytesIO()
            small.resize((resolution, resolution), Image.Resampling.BICUBIC).save(
                buffer, format="PNG"
            )
            name = f"00000/img{i:08d}.png"
            archive.writestr(name, buffer.getvalue())
            entries.append([name, [float(v) for v in labels[i]]])
        archive.writestr("dataset.json", json.dumps({"labels": entries}))
    return path


@pytest.fixture(scope="session")
def posed_zip(tmp_path_factory) -> Path:
    return write_posed_zip(tmp_path_factory.mktemp("data") / "posed32.zip")


@pytest.fixture(scope="session")
def posed_zips():
    """posed_zips(path, num=.., seed=..) writes another one."""
    return write_posed_zip


# -- workers ---------------------------------------------------------------------------------------

# Modules with fixtures that train or build: each runs in one worker of pytest-xdist.
TOGETHER = (
    "cli/test_logged.py",
    "distributed/test_callbacks.py",
    "distributed/test_checkpoint_matrix.py",
    "distributed/test_equality.py",
    "test_packaging.py",
    "training/test_callbacks.py",
    "training/test_resume.py",
    "training/test_staged_runs.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Other tests go one by one to whichever worker is free."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module, _, _ = nodeid.partition("::")
            return module if module.endswith(TOGETHER) else nodeid

    return Scheduler(config, log)


# -- a run -----------------------------------------------------------------------------------------


def tiny_network(registry: dict[str, type[nn.Module]], name: str) -> nn.Module:
    """A network of its class's `tiny` size."""
    torch.manual_seed(0)
    module = registry[name](**registry[name].tiny).eval()
    with torch.no_grad():
        for value in module.state_dict().values():
            value += 0.1  # buffers that start at zero, too
    return module


def write_checkpoint(path: Path, pair: dict[str, nn.Module], images_seen: int = 2500) -> Path:
    """A training checkpoint, as a run writes it, of generator, generator_ema and discriminator."""
    state = {
        f"{part}.{name}": t
        for part, module in pair.items()
        for name, t in module.state_dict().items()
    }
    model = {}
    for kind in ("generator", "discriminator"):
        made = json.loads(describe(pair, {})[kind])
        model[kind] = {"class_path": f"anywhere.{made['class']}", "init_args": made["arguments"]}
    content = {
        "state_dict": {**state, "images_seen": torch.tensor(images_seen)},
        "gan3d_config": pack_config({"model": model}),
        "running_means": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def pair() -> dict[str, nn.Module]:
    """Networks of a run; the average differs from the last generator."""
    networks = {
        "generator": tiny_network(GENERATORS, "EG3D"),
        "discriminator": tiny_network(DISCRIMINATORS, "DualDiscriminator"),
    }
    networks["generator_ema"] = copy.deepcopy(networks["generator"])
    with torch.no_grad():
        for value in networks["generator_ema"].parameters():
            value += 1
    return networks


@pytest.fixture
def run(tmp_path, pair) -> Path:
    """A run folder with two checkpoints; the newer one has other weights."""
    folder = tmp_path / "runs" / "heads"
    older = {**pair, "generator_ema": pair["generator"]}
    write_checkpoint(folder / "checkpoints" / "kimg-000001.000.ckpt", older, 1000)
    write_checkpoint(folder / "checkpoints" / "kimg-000002.500.ckpt", pair, 2500)
    return folder


# -- pages -----------------------------------------------------------------------------------------


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [v for name, v in attrs if name in ("src", "href", "poster") and v]


@pytest.fixture
def links_in():
    """What the text of a page refers to."""

    def find(text: str) -> list[str]:
        links = _Links()
        links.feed(text)
        return links.found

    return find


# -- a browser -------------------------------------------------------------------------------------

SOFTWARE_WEBGL = "--use-angle=swiftshader", "--enable-unsafe-swiftshader"


@pytest.fixture
def browser(tmp_path):
    """Debian's Chromium, whose WebGL needs no GPU."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no Chromium with its driver: apt-get install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--window-size=1800,1200", *SOFTWARE_WEBGL):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.set_page_load_timeout(60)
    yield made
    made.quit()
