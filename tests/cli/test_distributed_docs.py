"""The job files and commands of docs/distributed.md are what their readers take."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
# Of sbatch, with what their values look like; an option without a value has none.
SBATCH = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"\d+:\d\d:\d\d",
    "signal": r"USR1@\d+",
    "requeue": None,
    "open-mode": r"append|truncate",
}


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return found


def accepted(cli, words: list[str]) -> dict:
    """The config of a command of `fit`, as it would run but without GPUs."""
    code, out, err = cli(*words, "--trainer.accelerator", "cpu", "--print_config")
    assert code == 0, err
    return yaml.safe_load(out)


def test_commands_for_one_machine_are_accepted(cli):
    commands = re.findall(r"```\n(lightning fit .*?)```", PAGE, re.DOTALL)[0].splitlines()
    strategies = [accepted(cli, shlex.split(c)[1:])["trainer"]["strategy"] for c in commands]
    assert strategies == ["gan_ddp", "gan_fsdp", "gan_fsdp_both"]


def test_the_sbatch_file_is_a_script_of_known_options_with_an_accepted_command(cli, tmp_path):
    script = block("sbatch")
    path = tmp_path / "job.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    given = {}
    for line in re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE):
        name, is_set, value = line.partition("=")
        assert name in SBATCH, line
        form = SBATCH[name]
        assert bool(is_set) == (form is not None), line
        assert form is None or re.fullmatch(form, value), line
        given[name] = value
    (command,) = re.findall(r"^srun (lightning fit .*)$", script.replace("\\\n", " "), re.MULTILINE)
    trainer = accepted(cli, shlex.split(command)[1:])["trainer"]
    assert int(given["nodes"]) == trainer["num_nodes"]
    assert int(given["ntasks-per-node"]) == int(given["gpus-per-node"]) == trainer["devices"]
    assert "-eq 138 ]" in script  # 128 + SIGUSR1


def check_torchrun(cli, words: list[str]) -> dict:
    """A command of torchrun -> the config that fit gets."""
    assert words[0] == "torchrun"
    args = get_args_parser().parse_args(words[1:])
    assert args.module
    assert args.training_script == "gan3d"
    config = accepted(cli, args.training_script_args)
    trainer = config["trainer"]
    assert (int(args.nnodes), int(args.nproc_per_node)) == (
        trainer["num_nodes"],
        trainer["devices"],
    )
    group = 4
    assert config["data"]["batch_size"] % (trainer["num_nodes"] * trainer["devices"] * group) == 0
    return config


def test_the_line_of_torchrun_is_accepted_by_both(cli):
    words = shlex.split(block("torchrun").replace("\\\n", " "))
    assert check_torchrun(cli, words)["trainer"]["strategy"] == "gan_ddp"


def test_the_job_of_kubernetes_is_an_indexed_one_with_an_accepted_command(cli):
    job = yaml.safe_load(block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    (container,) = pod["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["command"]]
    config = check_torchrun(cli, words)
    assert config["trainer"]["num_nodes"] == spec["completions"]
    assert config["trainer"]["devices"] == container["resources"]["limits"]["nvidia.com/gpu"]
    first = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert f"--master-addr={first}" in container["command"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert [env["name"] for env in container["env"]] == ["JOB_COMPLETION_INDEX"]


@pytest.mark.parametrize("kind", ["gan_ddp", "gan_fsdp", "gan_fsdp_both"])
def test_the_table_of_scaling_is_the_committed_one(kind):
    """Of benchmarks/communication.py."""
    root = Path(__file__).parents[2]
    (path,) = (root / "benchmarks" / "results").glob("*/communication.json")
    rows = [row for row in json.loads(path.read_text())["rows"] if row["strategy"] == kind]
    assert len(rows) == 3
    for row in rows:
        line = (
            f"| `{kind}` | {row['gpus']} | {row['batch']} | {row['sent_mb']:.0f} | "
            f"{row['messages_ms']:.1f} | {row['waits_ms']:.1f} | {row['compute_ms']:.0f} | "
            f"{row['efficiency']:.1%} | {row['kept_mb']:.0f} |"
        )
        assert line in PAGE
