"""Checkpoints in parts: read as those of one process, compared with their checksums, never
executed.
"""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from gan3d.checkpoints.models import find_model
from gan3d.checkpoints.official.unpickle import UnsafePickleError
from gan3d.checkpoints.runs import load_content, newest_whole, read_checkpoint
from gan3d.checkpoints.shards import REST
from gan3d.training.checkpoint_file import NotSavedError, WholeFileIO
from gan3d.training.nan_guard import NonFiniteError

WEIGHT = torch.arange(12, dtype=torch.float64).reshape(3, 4)


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def content(mesh, weight: torch.Tensor = WEIGHT) -> dict:
    part: DTensor = distribute_tensor(weight, mesh, [Shard(0)])
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": distribute_tensor(-weight, mesh)}}
    return {
        "state_dict": {"generator.w": part, "generator.buffer": torch.ones(2), "seen": 5},
        "optimizer_states": [{"state": moments, "param_groups": [{"params": [0], "lr": 0.1}]}],
    }


@pytest.fixture
def written(mesh, tmp_path) -> Path:
    io, folder = WholeFileIO(), tmp_path / "kimg-000000.008.ckpt"
    io.save_shards(content(mesh), folder)
    assert io.take_error() is None
    return folder


def shard_of(folder: Path) -> Path:
    (path,) = folder.glob("shard-*")
    return path


def test_parts_come_back_as_the_content_of_one_process(written):
    for back in (
        read_checkpoint(written),
        load_content(written),
        WholeFileIO().load_checkpoint(written),
    ):
        assert torch.equal(back["state_dict"]["generator.w"], WEIGHT)
        assert type(back["state_dict"]["generator.w"]) is torch.Tensor
        assert torch.equal(back["state_dict"]["generator.buffer"], torch.ones(2))
        assert back["state_dict"]["seen"] == 5
        (state,) = back["optimizer_states"]
        assert torch.equal(state["state"][0]["exp_avg"], -WEIGHT)
        assert state["state"][0]["step"] == 3
        assert state["param_groups"] == [{"params": [0], "lr": 0.1}]


def test_what_lies_in_the_folder_is_replaced(mesh, written):
    (written / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"of another run")
    io = WholeFileIO()
    io.save_shards(content(mesh, WEIGHT + 1), written)
    assert io.take_error() is None
    assert torch.equal(read_checkpoint(written)["state_dict"]["generator.w"], WEIGHT + 1)
    assert len(list(written.iterdir())) == 2


def test_a_folder_is_found_as_a_file_is(written):
    assert find_model(written) == written
    assert newest_whole(written.parent) == written


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: flip(shard_of(folder)), "checksum of shard-00001"),
        (lambda folder: shard_of(folder).unlink(), "not whole: shard-00001.* is missing"),
        (lambda folder: shutil.copyfile(shard_of(folder), folder / REST), "no checkpoint"),
        (lambda folder: torch.save({"state_dict": {}}, folder / REST), "does not say which parts"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(written, damage, says):
    before = Path(shutil.copytree(written, written.with_name("kimg-000000.004.ckpt")))
    damage(written)
    with pytest.raises(ValueError, match=says):
        read_checkpoint(written)
    warnings: list[str] = []
    assert newest_whole(written.parent, warnings.append) == before
    assert len(warnings) == 1


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_executed(written, capsys):
    torch.save({"state_dict": {}, "x": Hostile()}, written / REST)
    with pytest.raises(UnsafePickleError, match="nothing was executed"):
        read_checkpoint(written)
    assert "executed" not in capsys.readouterr().out


def test_parts_that_are_not_finite_are_not_saved(mesh, tmp_path):
    io, bad = WholeFileIO(), WEIGHT.clone()
    bad[2, 1] = torch.inf
    io.save_shards(content(mesh, bad), tmp_path / "new.ckpt")
    error = io.take_error()
    assert isinstance(error, NonFiniteError)
    assert str(error) == "generator.w, optimizer_states.0.state.0.exp_avg is not finite"
    assert not (tmp_path / "new.ckpt").exists()


def test_a_folder_that_cannot_be_written_says_so(mesh, tmp_path):
    (tmp_path / "file").write_text("in the way")
    io = WholeFileIO()
    io.save_shards(content(mesh), tmp_path / "file" / "new.ckpt")
    error = io.take_error()
    assert isinstance(error, NotSavedError)
    assert str(error).startswith("Not a directory (it needs 204 bytes; ")
