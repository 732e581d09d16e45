"""The second stage of EG3D is one command, and goes 64, 96, 128 px (trial 11)."""

import re

import pytest
import yaml

from gan3d.cli import main
from gan3d.schedules import Ramp
from gan3d.zoo import configs

PUBLISHED = [64, 96, 128]  # at 0, 500 and 1,000 kimg from where the fine-tuning begins


@pytest.mark.parametrize("name", ["eg3d_ffhq512", "eg3d_ffhq256"])
def test_the_command_that_a_config_names_raises_the_resolution_as_published(name, capsys):
    text = (configs.folder() / f"{name}.yaml").read_text()
    told = re.search(r"^#\s+(--config .*)$", text, re.M)
    assert told is not None
    words = told[1].split()
    assert words[words.index("--model.run.init_from") + 1] == f"runs/{name}"
    assert words[words.index("--run_dir") + 1] != f"runs/{name}"

    data = ("--data.path", "x.zip")
    assert main(["fit", "--config", f"{name}.yaml", *words, *data, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]
    raw = Ramp(**model["fakes"]["raw_resolution"])
    assert [round(raw.at(1000 * kimg)) for kimg in (0, 500, 1000, 2000)] == [*PUBLISHED, 128]
    assert model["run"]["total_kimg"] == 2000
    assert model["generator"]["init_args"]["raw_resolution"] == 128
    # Of the first stage, these had faded when it ended.
    assert model["augmentation"]["blur"]["sigma"] == 0
    assert model["fakes"]["conditioning"] == {"swap": 0.5, "fade_kimg": 0}
    assert model["ema"]["ramp_up"] == 0
