"""What is said reaches the user: once, on stderr, past a progress bar."""

import logging
import subprocess
import sys

import pytest

from gan3d.cli.messages import is_first_process, listen, say


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_library_logs_from_info_on_is_said_once(capsys):
    listen()
    listen()  # a second command in this process
    logging.getLogger("gan3d.checkpoints.weights").warning("generator starts from %s", "a.ckpt")
    logging.getLogger("gan3d.anything").info("news")
    logging.getLogger("gan3d.anything").debug("details")
    say("100 % of it")
    assert capsys.readouterr() == (
        "",
        "gan3d: generator starts from a.ckpt\ngan3d: news\ngan3d: 100 % of it\n",
    )


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_one_speaks_and_errors_are_said_by_all(
    capsys, monkeypatch, name
):
    listen()
    for rank, heard in (("0", "gan3d: a\ngan3d: b\n"), ("3", "gan3d: b\n")):
        monkeypatch.setenv(name, rank)
        assert is_first_process() == (rank == "0")
        say("a")
        logging.getLogger("gan3d").error("b")
        assert capsys.readouterr().err == heard


def test_a_message_does_not_break_a_progress_bar():
    program = (
        "import sys\nfrom tqdm import tqdm\nfrom gan3d.cli.messages import listen, say\n"
        "listen()\nbar = tqdm(total=9, bar_format='bar', file=sys.stderr)\n"
        "say('news')\nbar.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    shown = done.stderr.replace("\r", "\n").splitlines()  # the bar is wiped out, and drawn again
    assert [line.strip() for line in shown if line.strip()] == ["bar", "gan3d: news", "bar", "bar"]
