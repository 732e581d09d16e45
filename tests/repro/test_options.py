"""An option before `--config` is not lost, and weights that hardly fit are named (12, 23)."""

import pytest
import torch
import yaml

import gan3d
from gan3d.checkpoints.portable import save_pretrained
from gan3d.checkpoints.weights import init_from
from gan3d.cli import main
from gan3d.generators import StyleGAN2


@pytest.mark.parametrize(
    "words",
    [
        "--config eg3d_heads32.yaml --model.r1.gamma 5",
        "--model.r1.gamma 5 --config eg3d_heads32.yaml",
        "--config eg3d_heads32.yaml --model.r1.gamma 5 --config debug.yaml",
    ],
)
def test_an_option_overrides_a_config_wherever_it_stands(words, capsys):
    assert main(["fit", *words.split(), "--data.path", "x.zip", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["r1"]["gamma"] == 5


def test_weights_of_which_few_fit_are_counted_and_refused_unless_asked_for(tmp_path, caplog):
    def network(channel_base: int) -> StyleGAN2:
        sizes = {"img_resolution": 32, "channel_base": channel_base, "mapping_layers": 2}
        return StyleGAN2(z_dim=512, w_dim=512, **sizes)

    path = save_pretrained(tmp_path / "g.safetensors", network(512))
    ours = network(256)
    theirs, own = network(512).state_dict(), ours.state_dict()
    fit = sum(theirs[name].shape == t.shape for name, t in own.items() if name in theirs)
    assert fit < len(own)
    counted = f"{fit} of {len(own)} tensors"
    with caplog.at_level("WARNING", logger="gan3d"):
        init_from(path, {"generator": ours})
    (said,) = [record.getMessage() for record in caplog.records]
    assert counted in said
    assert "at their initial values: " in said

    small = StyleGAN2(**StyleGAN2.tiny)
    with pytest.raises(ValueError, match=r"expected at least 50%.*--model\.run\.init_partial true"):
        init_from(path, {"generator": small})


def test_a_second_stage_starts_from_its_first_of_which_all_is_used(tmp_path):
    first = gan3d.create("gram_heads32")
    path = save_pretrained(tmp_path / "gram.safetensors", first)
    second = gan3d.create("gramhd_heads64")
    init_from(path, {"generator": second})
    own = second.state_dict()
    shared = [name for name, t in first.state_dict().items() if own[name].shape == t.shape]
    assert sum(own[name].numel() for name in shared) < 0.2 * sum(t.numel() for t in own.values())
    assert all(torch.equal(own[name], first.state_dict()[name]) for name in shared)
