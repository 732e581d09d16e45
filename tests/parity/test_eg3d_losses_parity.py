"""The harness' phases against the published loss: every loss case of every folder of golden/eg3d.

The phases run as they do in training, but for the trainer: GAN's own methods, fed with the draws of
the golden run.
Where the published run drew less than we do, our draws are made to agree: the swapped pose is the
neighbor's (a roll by one over the batch), and the density phase has one swap for the whole batch.
"""

import copy
import functools
import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from gan3d.augment import Augmentation, Blur
from gan3d.camera import Camera, PosePrior
from gan3d.checkpoints.official.stylegan2 import from_published
from gan3d.layers.resize import filtered_resizing
from gan3d.layers.synthesis import SynthesisLayer
from gan3d.randomness import Randomness
from gan3d.schedules import Ramp
from gan3d.training.ema import EMA
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, DensityRegularization, PoseConditioning
from gan3d.training.micro_batches import Part

PHASES = {"Gmain": "generator", "Greg": "density", "Dmain": "discriminator", "Dreg": "r1"}
losses = pytest.mark.golden_losses("eg3d")


class GoldenDraws(Randomness):
    """The draws of the golden run: inputs.safetensors, constant noise, fixed sample positions."""

    def __init__(
        self, given: dict[str, Tensor], generator: nn.Module, phase: str, dtype: torch.dtype
    ):
        super().__init__(0, range(len(given["z"])), phase, dtype=dtype)
        self.given, self.generator = given, generator

    def in_phase(self, phase: str) -> Randomness:
        return GoldenDraws(self.given, self.generator, f"{self.phase}/{phase}", self.dtype)

    def _draw(self, name: str, sample, shape: tuple[int, ...]) -> Tensor:
        if name.startswith("noise"):
            value = self._noise(name)
        elif name == "depth_jitter":
            value = torch.tensor(0.5, dtype=self.dtype)
        elif name == "importance":
            value = torch.linspace(0, 1, shape[-1], dtype=self.dtype)
        elif name == "swap" and self.phase == "density":
            value = self.given["swap_of_density"]
        else:
            value = self.given[name]
        return value.to(self.dtype).expand(len(self), *shape)

    def _noise(self, name: str) -> Tensor:
        part = "superresolution" if self.phase.endswith("superresolution") else "backbone"
        layers = self.generator.get_submodule(part).modules()
        (buffer,) = [
            m.noise_const for m in layers if isinstance(m, SynthesisLayer) and m.noise_name == name
        ]
        return buffer


@dataclass(frozen=True)
class GoldenPoses(PosePrior):
    """The golden run's cameras; as the pose to swap with, that of the image before."""

    labels: Tensor

    def sample(self, randomness: Randomness) -> Camera:
        labels = self.labels.roll(1, 0) if randomness.phase.endswith("/swap") else self.labels
        return Camera.from_label(labels.to(randomness.dtype))


class WatchedR1(R1):
    """Keeps the penalty of every image, of which the harness has the mean."""

    def __call__(self, judge, image: Tensor, raw: Tensor | None = None) -> Tensor:
        penalty = super().__call__(judge, image, raw)
        object.__setattr__(self, "penalty", penalty.detach())
        return penalty


class GoldenGAN(GAN):
    """The harness with the weights, the settings and the draws of a loss case."""

    def __init__(self, case, load, eg3d_generator, eg3d_discriminator):
        config = case.config
        options = case.case["loss_kwargs"]
        rendering = dict(case.config["rendering_kwargs"])
        self.gain, swap = case.case["gain"], options["gpc_reg_prob"]
        rendering["c_gen_conditioning_zero"] |= swap is None
        generator = eg3d_generator({**config, "rendering_kwargs": rendering})
        discriminator = eg3d_discriminator(config)
        weights = from_published(load(case.folder / "weights_G*.safetensors"))
        generator.load_state_dict(weights, strict=False)
        discriminator.load_state_dict(load(case.folder / "weights_D*.safetensors"))
        super().__init__(
            generator,
            discriminator,
            r1=WatchedR1(options["r1_gamma"], self.gain),
            density=DensityRegularization(
                rendering["density_reg"],
                rendering["density_reg_p_dist"],
                self.gain,
                rendering["reg_type"],
            ),
            augmentation=Augmentation(Blur(options["blur_init_sigma"], options["blur_fade_kimg"])),
            fakes=Fakes(
                poses=GoldenPoses(case.inputs["loss_gen_c"]),
                conditioning=PoseConditioning(swap or 0.0, options["gpc_reg_fade_kimg"]),
                raw_resolution=Ramp(
                    options["neural_rendering_resolution_initial"],
                    options.get("neural_rendering_resolution_final"),
                    options.get("neural_rendering_resolution_fade_kimg", 1000),
                ),
            ),
        )
        self.images_seen.fill_(case.case["cur_nimg"])
        self.given = {
            "z": case.inputs["loss_z"],
            "swap": case.inputs["swap_uniform"],
            "swap_of_density": torch.tensor(case.case.get("greg_swap_uniform", 0.0)),
            "density_points": case.inputs["greg_uniform_coords01"],
            "density_perturbation": case.inputs["greg_perturb_normal"],
        }
        self.real = case.inputs["real_image"]
        self.real_camera = Camera.from_label(case.inputs["loss_real_c"])
        self.phases.images_seen = case.case["cur_nimg"]

    def draws(self, indices, phase: str) -> Randomness:
        return GoldenDraws(self.given, self.generator, phase, self.dtype)

    def run_phase(self, phase: str) -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
        """Values, logits per output, and gradients of a phase; the main phases have no gain."""
        if phase == "Dmain":  # r1 of interval 1 would join in
            losses = self.phases.losses
            self.phases.losses = replace(losses, r1=replace(losses.r1, gamma=0.0))
        network = self.generator if phase.startswith("G") else self.discriminator
        self.requires_grad_(False)
        network.requires_grad_(True)
        logits: list[Tensor] = []
        watch = self.discriminator.register_forward_hook(
            lambda _, __, judged: logits.append(judged.logits.detach())
        )
        values: dict[str, Tensor] = {}
        part = Part(
            self.real.to(self.dtype), self.real_camera.to(self.dtype), list(range(len(self.real)))
        )
        for loss in getattr(self.phases, f"{PHASES[phase]}_loss")(part, values):
            loss.backward()
        watch.remove()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        return {name: value.detach() for name, value in values.items()}, logits, gradients


@pytest.fixture
def harness(loss_case, load, monkeypatch, eg3d_generator, eg3d_discriminator) -> GoldenGAN:
    # The harness resizes reals as all published runs did ("antialiased"); golden runs have other
    # filters, too.
    mode = loss_case.case["loss_kwargs"]["filter_mode"]
    monkeypatch.setattr(
        "gan3d.training.phases.filtered_resizing",
        functools.partial(filtered_resizing, filter_mode=mode),
    )
    return GoldenGAN(loss_case, load, eg3d_generator, eg3d_discriminator)


@losses
def test_eg3d_generator_phase(loss_case, harness, near):
    values, (fake,), _ = harness.run_phase("Gmain")
    near(fake[:, None], loss_case.expected["Gmain.Loss.scores.fake"])
    near(
        harness.phases.losses.game.generator(fake)[:, None], loss_case.expected["Gmain.Loss.G.loss"]
    )
    near(values["loss/generator"], loss_case.expected["Gmain.Loss.G.loss"].mean())


@losses
def test_eg3d_density_phase(loss_case, harness, near):
    values, logits, _ = harness.run_phase("Greg")
    expected = loss_case.expected["Greg.value"]
    near(values["loss/density"] / expected, torch.ones(()))
    assert logits == []


@losses
def test_eg3d_discriminator_phase(loss_case, harness, near):
    values, (fake, real), _ = harness.run_phase("Dmain")
    near(fake[:, None], loss_case.expected["Dmain.Loss.scores.fake"])
    near(real[:, None], loss_case.expected["Dmain.Loss.scores.real"])
    loss = harness.phases.losses.game.fake(fake) + harness.phases.losses.game.real(real)
    near(loss[:, None], loss_case.expected["Dmain.Loss.D.loss"])
    near(values["loss/discriminator"], loss_case.expected["Dmain.Loss.D.loss"].mean())
    near(values["signs/real"], loss_case.expected["Dmain.Loss.signs.real"].mean())


@losses
def test_eg3d_mean_latent_moves_with_the_discriminator_phase(loss_case, harness, near):
    harness.run_phase("Dmain")
    ((mapped, _),) = harness.phases.tracked
    harness.generator.track(mapped.mean(0, keepdim=True))  # as training_step does
    near(harness.generator.backbone.mapping.w_avg, loss_case.expected["w_avg_after_Dmain"])


@losses
def test_eg3d_r1_phase(loss_case, harness, near):
    values, (real,), _ = harness.run_phase("Dreg")
    expected = loss_case.expected["Dreg.Loss.D.reg"]
    near(real[:, None], loss_case.expected["Dreg.Loss.scores.real"])
    r1 = harness.phases.losses.r1
    near(r1.penalty / expected, torch.ones_like(expected))
    penalty = loss_case.expected["Dreg.Loss.r1_penalty"]
    near(r1.penalty * 2 / r1.gamma / penalty, torch.ones_like(penalty))
    near(values["loss/r1"] / expected.mean(), torch.ones(()))


# dtype, whether oneDNN takes the convolutions (its sums have another order), factor of real images
ROUNDINGS = {
    "float32": (torch.float32, True, 1.0),
    "float64": (torch.float64, True, 1.0),
    "float32 without oneDNN": (torch.float32, False, 1.0),
    "float32, images down by a bit": (torch.float32, True, 1 - 2**-23),
    "float32, images up by a bit": (torch.float32, True, 1 + 2**-23),
}


@losses
@pytest.mark.parametrize("phase", PHASES)
def test_eg3d_gradients(loss_case, harness, phase):
    """Gradients of every parameter, including the gain.

    If the input of a leaky ReLU is only rounding error, it takes either slope, and every gradient
    behind it changes by about 1e-4. This affects one of a hundred thousand units, sometimes in the
    golden run, sometimes in ours, and depends on the machine. So all gradients of a phase have to
    agree in one of the `ROUNDINGS`.
    """
    wrong = {}
    for name, (dtype, with_onednn, scale) in ROUNDINGS.items():
        rounded = copy.deepcopy(harness).to(dtype)
        rounded.real = scale * rounded.real
        with torch.backends.mkldnn.flags(enabled=with_onednn):
            wrong[name] = different_gradients(loss_case, rounded, phase)
        if not wrong[name]:
            return
    pytest.fail(f"gradients that differ, by rounding: {wrong}")


def different_gradients(loss_case, harness: GoldenGAN, phase: str) -> dict[str, str]:
    """The parameters whose gradients differ, with their errors.

    The tolerance is 1e-4 of the norm (1e-3 for noise strengths, which are sums over whole images)
    plus 1e-6 of the largest norm of the phase.
    """
    _, _, gradients = harness.run_phase(phase)
    norms, wrong = loss_case.norms[phase], {}
    # Regularizers have their gain from their interval; the golden run gave it to the main phases as
    # well.
    gain = harness.gain if phase.endswith("main") else 1
    negligible = 1e-6 * max(norms.values())
    for name in norms.keys() | gradients.keys():
        # A parameter that is not recorded has no gradient; one without a gradient here should have
        # none.
        gradient = gain * gradients.get(name, torch.zeros(()))
        expected, norm = loss_case.expected.get(f"{phase}.grad.{name}"), norms.get(name, 0.0)
        error = abs(gradient.norm() - norm) if expected is None else (gradient - expected).norm()
        if not error <= (1e-3 if name.endswith("noise_strength") else 1e-4) * norm + negligible:
            wrong[name] = f"{float(error):.2g} of {norm:.2g}"
    return wrong


def test_eg3d_schedules(golden, near):
    """Blur, raw resolution, swaps and EMA over images seen, in the published recipe at batch 32."""
    facts = json.loads((golden / "eg3d/components/components.json").read_text())["schedules"]
    batch = facts["batch"]
    blur = Blur(sigma=10.0, fade_kimg=200.0)
    swaps = PoseConditioning(0.5, 1000.0)
    ema, resolution = EMA(half_life_kimg=batch * 10 / 32, ramp_up=0.05), Ramp(64, 128, 1000.0)
    assert facts["values"]
    for expected in facts["values"]:
        seen = expected["nimg"]
        sigma = blur.sigma_at(seen)
        assert sigma == pytest.approx(expected["blur_sigma"])
        assert 2 * int(3 * sigma) + 1 == expected["blur_taps"]
        assert round(resolution.at(seen)) == expected["nrr_64_to_128"]
        assert swaps.swap_probability(seen) == pytest.approx(expected["swap_prob_gpc0p5"])
        assert ema.beta(seen, batch) == pytest.approx(expected["ema_beta"], abs=1e-12)
