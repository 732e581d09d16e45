"""Commands in README and docs/running.md are accepted as they are written."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/running.md", "docs/high_resolution.md")


def commands() -> list[str]:
    """Commands of the Trainer's verbs in blocks of code, without comments, on one line each."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("#")[0].strip() for line in lines]
    verbs = re.compile(r"lightning (fit|validate|test|predict) ")
    return [line for line in dict.fromkeys(found) if verbs.match(line)]


def test_there_are_commands_to_check():
    assert len([line for line in commands() if line.startswith("lightning fit")]) > 5


@pytest.mark.parametrize("command", [line for line in commands() if " fit " in line])
def test_a_command_of_fit_is_accepted(cli, command):
    words = shlex.split(command.replace("$gamma", "0.5"))[1:]
    asks = any(word.endswith("help") or word == "--print_config" for word in words)
    needs_data = [] if asks or "--data.path" in words else ["--data.path", "heads32.zip"]
    code, _, err = cli(*words, *needs_data, *([] if asks else ["--print_config"]))
    assert code == 0, err


@pytest.mark.parametrize("command", [line for line in commands() if " fit " not in line])
def test_a_command_of_another_verb_names_options_that_there_are(command):
    surface = (Path(__file__).parent / "cli_surface.txt").read_text()
    promised = {line.split(":")[0] for line in surface.splitlines()}
    named = set(re.findall(r"--([\w.]+)", command))
    assert named <= promised | {"num", "seed", "truncation"}
