"""Training checkpoints: their config, their networks, the newest of a run; nothing is executed."""

import json
import os

import pytest
import torch

import gan3d
from gan3d.checkpoints.portable import load_discriminator, load_generator, read_facts
from gan3d.checkpoints.runs import (
    CONFIG_KEY,
    load_training,
    networks_of,
    newest_whole,
    pack_config,
    read_checkpoint,
    unpack_config,
)
from gan3d.cli.export import export_training


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------ the config


def test_a_config_comes_back_as_it_was():
    config = {"a": {"b": [1, 2.5, None, "x", True]}, "c": 1e-05, "d": 1, "e": 1.0}
    back = unpack_config({CONFIG_KEY: pack_config(config)})
    assert back == config
    assert (type(back["d"]), type(back["e"])) == (int, float)


def test_the_config_says_its_format_and_who_wrote_it():
    packed = json.loads(pack_config({}))
    assert packed == {"gan3d_format": 1, "gan3d_version": gan3d.__version__, "config": {}}


@pytest.mark.parametrize(
    ("checkpoint", "problem"),
    [
        ({}, "holds no config of gan3d"),
        ({CONFIG_KEY: "model:\n  generator: EG3D\n"}, "written by an older gan3d"),  # YAML
        ({CONFIG_KEY: "[" * 100_000}, "broken"),
        ({CONFIG_KEY: "[]"}, "broken"),
        ({CONFIG_KEY: None}, "broken"),
        (
            {CONFIG_KEY: pack_config({}).replace('format": 1', 'format": 2')},
            f"has format 2, written by gan3d {gan3d.__version__}.* reads 1",
        ),
    ],
)
def test_a_config_of_another_format_is_refused(checkpoint, problem):
    with pytest.raises(ValueError, match=problem):
        unpack_config(checkpoint)


# ------------------------------------------------------------ files


def test_a_checkpoint_is_read_without_its_tensors(run):
    path = run / "checkpoints" / "kimg-000002.500.ckpt"
    content = read_checkpoint(path)
    assert int(content["state_dict"]["images_seen"]) == 2500
    assert unpack_config(content)["model"]["generator"]["class_path"] == "anywhere.EG3D"


def test_what_is_no_training_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no archive")
    with pytest.raises(ValueError, match="is no checkpoint, or it was cut off"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        load_training(tmp_path / "a.ckpt")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("was_executed",)


def test_nothing_in_a_checkpoint_is_executed_nor_is_that_advised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "more": Hostile()}, "b.ckpt")
    with pytest.raises(
        ValueError, match=r"asks for 'posix.mkdir'.* hostile.*nothing was executed"
    ) as refused:
        load_training("b.ckpt")
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "was_executed").exists()


def test_the_newest_whole_checkpoint_is_found_and_broken_ones_are_named(run):
    folder = run / "checkpoints"
    said: list[str] = []
    assert newest_whole(folder, said.append).name == "kimg-000002.500.ckpt"
    assert said == []
    whole = (folder / "kimg-000002.500.ckpt").read_bytes()
    (folder / "kimg-000002.500.ckpt").write_bytes(whole[: len(whole) // 2])
    assert newest_whole(folder, said.append).name == "kimg-000001.000.ckpt"
    assert len(said) == 1
    assert "kimg-000002.500.ckpt" in said[0]
    (folder / "kimg-000001.000.ckpt").unlink()
    assert newest_whole(folder, said.append) is None


# ------------------------------------------------------------ networks


def test_networks_are_made_again_from_the_content(run, pair):
    content = read_checkpoint(run / "checkpoints" / "kimg-000002.500.ckpt")
    generator, discriminator = networks_of(content, "generator")
    assert equal(generator, pair["generator"])
    assert equal(discriminator, pair["discriminator"])
    assert equal(networks_of(content)[0], pair["generator_ema"])


@pytest.mark.parametrize("which", ["generator_ema", "generator"])
def test_a_training_checkpoint_gives_its_networks(run, pair, which):
    path = run / "checkpoints" / "kimg-000002.500.ckpt"
    assert "2.5 kimg" in export_training(str(path), which=which)
    out = path.with_suffix(".safetensors")
    assert equal(load_generator(out), pair[which])
    assert equal(load_discriminator(out), pair["discriminator"])
    assert read_facts(out) == {"source": which, "images_seen": 2500}


def test_a_run_is_exported_by_its_folder_and_a_portable_file_is_not(run, pair, tmp_path):
    export_training(str(run), tmp_path / "out.safetensors", discriminator=False)
    assert equal(load_generator(tmp_path / "out.safetensors"), pair["generator_ema"])
    with pytest.raises(ValueError, match="holds no discriminator"):
        load_discriminator(tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="is a portable file already"):
        export_training(str(tmp_path / "out.safetensors"))


def test_a_checkpoint_that_names_another_class_is_refused_with_its_path(run, pair):
    path = run / "checkpoints" / "kimg-000002.500.ckpt"
    content = torch.load(path, weights_only=True)
    content[CONFIG_KEY] = content[CONFIG_KEY].replace("anywhere.EG3D", "os.system")
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"kimg-000002.500.ckpt: there is no class 'system'"):
        load_training(path)
