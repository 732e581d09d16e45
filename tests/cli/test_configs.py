"""Every packaged config: what it builds is accepted at full size, and trains at a tiny size with
all of its losses.

That they parse, and say what they are, is in test_cli.py.
"""

import copy
import json
import warnings
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

import gan3d.discriminators as discriminators
import gan3d.generators as generators
from gan3d.cli import configs
from gan3d.cli.options import flat
from gan3d.data.datamodule import PosedImagesModule
from gan3d.training.gan import GAN

COMPLETE = [name for name in configs.names() if not configs.summary(name).startswith("Overlay")]
SIDE, BATCH = 32, 8
# What a config may say of a network at a tiny size, too: how it works, not how large it is.
KINDS = {
    "planes.axes", "backbone.network", "render.background", "density_prior.shape", "predicts_pose",
    "superresolution.layout", "c_scale", "inputs", "hierarchical", "last_back", "clamp_mode",
    "kind", "aux", "patch", "lock_view", "geometry", "lookup", "frozen", "checkpointing", "config",
    "group_size",
}  # fmt: skip


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GAN, "model")
    return parser


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((configs.folder() / name).read_text())


def build(parser: ArgumentParser, model: dict[str, Any]) -> GAN:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=DeprecationWarning
        )  # of jsonargparse, by version
        return parser.instantiate_classes(parser.parse_object({"model": model})).model


def shrunk(network: dict[str, Any], package: Any) -> dict[str, Any]:
    """A network's section at the size of its class's `tiny`."""
    cls = getattr(package, network["class_path"])
    arguments = json.loads(json.dumps(cls.tiny, default=vars)) | {"img_resolution": SIDE}
    for name, value in flat(network["init_args"]):
        if name in KINDS:
            group, _, field = name.rpartition(".")
            (arguments.setdefault(group, {}) if group else arguments)[field] = value
    if arguments.get("group_size", 0) > BATCH // 2:
        arguments["group_size"] = BATCH // 2
    return {"class_path": network["class_path"], "init_args": arguments}


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """The model's section with tiny networks, one iteration per stage, every lazy regularizer in
    the first one.
    """
    model = copy.deepcopy(config["model"])
    full = model["generator"]["init_args"].get("img_resolution", SIDE)
    model["generator"] = shrunk(model["generator"], generators)
    model["discriminator"] = shrunk(model["discriminator"], discriminators)
    run, fakes = model.setdefault("run", {}), model.get("fakes", {})
    for k, stage in enumerate(run.get("stages") or []):
        stage["from_kimg"] = k * BATCH / 1000
        if "resolution" in stage:
            stage["resolution"] = max(8, stage["resolution"] * SIDE // full)
    if "raw_resolution" in fakes:
        fakes["raw_resolution"] = {"initial": 16, "final": 16}
    if "rays" in model:
        model["rays"]["chunk"] = 300
    if "poses" in fakes:
        fakes["poses"]["init_args"] |= {"radius": 2.7, "fov": 18.83}
    if "density" in model:
        model["density"]["num_points"] = 50
    if "micro_batch_size" in run:
        run["micro_batch_size"] = BATCH // 2
    run["total_kimg"] = max(len(run.get("stages") or []), 1) * BATCH / 1000
    return model


@pytest.mark.parametrize("name", COMPLETE)
def test_a_config_builds_at_full_size_and_its_networks_are_accepted_as_a_pair(parser, name):
    with torch.device("meta"):
        gan = build(parser, read(name)["model"])
    assert gan.generator.img_resolution in gan.discriminator.img_resolutions


@pytest.mark.parametrize("name", COMPLETE)
def test_a_config_has_a_batch_that_splits_up_on_one_gpu_and_images_of_its_generators_size(
    parser, name
):
    config = read(name)
    with torch.device("meta"):
        gan = build(parser, config["model"])
    batch = config["data"]["batch_size"]
    part = gan.run.micro_batch_size or batch
    assert batch % part == 0
    assert part % gan.discriminator.group_size == 0
    assert config["data"].get("resolution") in (None, gan.generator.img_resolution)


@pytest.mark.parametrize("name", COMPLETE)
def test_a_config_trains_at_a_tiny_size(parser, name, posed_zip):
    config = read(name)
    gan = build(parser, tiny(config))
    before = copy.deepcopy(gan.state_dict())
    options = {
        "use_labels": config["data"].get("use_labels", True),
        "mirror": config["data"].get("mirror", False),
    }
    data = PosedImagesModule(path=str(posed_zip), batch_size=BATCH, num_workers=0, **options)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(gan, data)
    assert int(gan.images_seen) == gan.run.total_kimg * 1000
    after = gan.state_dict()
    for network in ("generator", "generator_ema", "discriminator"):
        moved = [
            key
            for key, value in after.items()
            if key.startswith(f"{network}.") and not value.equal(before[key])
        ]
        assert moved, f"{network} did not move"
