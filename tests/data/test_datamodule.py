"""Which images the Trainer sees: in training, on resume, held out, over processes and workers."""

import os
import re
import subprocess
import sys
import warnings
from itertools import chain, islice
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule, Trainer

from gan3d.camera import Camera
from gan3d.data import Batch, DataError, PosedImages
from gan3d.data.datamodule import PosedImagesModule, check_batch, free_memory


class Witness(LightningModule):
    """Learns nothing and records the images it is shown; `counts`: keeps `images_seen`."""

    def __init__(self, counts: bool = True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        if counts:
            self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.trained: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.trained += batch.index.tolist()
        if hasattr(self, "images_seen"):
            self.images_seen += len(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += batch.index.tolist()

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> list[int]:
        return batch.index.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def make_trainer(tmp_path, **options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


class FakeTrainer:
    """The attributes of a Trainer that decide which process sees which images."""

    overfit_batches = 0
    lightning_module = None

    def __init__(self, rank: int, world_size: int, use_distributed_sampler: bool = False):
        self.global_rank = rank
        self.world_size = world_size
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))
        self._accelerator_connector = SimpleNamespace(
            use_distributed_sampler=use_distributed_sampler
        )


def as_rank(data: PosedImagesModule, rank: int, world_size: int) -> PosedImagesModule:
    data.trainer = FakeTrainer(rank, world_size)
    return data


def take(loader, count: int) -> list[Batch]:
    return list(islice(loader, count))


def cat(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.cat([batch.image for batch in batches])
    labels = torch.cat([batch.camera.label() for batch in batches])
    return images, labels, torch.cat([batch.index for batch in batches])


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(cat(one), cat(other)))


# -- training --------------------------------------------------------------------------------------


def test_an_epoch_shows_every_image_with_its_own_camera(make_folder):
    posed = make_folder(num=6)
    data = PosedImagesModule(str(posed.path), batch_size=2, num_workers=0)
    images, labels, index = cat(take(data.train_dataloader(), 3))
    assert index.tolist() == list(range(6))
    known = PosedImages(posed.path)
    shown = []
    for image, label in zip(images, labels):
        items = [i for i in range(6) if torch.equal(known.labels[i], label)]
        assert torch.equal(known[items[0]][0].float() / 127.5 - 1, image)
        shown += items
    assert sorted(shown) == list(range(6))


def test_the_loader_is_endless(make_folder):
    data = PosedImagesModule(str(make_folder(num=3).path), batch_size=4, num_workers=0)
    assert len(take(data.train_dataloader(), 10)) == 10
    with pytest.raises(TypeError):
        len(data.train_dataloader())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(make_folder, num_workers):
    path = str(make_folder(num=7).zip())
    alone, helped = (
        PosedImagesModule(path, batch_size=4, num_workers=workers, mirror=True)
        for workers in (0, num_workers)
    )
    assert same(take(alone.train_dataloader(), 8), take(helped.train_dataloader(), 8))


def test_a_start_gives_the_tail_of_the_whole_run(make_folder):
    path = str(make_folder(num=5).path)
    whole = take(PosedImagesModule(path, batch_size=3, num_workers=0).train_dataloader(), 6)
    assert whole[0].pixels.dtype == torch.uint8
    later = PosedImagesModule(path, batch_size=3, num_workers=0)
    later.start = 6
    assert same(whole[2:], take(later.train_dataloader(), 4))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_what_one_process_sees(make_folder, world_size):
    path = str(make_folder(num=7).path)
    alone = take(PosedImagesModule(path, batch_size=8, num_workers=0).train_dataloader(), 3)
    shares = []
    for rank in range(world_size):
        data = as_rank(PosedImagesModule(path, batch_size=8, num_workers=0), rank, world_size)
        shares.append(take(data.train_dataloader(), 3))
    together = [shares[rank][number] for number in range(3) for rank in range(world_size)]
    assert same(alone, together)


def test_loading_leaves_the_global_random_numbers_alone(make_folder):
    data = PosedImagesModule(str(make_folder().path), batch_size=2, num_workers=0)
    loader = data.train_dataloader()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(loader, 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_one_readable_error_also_from_a_worker(make_folder, num_workers):
    posed = make_folder(resolution=32)
    data = PosedImagesModule(str(posed.path), batch_size=5, num_workers=num_workers)
    data.setup()
    file = posed.path / posed.names[3]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError) as caught:
        take(data.train_dataloader(), 1)
    expected = rf"{posed.path}: {posed.names[3]}: not a readable image \(.*\); replace the file"
    assert re.fullmatch(expected, str(caught.value))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_pinned_and_move_to_the_gpu(make_folder, num_workers):
    data = PosedImagesModule(str(make_folder().path), batch_size=2, num_workers=num_workers)
    batch = take(data.train_dataloader(), 1)[0]
    tensors = (batch.pixels, batch.camera.cam2world, batch.camera.intrinsics, batch.index)
    assert all(tensor.is_pinned() for tensor in tensors)
    moved = move_data_to_device(batch, torch.device("cuda"))
    assert torch.equal(moved.image.cpu(), batch.image)
    assert torch.equal(moved.camera.label().cpu(), batch.camera.label())


def test_workers_may_be_spawned(make_folder, tmp_path):
    posed = make_folder(num=4)
    script = tmp_path / "spawned.py"
    script.write_text(
        "import sys\n"
        "from torch.utils.data import DataLoader\n"
        "from gan3d.data.dataset import PosedImages, ImageSequence, collate\n"
        "if __name__ == '__main__':\n"
        "    images = ImageSequence(PosedImages(sys.argv[1]), [2, 0])\n"
        "    loader = DataLoader(images, batch_size=2, collate_fn=collate, num_workers=1,\n"
        "                        multiprocessing_context='spawn')\n"
        "    print(next(iter(loader)).image.sum().item())\n"
    )
    command = [sys.executable, script, posed.zip()]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    pixels = torch.from_numpy(posed.pixels[[2, 0]]).permute(0, 3, 1, 2).float()
    expected = (pixels / 127.5 - 1).sum().item()
    assert float(out.stdout) == pytest.approx(expected, abs=1e-3)


# -- held out --------------------------------------------------------------------------------------


def test_heldout_images_and_their_twins_are_never_trained_on(make_folder):
    data = PosedImagesModule(
        str(make_folder(num=10).path), batch_size=7, num_workers=0, heldout=3, mirror=True
    )
    data.setup()
    kept, held = data.training_items.tolist(), data.heldout_items.tolist()
    assert (len(kept), len(held)) == (14, 3)
    assert sorted({item % 10 for item in kept} | set(held)) == list(range(10))
    assert data.labels.shape == (14, 25)
    assert torch.equal(data.labels, data.images.labels[kept])
    trained = cat(take(data.train_dataloader(), 4))[1]
    evaluated = cat(list(data.val_dataloader()))[1]
    twins = Camera.from_label(evaluated).mirror().label()
    for label in torch.cat([evaluated, twins]):
        assert not (trained == label).all(dim=1).any()


def test_heldout_images_come_once_in_order_however_many_processes_share_them(make_folder):
    path = str(make_folder(num=9).path)
    options = {"batch_size": 4, "num_workers": 0, "heldout": 5}
    alone = cat(list(PosedImagesModule(path, **options).val_dataloader()))
    assert alone[2].tolist() == [0, 1, 2, 3, 4]
    for world_size in (2, 4):
        batches = []
        for rank in range(world_size):
            data = as_rank(PosedImagesModule(path, **options), rank, world_size)
            batches += data.test_dataloader()
        images, labels, index = cat(batches)
        order = index.argsort()
        assert index[order].tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(images[order], alone[0])
        assert torch.equal(labels[order], alone[1])


def test_mirrored_copies_on_disk_stay_on_the_side_of_their_image(make_folder):
    posed = make_folder(num=8)
    for item in range(8):
        (posed.path / "v1.0").mkdir(exist_ok=True)
        (posed.path / posed.names[item]).rename(posed.path / f"v1.0/{item}.png")
        posed.names[item] = f"v1.0/{item}.png"
    for item in range(4):  # EG3D's mirror tool: name.png -> name_mirror.png
        (posed.path / posed.names[item + 4]).unlink()
        posed.names[item + 4] = posed.names[item].replace(".png", "_mirror.png")
        copied = (posed.path / posed.names[item]).read_bytes()
        (posed.path / posed.names[item + 4]).write_bytes(copied)
    posed.write_labels()
    for seed in range(5):
        data = PosedImagesModule(str(posed.path), heldout=2, seed=seed)
        held = [data.images.names[item].replace("_mirror", "") for item in data.heldout_items]
        kept = [data.images.names[item].replace("_mirror", "") for item in data.training_items]
        assert len(held) == 2
        assert not set(held) & set(kept)
        assert len(kept) == 8 - 2 * len(set(held))


def test_the_choice_of_heldout_images_follows_the_seed_only(make_folder):
    path = str(make_folder(num=30).path)
    chosen = [
        PosedImagesModule(path, heldout=8, seed=s, mirror=m).heldout_items.tolist()
        for s, m in ((0, 0), (0, 1), (1, 0))
    ]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert chosen[0] != chosen[2]


def test_a_larger_heldout_set_contains_the_smaller(make_folder):
    path = str(make_folder(num=30).path)
    small, large = (
        set(PosedImagesModule(path, heldout=count).heldout_items.tolist()) for count in (4, 9)
    )
    assert small < large


# -- arguments -------------------------------------------------------------------------------------


def test_setup_twice_reads_once(make_folder):
    posed = make_folder()
    data = PosedImagesModule(str(posed.path), resolution=4, batch_size=4)
    data.setup("fit")
    first = data.images
    (posed.path / "dataset.json").unlink()
    data.setup("validate")
    assert data.images is first
    assert data.image_resolution == 4


def test_without_labels_there_are_no_cameras(make_folder):
    data = PosedImagesModule(str(make_folder().path), batch_size=2, num_workers=0, use_labels=False)
    assert data.labels is None
    assert take(data.train_dataloader(), 1)[0].camera is None


def test_wrong_arguments_are_refused(make_folder):
    path = str(make_folder(num=5).path)
    for heldout in (5, -1):
        with pytest.raises(ValueError, match=f"heldout {heldout} of 5 images .* use 0 to 4"):
            PosedImagesModule(path, heldout=heldout).setup()
    with pytest.raises(ValueError, match="num_workers -1 is negative"):
        PosedImagesModule(path, num_workers=-1)
    with pytest.raises(ValueError, match=r"batch_size 6 .* among 4 processes"):
        as_rank(PosedImagesModule(path, batch_size=6), 0, 4).train_dataloader()
    with pytest.raises(ValueError, match=r"no images are held out to test on; set data\.heldout"):
        PosedImagesModule(path).test_dataloader()
    with pytest.raises(DataError, match="no data set at"):
        PosedImagesModule(path + "-not").setup()


def test_a_trainer_that_would_disturb_the_order_is_refused(make_folder, tmp_path):
    data = PosedImagesModule(str(make_folder().path))
    data.trainer = FakeTrainer(0, 2, use_distributed_sampler=True)
    with pytest.raises(ValueError, match=r"set trainer\.use_distributed_sampler to false"):
        data.setup("fit")
    trainer = make_trainer(tmp_path, overfit_batches=2)
    with pytest.raises(ValueError, match=r"overfit_batches .* set data\.max_items"):
        trainer.fit(Witness(), datamodule=PosedImagesModule(data.path))


# -- with Lightning --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_epochs_go_on_where_the_last_one_stopped(make_folder, tmp_path, num_workers):
    witness = Witness()
    data = PosedImagesModule(str(make_folder(num=7).path), batch_size=4, num_workers=num_workers)
    make_trainer(tmp_path, max_epochs=3, limit_train_batches=2).fit(witness, datamodule=data)
    assert witness.trained == list(range(24))


def test_a_resumed_run_goes_on_with_the_next_image(make_folder, tmp_path):
    path = str(make_folder(num=7).path)
    file = tmp_path / "middle.ckpt"
    trainer = make_trainer(tmp_path, max_steps=-1, max_epochs=1, limit_train_batches=3)
    trainer.fit(Witness(), datamodule=PosedImagesModule(path, batch_size=4, num_workers=0))
    trainer.save_checkpoint(file)
    witness = Witness()
    data = PosedImagesModule(path, batch_size=4, num_workers=0)
    trainer = make_trainer(tmp_path, max_epochs=2, limit_train_batches=2)
    trainer.fit(witness, datamodule=data, ckpt_path=file)
    assert witness.trained == list(range(12, 20))


def test_a_module_that_does_not_count_begins_at_start(make_folder, tmp_path):
    witness = Witness(counts=False)
    data = PosedImagesModule(str(make_folder(num=7).path), batch_size=4, num_workers=0)
    data.start = 40
    make_trainer(tmp_path, max_epochs=1, limit_train_batches=2).fit(witness, datamodule=data)
    assert witness.trained == list(range(40, 48))


def test_validation_test_and_prediction_see_the_heldout_images(make_folder, tmp_path):
    witness, trainer = Witness(), make_trainer(tmp_path)
    data = PosedImagesModule(str(make_folder(num=12).path), batch_size=4, num_workers=0, heldout=10)
    trainer.validate(witness, datamodule=data, verbose=False)
    trainer.test(witness, datamodule=data, verbose=False)
    assert witness.validated == [*range(10), *range(10)]
    assert list(chain(*trainer.predict(witness, datamodule=data))) == list(range(8))


@pytest.mark.parametrize("heldout", [0, 2])
def test_training_runs_without_a_word_from_lightning_about_the_data(make_folder, tmp_path, heldout):
    witness = Witness()
    data = PosedImagesModule(
        str(make_folder(num=7).path), batch_size=4, num_workers=0, heldout=heldout
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(tmp_path, max_epochs=2, limit_train_batches=2)
        trainer.fit(witness, datamodule=data)
    messages = [str(warning.message) for warning in caught]
    about_data = re.compile("loader|worker|__len__|length|batch")
    assert [message for message in messages if about_data.search(message)] == []
    assert set(witness.validated) == set(range(heldout))


def test_a_batch_larger_than_the_set_or_the_memory_is_refused(monkeypatch):
    check_batch(64, 64, 32)
    with pytest.raises(ValueError, match=r"--data.batch_size 65 is more than the 64 images"):
        check_batch(65, 64, 32)
    monkeypatch.setattr("gan3d.data.datamodule.free_memory", lambda: 2**30)
    check_batch(1000, 2000, 256)
    with pytest.raises(ValueError, match=r"needs 1.5 GiB .*1.0 GiB are free; use 682 or less"):
        check_batch(2000, 2000, 256)
    monkeypatch.setattr("gan3d.data.datamodule.free_memory", lambda: None)
    check_batch(2000, 2000, 256)


def test_the_free_memory_of_this_machine_is_known():
    if os.path.exists("/proc/meminfo"):
        assert 2**20 < free_memory() < 2**50


def test_a_batch_is_checked_when_a_run_begins(make_folder):
    data = PosedImagesModule(str(make_folder().path), batch_size=10_000, num_workers=0)
    with pytest.raises(ValueError, match="is more than the"):
        data.setup("fit")
