"""Callbacks: when they act, what they log, and that training does not feel them."""

import csv
import io
import logging
import re
import socket
import sys
import threading
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from gan3d.apps.looks import Look
from gan3d.camera import GaussianPose
from gan3d.generators import GENERATORS, Generator, Rendering
from gan3d.metrics import FrechetDistance, SmallFeatures
from gan3d.randomness import Randomness
from gan3d.training.callbacks import (
    AlarmLevels,
    Evaluation,
    KimgProgressBar,
    LiveView,
    Snapshots,
    TimeLimit,
    alarms,
    forecast,
    progress_line,
)
from gan3d.training.callbacks.progress import Pace
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.loggers import DiskLogger
from gan3d.training.run import Run

BATCH = 50


class Slabs(Generator):
    """A textured plane z = 0 whose colors follow z and, as far as `leak` says, the conditioning
    camera.
    """

    z_dim, w_dim, num_ws, img_resolution = 3, 3, 1, 16
    camera_conditioned = True
    has_raw = True

    def __init__(self, leak: float = 0.0):
        super().__init__()
        self.color = nn.Linear(3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.leak = leak

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        follow = 0 if camera is None else self.leak * camera.yaw_pitch()[0][:, None]
        return (self.color(z) + follow)[:, None]

    def represent(self, ws, *, randomness=None):
        return torch.tanh(self.dropout(ws[:, 0]))

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        ray = camera.rays(16)
        distance = -ray.origins[..., 2] / ray.directions[..., 2]
        texture = (20 * (ray.origins + distance[..., None] * ray.directions)[..., :1]).sin()
        image = (representation[:, None] * (0.6 + 0.4 * texture)).mT.reshape(-1, 3, 16, 16)
        depth = (distance[..., None] * ray.cosines).reshape(-1, 1, 16, 16)
        return Rendering(self.norm(image), image[..., ::2, ::2], depth, torch.ones_like(depth))


class Blots(Generator):
    """A 2D model: flat colors."""

    z_dim, w_dim, num_ws, img_resolution = 3, 3, 1, 16
    has_camera = False

    def __init__(self):
        super().__init__()
        self.color = nn.Linear(3, 3)

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return self.color(z)[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        assert camera is None
        return Rendering(torch.tanh(representation)[:, :, None, None].expand(-1, -1, 16, 16))


for name in ("Slabs", "Blots"):
    GENERATORS.pop(name)  # of these tests only: no registry-walking test shall see them


class Harness(LightningModule):
    """The face of the harness that callbacks see; its training draws from the global random stream
    on purpose.
    """

    def __init__(self, generator: Generator, total_kimg: float):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.generator_ema = generator, generator
        self.weight = nn.Parameter(torch.zeros(4))
        self.run, self.seed = Run(total_kimg=total_kimg), 0
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

    def sample_cameras(self, randomness):
        return GaussianPose().sample(randomness)

    def resolution_at(self, images_seen):
        return None

    def resolution_now(self):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.weight.grad = torch.randn(4) + next(iter(self.generator.parameters())).sum().detach()
        optimizer.step()
        self.images_seen += BATCH
        seen = int(self.images_seen)
        for logger in self.loggers:
            logger.log_metrics({"loss/generator": float(self.weight.detach().sum())}, step=seen)
        if seen >= self.run.total_kimg * 1000:
            self.trainer.should_stop = True


class Colors(LightningDataModule):
    """Held-out images: flat random colors with a little noise."""

    def __init__(self, num: int = 48, batch_size: int = 20):
        super().__init__()
        self.batch_size = batch_size
        stream = torch.Generator().manual_seed(0)
        self.images = (
            torch.rand(num, 3, 1, 1, generator=stream) * 2
            - 1
            + 0.1 * torch.randn(num, 3, 16, 16, generator=stream)
        )

    def train_dataloader(self):
        return DataLoader(torch.zeros(10_000, 1))

    def val_dataloader(self):
        if not len(self.images):
            return []
        return DataLoader(
            self.images,
            batch_size=self.batch_size,
            collate_fn=lambda rows: SimpleNamespace(image=torch.stack(rows)),
        )


def fit(
    run_dir, callbacks, *, total_kimg=1.0, generator=None, data=None, ckpt_path=None, max_steps=-1
):
    torch.manual_seed(0)
    module = Harness(generator or Slabs(), total_kimg)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=max_steps,
        logger=DiskLogger(run_dir) if run_dir else False,
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(callback, KimgProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, Checkpoints) for c in callbacks),
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data or Colors(), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


def table(run_dir) -> dict[str, dict[int, float]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() - {"step"}
    return {
        name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in names
    }


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SMALL = {"num_heads": 4, "video_every": 2, "video_heads": 2, "video_frames": 3}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of 1 kimg with an event every 0.4 kimg."""
    folder = tmp_path_factory.mktemp("run")
    fit(folder, [Snapshots(0.4, **SMALL), Evaluation(0.4, num_images=40, batch_size=16)])
    return folder


def test_events_come_at_the_start_at_every_interval_and_at_the_end(run_dir):
    moments = ["000000000", "000000400", "000000800", "000001000"]
    expected = [f"{key}_{moment}.png" for key in ("fakes", "layers") for moment in moments]
    assert files(run_dir / "pictures") == [*expected, "reals_000000000.png"]
    assert list(table(run_dir)["distance/frechet"]) == [0, 400, 800, 1000]


def test_videos_come_with_every_other_snapshot_and_at_the_end(run_dir):
    assert files(run_dir / "videos") == ["orbit_000000800.mp4", "orbit_000001000.mp4"]


class OutOfTime(Callback):
    """Stops the run as --trainer.max_time does: after the callbacks of an iteration, at 500
    images.
    """

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if int(pl_module.images_seen) == 500:
            trainer.should_stop = True


def test_a_run_out_of_time_right_after_a_snapshot_still_has_its_video(tmp_path):
    fit(tmp_path, [Snapshots(0.5, **SMALL), OutOfTime()], total_kimg=9.0)
    assert files(tmp_path / "videos") == ["orbit_000000500.mp4"]
    assert files(tmp_path / "pictures")[-1] == "layers_000000500.png"


def test_an_event_due_after_the_last_iteration_happens_once(tmp_path):
    snapshots = Snapshots(0.5, **SMALL)
    acted = []
    act, snapshots.act = snapshots.act, lambda *args: acted.append(args[2:]) or act(*args)
    fit(tmp_path, [snapshots])
    assert acted == [(0, False), (500, False), (1000, True)]
    acted.clear()
    fit(tmp_path, [snapshots], total_kimg=9.0, max_steps=10)
    assert acted == [(0, False), (500, True)]


def test_a_billboard_raises_the_flatness_alarm_value_of_zero(run_dir):
    values = table(run_dir)
    assert max(values["alarm/flatness"].values()) < 1e-5
    assert max(map(abs, values["alarm/bulge"].values())) < 1e-5
    assert set(values["alarm/opaque"].values()) == {1.0}
    assert min(values["alarm/z_sensitivity"].values()) > 0.1
    assert set(values["alarm/camera_leak"].values()) == {0.0}


class KnownHeads(Colors):
    """As `Colors`, of a set of procedural heads."""

    is_heads = True


def test_the_signed_measures_are_logged_and_shown_where_the_data_are_procedural_heads(
    run_dir, tmp_path, capsys
):
    assert not [name for name in table(run_dir) if name.startswith("heads/")]
    bar = KimgProgressBar(print_seconds=0.0)
    fit(tmp_path, [Snapshots(0.4, **SMALL), bar], data=KnownHeads())
    values = table(tmp_path)
    assert list(values["heads/face_slope"]) == [0, 400, 800, 1000]
    assert max(map(abs, values["heads/face_slope"].values())) < 1e-4  # a plane
    assert set(values["heads/face_convex"].values()) == {0.0}
    assert {"heads/body_slope", "heads/background_behind", "heads/identity"} <= set(values)
    turn = values["heads/turn"][800]
    assert (
        f"face {values['heads/face_slope'][800]:+.2f}, turn {turn:.2f}" in capsys.readouterr().err
    )


def test_reference_distances_are_logged_once_and_frame_the_scale(run_dir):
    values = table(run_dir)
    assert list(values["distance/floor"]) == list(values["distance/mean_image"]) == [0]
    assert 0 < values["distance/floor"][0] < values["distance/mean_image"][0]


def test_the_distance_of_frontal_conditioning_does_not_see_what_leaks_from_the_camera(tmp_path):
    values = {}
    for leak in (0.0, 2.0):
        torch.manual_seed(0)
        fit(tmp_path / str(leak), [Evaluation(9.0, num_images=40)], generator=Slabs(leak))
        values[leak] = table(tmp_path / str(leak))
    told, untold = values[2.0], values[0.0]
    assert told["distance/frechet_3d"] == pytest.approx(untold["distance/frechet"], rel=1e-3)
    assert untold["distance/frechet_3d"] == pytest.approx(untold["distance/frechet"])
    assert abs(told["distance/frechet"][0] / untold["distance/frechet"][0] - 1) > 0.05


def test_training_is_bit_for_bit_the_same_with_and_without_callbacks(tmp_path):
    _, plain = fit(None, [])
    callbacks = [KimgProgressBar(), Snapshots(0.2, **SMALL), Evaluation(0.3, num_images=40)]
    _, watched = fit(tmp_path, callbacks)
    assert torch.equal(plain.weight, watched.weight)
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values()):
        assert torch.equal(a, b), name
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]


def test_a_page_that_is_looked_at_changes_no_bit_of_the_training_and_renders_in_its_thread():
    """Two browsers, played by threads, ask for frames of other scenes all the time."""
    pytest.importorskip("viser")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    frames, threads = [], set()

    class Watched(LiveView):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            gallery = self.viewer.gallery
            self.browsers = [threading.Thread(target=self.look, args=(k,)) for k in range(2)]
            self.exhibit, self.paces = gallery.exhibits[0], gallery.paces()
            for browser in self.browsers:
                browser.start()

        def look(self, seed):
            gallery, turns = self.viewer.gallery, self.turns

            def frame():
                threads.add(threading.get_ident())
                look = Look(seed=seed + len(frames))
                return gallery.frame(look, self.exhibit.front(), "depth", self.paces, moving=True)

            while (made := turns.run(frame)) is not None:
                frames.append(made)

    _, plain = fit(None, [])
    callback = Watched(port)
    _, watched = fit(None, [callback])
    for browser in callback.browsers:
        browser.join(10)
    assert torch.equal(plain.weight, watched.weight)
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values()):
        assert torch.equal(a, b), name
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]
    # At most one frame for each browser after each of the 20 iterations.
    assert 10 < len(frames) <= 40
    assert threads == {threading.get_ident()}
    assert callback.viewer is None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # closed at the end


def test_a_page_shows_the_generator_of_the_moment_to_browsers_at_rest(monkeypatch):
    pytest.importorskip("viser")
    callback, asked = LiveView(every_seconds=0.0), []
    exhibit = SimpleNamespace(resolution=None)
    gallery = SimpleNamespace(exhibits=[exhibit], forget=lambda: asked.append("forget"))
    callback.viewer = SimpleNamespace(
        sessions={}, gallery=gallery, ask_again=lambda: asked.append("ask"), close=lambda: None
    )
    callback.turns = SimpleNamespace(serve=lambda: asked.append("serve"))
    module = Harness(Slabs(), 1.0)
    callback.on_train_batch_end(None, module, None, None, 0)
    assert asked == ["serve"]  # nobody looks
    callback.viewer.sessions[0] = None
    callback.on_train_batch_end(None, module, None, None, 0)
    assert asked == ["serve", "forget", "ask", "serve"]

    # a stage renders at another resolution: the page opens anew
    opened = []
    monkeypatch.setattr(callback, "_open", lambda module: opened.append(module))
    monkeypatch.setattr(module, "resolution_now", lambda: 32)
    callback.viewer.sessions.clear()
    page = callback.viewer
    monkeypatch.setattr(callback, "close", lambda: opened.append("closed"))
    callback.on_train_batch_end(None, module, None, None, 0)
    assert opened == ["closed", module]
    assert callback.viewer is page


def test_a_resumed_run_repeats_and_skips_nothing(tmp_path):
    def callbacks():
        return [Snapshots(0.3, **SMALL), Evaluation(0.3, num_images=40)]

    fit(tmp_path / "unbroken", callbacks(), total_kimg=1.0)
    trainer, _ = fit(tmp_path / "resumed", callbacks(), total_kimg=1.0, max_steps=10)  # 0.5 kimg
    trainer.save_checkpoint(tmp_path / "at500.ckpt")
    fit(
        tmp_path / "resumed",
        callbacks(),
        total_kimg=1.0,
        max_steps=15,
        ckpt_path=tmp_path / "at500.ckpt",
    )
    fit(tmp_path / "resumed", callbacks(), total_kimg=1.0, ckpt_path=tmp_path / "at500.ckpt")
    unbroken, resumed = table(tmp_path / "unbroken"), table(tmp_path / "resumed")
    assert unbroken.keys() == resumed.keys()
    for name in (
        "distance/frechet",
        "alarm/z_sensitivity",
    ):  # the end of the first session, at 500, stays in the file
        assert set(resumed[name]) - set(unbroken[name]) == {500}
        assert {step: value for step, value in resumed[name].items() if step != 500} == unbroken[
            name
        ]
    assert list(resumed["loss/generator"]) == list(unbroken["loss/generator"])


def test_a_checkpoint_saved_before_an_evaluation_that_was_due_is_followed_by_it(tmp_path):
    def callbacks():
        return [
            Checkpoints(tmp_path / "checkpoints", every_kimg=0.3),
            Evaluation(0.3, num_images=40),
        ]

    fit(tmp_path, callbacks(), total_kimg=1.0)
    before = table(tmp_path)["distance/frechet"]
    earlier = tmp_path / "checkpoints" / "kimg-000000.600.ckpt"
    fit(tmp_path, callbacks(), total_kimg=1.0, ckpt_path=earlier)
    assert table(tmp_path)["distance/frechet"] == before
    assert {300, 600, 900} < set(before)


class IterationCounter(Callback):
    """Logs as Lightning's LearningRateMonitor does: with iterations for a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.loggers[0].log_metrics({"lr": 0.1}, step=trainer.global_step)


def test_a_resumed_run_keeps_its_rows_although_another_callback_counts_iterations(tmp_path):
    trainer, _ = fit(tmp_path, [], max_steps=10)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fit(tmp_path, [IterationCounter(), KimgProgressBar()], ckpt_path=tmp_path / "a.ckpt")
    assert list(table(tmp_path)["loss/generator"]) == list(range(50, 1001, 50))


def test_the_distance_does_not_depend_on_the_size_of_batches(tmp_path):
    values = []
    for batch_size in (7, 40):
        fit(
            tmp_path / str(batch_size),
            [Evaluation(5.0, num_images=40, batch_size=batch_size)],
            total_kimg=0.1,
        )
        values.append(table(tmp_path / str(batch_size))["distance/frechet"][0])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_the_distance_is_that_of_as_many_fakes_as_reals_in_eight_bits(tmp_path):
    """Written out: z and cameras of the fixed draws, conditioning by the same cameras, bytes,
    moments.
    """
    _, module = fit(tmp_path, [Evaluation(5.0, num_images=30)], total_kimg=0.1)
    metric, draw = FrechetDistance(SmallFeatures()), Randomness(0, range(30), "evaluation")
    generator, cameras = module.generator_ema.eval(), module.sample_cameras(draw)
    with torch.no_grad():
        fakes = generator(draw.normal("z", 3), cameras).image
    metric.update(((fakes + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1, real=False)
    metric.update(Colors().images[:30], real=True)
    assert table(tmp_path)["distance/frechet"][100] == pytest.approx(
        metric.compute().item(), rel=1e-4
    )


class OfOneSize(nn.Module):
    """Features of images of 16 px only."""

    def forward(self, images):
        return images.reshape(-1, 3 * 16 * 16)[:, :7]


def test_a_feature_network_of_a_fixed_size_sees_images_of_the_generators_size(tmp_path):
    fit(tmp_path, [Evaluation(5.0, features=OfOneSize())], total_kimg=0.1)
    assert table(tmp_path)["distance/frechet"][0] > 0


@pytest.mark.filterwarnings(r"error:std\(\)")
def test_held_out_images_that_come_one_by_one_are_no_reason_for_a_warning(tmp_path):
    fit(tmp_path, [Evaluation(5.0)], total_kimg=0.1, data=Colors(5, batch_size=1))
    assert table(tmp_path)["distance/floor"][0] > 0


def test_the_distance_can_be_monitored(tmp_path):
    trainer, _ = fit(tmp_path, [Evaluation(0.4, num_images=40)])
    assert float(trainer.callback_metrics["distance/frechet"]) == pytest.approx(
        table(tmp_path)["distance/frechet"][800]
    )


def test_small_pictures_are_enlarged_and_labeled(run_dir):
    width, height = Image.open(run_dir / "pictures" / "fakes_000000400.png").size
    assert 4 * 130 + 20 < width < 4 * 130 + 100
    assert 130 + 10 < height < 130 + 30
    layers = Image.open(run_dir / "pictures" / "layers_000000400.png")  # raw, image, depth
    assert layers.width == width
    assert 3 * 130 + 10 < layers.height < 3 * 130 + 30


def test_without_held_out_images_training_goes_on_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="gan3d.training.callbacks"):
        fit(tmp_path, [Evaluation(0.4)], data=Colors(0))
    assert any("set data.heldout" in record.message for record in caplog.records)
    assert "distance/frechet" not in table(tmp_path)


def test_too_few_held_out_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 held-out images to compare with; hold out at least 4"):
        fit(tmp_path, [Evaluation(0.4)], data=Colors(3))


def test_a_2d_model_has_pictures_but_no_depth_orbit_or_geometry_alarm(tmp_path):
    fit(tmp_path, [Snapshots(0.5, **SMALL), Evaluation(0.5)], generator=Blots())
    assert files(tmp_path / "pictures") == [
        *(f"fakes_00000{moment}.png" for moment in ("0000", "0500", "1000")),
        "reals_000000000.png",
    ]
    assert not (tmp_path / "videos").exists()
    geometry = {"alarm/flatness", "alarm/bulge", "alarm/opaque", "alarm/camera_leak"}
    assert table(tmp_path).keys() & geometry == set()


def test_a_2d_model_with_labels_is_shown_and_evaluated_with_labels(tmp_path):
    given = []

    class Labeled(Blots):
        camera_conditioned = True

        def map(self, z, camera=None, **options):
            given.append(camera)
            return super().map(z, camera, **options)

    fit(tmp_path, [Snapshots(5.0, **SMALL), Evaluation(5.0)], generator=Labeled(), total_kimg=0.1)
    assert len(given) > 4
    assert all(camera is not None for camera in given)
    assert not (tmp_path / "videos").exists()


def test_an_alarm_is_told_in_one_sentence_once_and_only_after_its_time(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="gan3d.training.callbacks"):
        fit(
            tmp_path,
            [Snapshots(0.2, **SMALL, alarm=AlarmLevels(after_kimg=0.5))],
            generator=Slabs(leak=50.0),
        )
    told = [record.message for record in caplog.records]
    assert sorted(message.split(":")[0] for message in told) == ["0.6 kimg", "0.6 kimg"]
    assert any("nearly flat" in message and "--model.r1.gamma" in message for message in told)
    assert any(
        "conditioning camera" in message and "--model.fakes.conditioning" in message
        for message in told
    )


def test_a_healthy_run_raises_no_alarm():
    healthy = {"alarm/flatness": 0.056, "alarm/z_sensitivity": 0.3, "alarm/camera_leak": 0.1}
    assert alarms(healthy, AlarmLevels()) == {}
    collapsed = healthy | {"alarm/z_sensitivity": 0.001}
    assert list(alarms(collapsed, AlarmLevels())) == ["alarm/z_sensitivity"]


def test_a_head_of_half_the_right_relief_is_not_flat_at_any_radius():
    for radius, relief in ((2.7, 0.056), (1.0, 0.0196)):  # real heads, world units
        values = {"alarm/flatness": relief / 2 / radius, "alarm/bulge": relief / 2 / radius}
        assert alarms(values, AlarmLevels()) == {}


@pytest.mark.parametrize(
    ("values", "name", "says"),
    [
        ({"alarm/flatness": 0.02, "alarm/bulge": -0.02}, "alarm/bulge", "hollow .*0.0200 camera"),
        ({"alarm/flatness": 0.001, "alarm/bulge": 0.0}, "alarm/flatness", "nearly flat"),
        (
            {"alarm/flatness": 0.0, "alarm/bulge": 0.0, "alarm/opaque": 0.0},
            "alarm/opaque",
            "Nothing is opaque",
        ),
    ],
)
def test_flat_hollow_and_transparent_heads_have_a_sentence_each(values, name, says):
    sentences = alarms(values, AlarmLevels())
    assert list(sentences) == [name]
    assert re.search(says, sentences[name])


def test_the_truth_calls_hollow_what_flatness_and_bulge_call_good():
    fine = {"alarm/flatness": 0.02, "alarm/bulge": 0.02, "alarm/opaque": 0.4}
    right = {"heads/face_convex": 0.9, "heads/face_slope": 0.8, "heads/turn": 0.7}
    assert alarms(fine | right, AlarmLevels()) == {}
    hollow = fine | right | {"heads/face_convex": 0.1, "heads/face_slope": -0.6}
    sentences = alarms(hollow, AlarmLevels())
    assert list(sentences) == ["heads/face_convex"]
    assert re.search(r"hollow or flat: 10% are convex .* -0\.60", sentences["heads/face_convex"])
    still = alarms(fine | right | {"heads/turn": -0.05}, AlarmLevels())
    assert list(still) == ["heads/turn"]
    assert "do not turn: by -0.05" in still["heads/turn"]


def test_intervals_and_heads_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="every_kimg 0 is not positive"):
        Evaluation(0)
    with pytest.raises(ValueError, match="2 or more"):
        Snapshots(1.0, num_heads=1)


# --------------------------------------------------------------------------------------------------
# progress bar


class Terminal(io.StringIO):
    def __init__(self, tty: bool):
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


def test_the_line_counts_images_and_estimates_the_time_left():
    metrics = {"loss/generator": torch.tensor(0.812), "loss/discriminator": 1.2}
    line = progress_line(60_000, 100, 400.0, None, metrics)
    assert line == "60.0/100 kimg, 400 images/s, 01:40 left, G 0.81, D 1.20"


def test_the_line_shows_relief_and_turn_where_they_are_known():
    metrics = {"loss/generator": 0.8, "heads/face_slope": torch.tensor(-0.312), "heads/turn": 0.4}
    line = progress_line(60_000, 100, 400.0, None, metrics)
    assert line.endswith("01:40 left, G 0.80, face -0.31, turn 0.40")


def test_the_time_left_is_that_of_the_limit_where_this_comes_first():
    line = progress_line(60_000, 100, 400.0, 30.0, {})
    assert line == "60.0/100 kimg, 400 images/s, 00:30 left of max_time"
    assert progress_line(60_000, 100, 400.0, 101.0, {}).endswith("01:40 left")


def test_the_line_shows_as_many_digits_as_move_within_two_seconds():
    assert progress_line(0, 25000, 4000.0, None, {}).startswith("0/25000 kimg, 4000 images/s")
    assert progress_line(3_200, 10, 3200.0, None, {}).startswith("3.20/10 kimg, 3200 images/s")
    assert progress_line(944, 15, 1.78, None, {}).startswith("0.944/15 kimg, 1.78 images/s")
    assert progress_line(12_345, 25000, 40.0, None, {}).startswith("12.35/25000 kimg")
    assert progress_line(50, 0.4, 5.0, None, {}) == "0.050/0.4 kimg, 5 images/s, 01:10 left"


def test_a_forecast_names_what_comes_first():
    now = datetime(2026, 5, 4, 13, 0)
    assert forecast(1_000, 15, 2.0, None, now) == (
        "about 2 images/s: 15 kimg will be done in 1:56:40, about 14:56"
    )
    assert forecast(1_000, 150, 2.0, None, now).endswith("about Tue 05 May 2026, 09:41")
    assert forecast(1_000, 15, 2.0, 600.0, now) == (
        "about 2 images/s: --trainer.max_time will stop it in 10:00, about 13:10, at about 2.2 of "
        "15 kimg (15%); the whole run takes 1:56:40"
    )


def test_a_rate_is_told_from_twenty_iterations_on_and_leaves_out_the_first_ones(monkeypatch):
    clock = iter([100.0, 200.0, 300.0, *(301.0 + k for k in range(20))])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    pace = Pace()
    for k in range(19):
        pace.step(8 * (k + 1))
        assert pace.rate is None
    pace.step(8 * 20)
    assert pace.rate == pytest.approx(8.0)


def test_the_end_is_foretold_once_after_twenty_iterations(caplog):
    with caplog.at_level(logging.INFO, logger="gan3d.training.callbacks"):
        fit(None, [KimgProgressBar(), TimeLimit("00:01:00:00")], total_kimg=1.5)
    told = [record.message for record in caplog.records if record.name.startswith("gan3d.")]
    assert len(told) == 1
    assert "images/s: 1.5 kimg will be done in 00:00" in told[0]


def test_a_time_limit_ends_the_session_and_a_resumed_run_has_one_of_its_own(tmp_path):
    limit = TimeLimit({"milliseconds": 1})
    trainer, module = fit(None, [limit], total_kimg=100.0)
    first = int(module.images_seen)
    assert 0 < first < 50_000
    assert limit.seconds_left == 0
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert "Time" not in str(torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"])
    _, module = fit(
        None, [TimeLimit({"milliseconds": 1})], total_kimg=100.0, ckpt_path=tmp_path / "a.ckpt"
    )
    assert int(module.images_seen) > first


def test_without_a_terminal_lines_are_few(monkeypatch):
    stream = Terminal(tty=False)
    monkeypatch.setattr(sys, "stderr", stream)
    fit(None, [KimgProgressBar()])
    lines = [line for line in stream.getvalue().splitlines() if "kimg" in line]
    assert len(lines) == 1
    assert lines[0].startswith("100% | 1.000/1 kimg, ")


def test_a_terminal_shows_one_bar_that_ends_full(monkeypatch):
    stream = Terminal(tty=True)
    monkeypatch.setattr(sys, "stderr", stream)
    fit(None, [KimgProgressBar(refresh_seconds=0.0)])
    assert "\n" not in stream.getvalue().rstrip("\n")
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("100% |")
    assert "1.000/1 kimg" in last


def test_after_a_resume_the_bar_starts_at_the_images_seen(tmp_path, monkeypatch):
    trainer, _ = fit(None, [], max_steps=10)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stream = Terminal(tty=True)
    monkeypatch.setattr(sys, "stderr", stream)
    fit(None, [KimgProgressBar(refresh_seconds=0.0)], ckpt_path=tmp_path / "a.ckpt")
    shares = [int(part.split("%")[0]) for part in stream.getvalue().split("\r") if "%" in part]
    assert min(shares) == 50
    assert max(shares) == 100
    assert shares == sorted(shares)


def test_no_time_is_promised_before_the_rate_is_known():
    assert progress_line(100, 1.0, None, 60.0, {}) == "0.100/1 kimg"


# -- what only shows the run may fail --------------------------------------------------------------


def test_a_run_ends_well_though_nothing_of_it_can_be_shown(tmp_path, caplog, monkeypatch):
    """No ffmpeg; a file where the pictures go."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    (tmp_path / "pictures").write_text("")
    with caplog.at_level(logging.INFO, logger="gan3d"):
        fit(tmp_path, [KimgProgressBar(), Snapshots(0.2, **SMALL)])
    told = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert len(told) == 3, told
    assert sum("/pictures/fakes failed" in line for line in told) == 1
    assert sum("the video failed" in line and "ffmpeg" in line for line in told) == 1
    assert "the run is whole, but what shows it is not" in caplog.records[-1].getMessage()
    assert list(table(tmp_path)["alarm/flatness"])[-1] == 1000


def test_a_missing_ffmpeg_is_said_at_the_start(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        "imageio_ffmpeg.get_ffmpeg_exe", lambda: (_ for _ in ()).throw(RuntimeError("No ffmpeg"))
    )
    fit(tmp_path, [KimgProgressBar(), Snapshots(90.0, **SMALL)], max_steps=1)
    assert "the video failed: there is no ffmpeg" in caplog.text


def test_an_evaluation_that_fails_once_leaves_the_others_as_they_were(
    tmp_path, monkeypatch, run_dir
):
    compute, calls = FrechetDistance.compute, []

    def sometimes(self):
        calls.append(self)
        if len(calls) == 5:  # after the floor, the mean image and the two of the first fakes
            raise torch.linalg.LinAlgError("did not converge")
        return compute(self)

    monkeypatch.setattr(FrechetDistance, "compute", sometimes)
    fit(tmp_path, [Snapshots(0.4, **SMALL), Evaluation(0.4, num_images=40, batch_size=16)])
    for name in ("distance/frechet", "distance/frechet_3d"):
        whole = table(run_dir)[name]
        del whole[400]
        assert table(tmp_path)[name] == whole


def test_a_mistake_in_a_callback_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Snapshots, "act", lambda *args: [].no_such_thing)
    with pytest.raises(AttributeError):
        fit(tmp_path, [Snapshots(0.4, **SMALL)])


@pytest.mark.parametrize("here", [True, False])
def test_where_the_evaluation_of_one_process_fails_none_waits_for_it(monkeypatch, here):
    evaluation = Evaluation()
    evaluation.distance = SimpleNamespace(reset=lambda: None)  # compute would be the collective
    reduced = []

    def see(*_):
        if here:
            raise OSError("a disk")

    monkeypatch.setattr(evaluation, "_see_fakes", see)
    strategy = SimpleNamespace(reduce=lambda x, reduce_op: reduced.append(float(x)) or 1.0)
    trainer = SimpleNamespace(world_size=2, strategy=strategy)
    with pytest.raises(OSError, match="a disk" if here else "another process"):
        evaluation._of_fakes(trainer, SimpleNamespace(device="cpu"))
    assert reduced == [float(here)]


def test_a_distance_that_fails_gives_back_the_sums_of_the_other_processes(monkeypatch):
    """Else the next evaluation would count the reals of all processes again in each."""

    def compute():
        raise torch.linalg.LinAlgError("did not converge")

    given_back = []
    evaluation = Evaluation()
    evaluation.distance = SimpleNamespace(
        reset=lambda: None,
        compute=compute,
        _is_synced=True,
        unsync=lambda: given_back.append(True),
    )
    monkeypatch.setattr(evaluation, "_see_fakes", lambda *_: None)
    with pytest.raises(torch.linalg.LinAlgError):
        evaluation._of_fakes(SimpleNamespace(world_size=1), None)
    assert given_back
