"""Files that would take all memory, or all stack, to be read."""

import json

import pytest

from gan3d.cli.messages import harmless
from gan3d.zoo import configs

LEVELS = 9
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 12)}]\n" for k in range(1, LEVELS + 1)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 50_000, "more than 100 levels"),
        ("a: " + "{b: " * 101, "more than 100 levels"),
        (ALIASES, "more than 100 aliases"),
        ("a: " + "x" * 2**22, "a config has 4 at most"),
    ],
    ids=["50,000 brackets", "101 levels", "aliases", "4 MiB"],
)
@pytest.mark.parametrize("way", ["--config", "--model"])
def test_a_bomb_is_refused_before_it_is_read(cli, tmp_path, content, words, way):
    (tmp_path / "bomb.yaml").write_text(content)
    code, _, said = cli("fit", way, "bomb.yaml")
    assert code == 2
    assert words in said
    with pytest.raises(ValueError, match=words):
        configs.read(tmp_path / "bomb.yaml")


def test_a_value_on_the_command_line_is_no_bomb_either(cli):
    code, _, said = cli("fit", "--config", "eg3d_heads32", "--data.path", "[" * 50_000)
    assert code == 2
    assert "nested more than 100 levels" in said
    assert len(said) < 300


def test_all_packaged_configs_are_far_from_the_limits():
    for name in configs.names():
        configs.refuse_bomb(configs.folder() / name)


def test_a_config_of_a_checkpoint_can_not_be_deep(cli, trained):
    import torch

    from gan3d.checkpoints.runs import CONFIG_KEY

    checkpoint = sorted((trained / "checkpoints").glob("kimg-*.ckpt"))[-1]
    content = torch.load(checkpoint, weights_only=True)
    written_by = json.loads(content[CONFIG_KEY])
    nested = json.dumps(written_by | {"config": 0}).replace(
        ": 0}", ": " + "[" * 300 + "]" * 300 + "}"
    )
    for text in (
        nested,
        json.dumps(written_by | {"config": 5}),
        json.dumps(written_by | {"config": {}}),
    ):
        torch.save(content | {CONFIG_KEY: text}, checkpoint)
        for words in (("validate", "--ckpt_path", checkpoint), ("export", "training", checkpoint)):
            code, _, said = cli(*words)
            assert code == 2, said
            assert "config" in said


def test_what_a_file_puts_into_a_message_does_nothing_to_a_terminal():
    assert harmless("a\x1b[2Jb\rc\n  d\u202e") == "a\\x1b[2Jb\\rc\n  d\\u202e"
    assert harmless("höhe, 20 °") == "höhe, 20 °"
    assert len(harmless("x" * 10**6)) < 9000


def test_a_message_passes_through_it(cli, monkeypatch):
    def fails(_):
        raise ValueError("no \x1b[31mred")

    monkeypatch.setattr("gan3d.cli._dispatch", fails)
    assert cli("fit")[2] == "gan3d: error: no \\x1b[31mred\n"


def test_no_checkpoint_is_executed_by_an_option(cli, tiny, trained):
    words = ["fit", "--config", tiny, "--ckpt_path", "last", "--weights_only", "false"]
    code, _, said = cli(*words)
    assert code == 2
    assert "would execute" in said
