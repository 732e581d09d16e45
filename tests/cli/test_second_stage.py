"""EG3D's second stage, as one command, from a run of the first."""

import torch

from gan3d.checkpoints.runs import load_training, newest_whole
from gan3d.cli import main
from gan3d.training.phases import Phases


def test_the_second_stage_starts_from_the_first_and_raises_the_resolution(
    tiny, trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    seen, first_images = [], []
    resolution, latents = Phases.resolution, Phases.latents

    def watched(self):
        seen.append((self.images_seen, resolution(self)))
        return seen[-1][1]

    def first_weights(self, draw):
        if not first_images:
            first_images.append({k: v.clone() for k, v in self.generator.state_dict().items()})
        return latents(self, draw)

    monkeypatch.setattr(Phases, "resolution", watched)
    monkeypatch.setattr(Phases, "latents", first_weights)
    words = "--model.run.init_from runs/tiny --run_dir runs/tiny_32"
    ramp = "--model.fakes.raw_resolution {initial: 16, final: 32, fade_kimg: 0.016}"
    options = "--model.run.total_kimg 0.024 --model.generator.raw_resolution 32"
    code = main([
        "fit", "--config", str(tiny), "--config",
        "eg3d_second_stage.yaml", *words.split(), *ramp.split(" ", 1), *options.split(),
    ])  # fmt: skip
    assert code == 0
    assert sorted(set(seen)) == [(0, 16), (8, 24), (16, 32)]

    second = load_training(newest_whole(tmp_path / "runs/tiny_32/checkpoints"))[0]
    assert second.raw_resolution == 32
    last = load_training(newest_whole(trained / "checkpoints"), "generator")[0].state_dict()
    begun = first_images[0]
    assert all(torch.equal(begun[name], value) for name, value in last.items())
