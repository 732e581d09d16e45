"""StyleGAN2's discriminators, single and dual."""

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.discriminators import DualDiscriminator, StyleGAN2Discriminator
from gan3d.randomness import Randomness

ARCHITECTURES = pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
CLASSES = pytest.mark.parametrize("cls", [StyleGAN2Discriminator, DualDiscriminator])
SIZE = {
    "img_resolution": 16,
    "channel_base": 128,
    "channel_max": 8,
    "mapping_layers": 2,
    "c_dim": 25,
}


def discriminator(cls: type[StyleGAN2Discriminator], **options) -> StyleGAN2Discriminator:
    torch.manual_seed(0)
    return cls(**{**SIZE, **options})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cameras(b: int = 4) -> Camera:
    return Camera.from_angles(torch.linspace(-0.5, 0.5, b), torch.linspace(-0.2, 0.3, b))


def pair(b: int = 4) -> dict[str, Tensor | Camera]:
    return {"image": normal(b, 3, 16, 16), "raw": normal(b, 3, 8, 8, seed=1), "camera": cameras(b)}


# -- Inputs ----------------------------------------------------------------------------------------


@ARCHITECTURES
@CLASSES
@pytest.mark.parametrize("c_dim", [0, 25])
def test_one_logit_per_image(cls, architecture, c_dim):
    output = discriminator(cls, architecture=architecture, c_dim=c_dim)(**pair())
    assert output.logits.shape == (4,)
    assert output.pose is None
    assert output.patch_logits is None


@ARCHITECTURES
def test_the_dual_discriminator_depends_on_image_raw_image_and_camera(architecture):
    judge = discriminator(DualDiscriminator, architecture=architecture).requires_grad_(False)
    logits = judge(**pair()).logits
    changes = {
        "image": normal(4, 3, 16, 16, seed=2),
        "raw": normal(4, 3, 8, 8, seed=2),
        "camera": cameras().mirror(),
    }
    for name, other in changes.items():
        changed = judge(**{**pair(), name: other}).logits
        assert ((changed - logits).abs() > 1e-6).all(), name


def test_the_single_discriminator_ignores_the_raw_image():
    judge, seen = discriminator(StyleGAN2Discriminator), pair()
    assert torch.equal(judge(**seen).logits, judge(seen["image"], camera=seen["camera"]).logits)


def test_an_unconditional_discriminator_ignores_the_camera():
    judge, seen = discriminator(DualDiscriminator, c_dim=0), pair()
    assert torch.equal(judge(**seen).logits, judge(seen["image"], raw=seen["raw"]).logits)


@pytest.mark.parametrize("side", [5, 8, 16, 24])
def test_a_raw_image_of_any_size_is_resized_to_the_final_one(side):
    seen = {**pair(), "raw": normal(4, 3, side, side)}
    assert discriminator(DualDiscriminator)(**seen).logits.isfinite().all()


def test_groups_are_strided():
    """Groups of two of four images: 0 with 2, 1 with 3."""
    judge, seen = discriminator(DualDiscriminator, group_size=2).requires_grad_(False), pair()
    image = seen["image"].clone()
    image[2] = normal(3, 16, 16, seed=3)
    difference = judge(**{**seen, "image": image}).logits - judge(**seen).logits
    assert (difference.abs() > 1e-7).tolist() == [True, False, True, False]


@CLASSES
def test_without_minibatch_statistics_images_are_independent(cls):
    judge, seen = discriminator(cls, mbstd_channels=0).requires_grad_(False), pair()
    assert judge.group_size == 1
    alone = judge(seen["image"][:1], raw=seen["raw"][:1], camera=seen["camera"][:1]).logits
    torch.testing.assert_close(judge(**seen).logits[:1], alone, atol=1e-5, rtol=1e-5)


@ARCHITECTURES
def test_the_gradient_penalty_reaches_every_weight(architecture):
    judge, seen = discriminator(DualDiscriminator, architecture=architecture), pair()
    inputs = [seen[name].requires_grad_() for name in ("image", "raw")]
    gradients = torch.autograd.grad(judge(**seen).logits.sum(), inputs, create_graph=True)
    sum(gradient.square().sum() for gradient in gradients).backward()
    for name, parameter in judge.named_parameters():
        if name != "b4.out.bias":  # the gradient of the logit does not depend on it
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


# -- Frozen layers ---------------------------------------------------------------------------------

B16 = ["b16.fromrgb", "b16.conv0", "b16.conv1"]
B8 = ["b8.conv0", "b8.conv1"]
ORDER = {
    "resnet": [*B16, "b16.skip", *B8, "b8.skip"],
    "skip": [*B16, "b8.fromrgb", *B8],
    "orig": [*B16, *B8],
}


@ARCHITECTURES
@pytest.mark.parametrize("freeze_layers", [0, 1, 3, 4, 5])
def test_exactly_the_first_layers_are_frozen(architecture, freeze_layers):
    judge = discriminator(DualDiscriminator, architecture=architecture, freeze_layers=freeze_layers)
    free = discriminator(DualDiscriminator, architecture=architecture)
    frozen = set(dict(free.named_parameters())) - set(dict(judge.named_parameters()))
    assert {name.rsplit(".", 1)[0] for name in frozen} == set(ORDER[architecture][:freeze_layers])
    assert {name for name, _ in judge.named_buffers()} >= frozen
    assert judge.state_dict().keys() == free.state_dict().keys()
    judge.load_state_dict(free.state_dict())
    assert torch.equal(judge(**pair()).logits, free(**pair()).logits)


# -- Label noise -----------------------------------------------------------------------------------


def test_label_noise_changes_the_logits_and_not_the_camera():
    seen, randomness = pair(), Randomness(0, range(4))
    before = seen["camera"].label().clone()
    clean = discriminator(DualDiscriminator)(**seen, randomness=randomness).logits
    noisy = discriminator(DualDiscriminator, disc_c_noise=1.0)(**seen, randomness=randomness).logits
    assert ((clean - noisy).abs() > 1e-6).all()
    assert torch.equal(seen["camera"].label(), before)


def test_label_noise_is_relative_to_the_deviation_of_the_labels():
    judge, b = discriminator(DualDiscriminator, disc_c_noise=0.5), 4000
    camera = Camera.from_angles(0.3 * normal(b), 0.1 * normal(b, seed=1))
    label = camera.label()
    noise = judge._label(camera, Randomness(0, range(b))) - label
    torch.testing.assert_close(noise.std(dim=0), 0.5 * label.std(dim=0), atol=1e-6, rtol=0.05)


def test_label_noise_is_off_in_evaluation_and_without_randomness():
    noisy = discriminator(DualDiscriminator, disc_c_noise=1.0)
    clean = discriminator(DualDiscriminator)
    seen, randomness = pair(), Randomness(0, range(4))
    assert torch.equal(noisy(**seen).logits, clean(**seen).logits)
    assert torch.equal(noisy.eval()(**seen, randomness=randomness).logits, clean(**seen).logits)


def test_a_single_image_has_no_label_noise():
    noisy = discriminator(DualDiscriminator, disc_c_noise=1.0)
    clean = discriminator(DualDiscriminator)
    seen = pair(1)
    assert torch.equal(noisy(**seen, randomness=Randomness(0, [0])).logits, clean(**seen).logits)


# -- Errors ----------------------------------------------------------------------------------------


@CLASSES
def test_images_of_another_size_are_refused(cls):
    with pytest.raises(ValueError, match=r"images of 16 px, got shape \(4, \d, 32, 32\)"):
        discriminator(cls)(**{**pair(), "image": normal(4, 3, 32, 32)})


@CLASSES
def test_a_missing_camera_is_refused(cls):
    with pytest.raises(ValueError, match="c_dim 25 but got no camera; give one"):
        discriminator(cls)(**{**pair(), "camera": None})


def test_a_missing_raw_image_is_refused():
    with pytest.raises(ValueError, match="give raw"):
        discriminator(DualDiscriminator)(normal(4, 3, 16, 16), camera=cameras())


@CLASSES
def test_a_batch_that_does_not_divide_into_groups_is_refused(cls):
    with pytest.raises(ValueError, match=r"6 images.*groups of 4"):
        discriminator(cls)(**pair(6))


# -- The pose --------------------------------------------------------------------------------------


@CLASSES
@pytest.mark.parametrize("c_dim", [0, 25])
def test_a_pose_is_predicted_from_the_image_and_never_from_the_label(cls, c_dim):
    judge = discriminator(cls, predicts_pose=True, c_dim=c_dim).requires_grad_(False)
    plain = discriminator(cls, c_dim=c_dim).requires_grad_(False)
    assert (judge.predicts_pose, plain.predicts_pose) == (True, False)
    assert set(judge.state_dict()) - set(plain.state_dict()) == {"pose.weight", "pose.bias"}
    seen, output = pair(), judge(**pair())
    assert torch.equal(output.logits, plain(**seen).logits)
    assert output.pose.shape == (4, 2)
    other = judge(**{**seen, "camera": cameras().mirror()})
    assert torch.equal(other.pose, output.pose)
    moved = judge(**{**seen, "image": normal(4, 3, 16, 16, seed=2)})
    assert ((moved.pose - output.pose).abs() > 1e-6).all()


def test_a_pose_starts_near_the_frontal_camera():
    output = discriminator(DualDiscriminator, predicts_pose=True, channel_max=64)(**pair())
    front = Camera.from_angles(torch.zeros(1), torch.zeros(1)).sphere_pose()
    assert (output.pose - front).abs().mean() < 1.5  # as a linear layer's outputs spread about it
    judge = discriminator(DualDiscriminator, predicts_pose=True).requires_grad_(False)
    judge.pose.weight.zero_()
    assert torch.allclose(judge(**pair()).pose, front.expand(4, 2))


def test_the_pose_loss_reaches_the_layers_before_it():
    judge = discriminator(DualDiscriminator, predicts_pose=True)
    (judge(**pair()).pose - cameras().sphere_pose()).square().mean().backward()
    for name in ("pose.weight", "pose.bias", "b4.fc.weight", "b16.fromrgb.weight"):
        assert judge.get_parameter(name).grad.abs().max() > 0, name
    assert judge.b4.out.weight.grad is None
