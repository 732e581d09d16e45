"""gan3d.training.losses against derivations by hand."""

import math

import pytest
import torch

from gan3d.camera import Camera
from gan3d.randomness import Randomness
from gan3d.training.losses import (
    R1,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Losses,
    NonSaturating,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
    TopK,
    lazy_interval,
)
from gan3d.training.optimizers import Adam


def test_an_undecided_discriminator_costs_log_two():
    zero = torch.zeros(3)
    loss = NonSaturating()
    for value in (loss.generator(zero), loss.fake(zero), loss.real(zero)):
        assert torch.allclose(value, torch.full((3,), math.log(2.0)))


def test_each_loss_falls_in_its_player_s_direction():
    logits = torch.tensor([-2.0, 2.0])
    loss = NonSaturating()
    assert loss.generator(logits).diff() < 0
    assert loss.real(logits).diff() < 0
    assert loss.fake(logits).diff() > 0


def test_r1_of_a_linear_discriminator_is_half_gamma_times_the_squared_weight():
    weight = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image = torch.randn(5, 3, 4, 4)
    penalty = R1(gamma=3.0)(lambda x, raw: (x * weight).sum(dim=(1, 2, 3)), image)
    assert torch.allclose(penalty, (3.0 / 2 * weight.square().sum()).expand(5))


def test_r1_of_two_images_adds_both_gradients_and_can_be_differentiated():
    scale = torch.tensor(2.0, requires_grad=True)
    judge = lambda x, raw: (scale * x).sum(dim=(1, 2, 3)) + (3 * scale * raw).sum(dim=(1, 2, 3))  # noqa: E731
    penalty = R1(gamma=2.0)(judge, torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2))
    assert torch.allclose(penalty, torch.full((2,), 16 * 4.0 + 4 * 36.0))
    (slope,) = torch.autograd.grad(penalty.sum(), scale)
    assert slope.item() == pytest.approx(2 * 2 * (16 * 2.0 + 4 * 18.0))


def test_density_regularization_of_a_constant_field_is_zero():
    draw = Randomness(0, range(2))
    value = DensityRegularization(weight=1.0)(lambda p: torch.ones(*p.shape[:2], 1), draw)
    assert torch.equal(value, torch.zeros(2))


def test_density_regularization_of_a_linear_field_is_the_mean_step():
    # |sigma(p) - sigma(p + delta)| = 10 |delta_x|, and E|N(0, s)| = s sqrt(2 / pi).
    draw = Randomness(0, range(4))
    value = DensityRegularization(weight=0.5, perturbation=0.1, num_points=20_000)(
        lambda p: 10 * p[..., :1], draw
    )
    assert torch.allclose(
        value, torch.full((4,), 0.5 * 10 * 0.1 * math.sqrt(2 / math.pi)), rtol=0.03
    )


@pytest.mark.parametrize("kind", ["l1", "monotonic-fixed"])
def test_density_is_regularized_in_the_whole_cube(kind):
    seen = []
    density = DensityRegularization(weight=1.0, kind=kind, num_points=200)
    density(lambda p: seen.append(p) or p[..., :1], Randomness(0, range(2)))
    for points in seen:
        low, high = points.amin(dim=1), points.amax(dim=1)
        assert (low < -0.9).all()
        assert (high > 0.9).all()
        assert torch.cat([-low, high]).max() < 1.1


@pytest.mark.parametrize("kind", ["monotonic-detach", "monotonic-fixed"])
def test_the_monotonic_kinds_ask_that_density_does_not_fall_towards_the_back(kind):
    draw = Randomness(0, range(2))
    regularizer = DensityRegularization(weight=0.0, kind=kind)
    rising_backwards = regularizer(lambda p: -p[..., 2:], draw, extent=1.0)
    falling_backwards = regularizer(lambda p: p[..., 2:], draw, extent=1.0)
    assert torch.allclose(rising_backwards, torch.zeros(2))
    assert torch.allclose(falling_backwards, torch.full((2,), 10 / 256), atol=1e-5)


def test_only_the_fixed_kind_moves_the_front_density():
    slope = torch.tensor(1.0, requires_grad=True)

    def front_only(p):
        in_front = torch.arange(p.shape[1])[None, :, None] < p.shape[1] // 2
        return torch.where(in_front, slope, 0.0).expand(p.shape[0], -1, 1)

    draw = Randomness(0, range(1))
    detached = DensityRegularization(weight=0.0, kind="monotonic-detach")(front_only, draw)
    assert not detached.requires_grad or torch.autograd.grad(detached.sum(), slope)[0] == 0
    fixed = DensityRegularization(weight=0.0, kind="monotonic-fixed")(front_only, draw)
    assert torch.autograd.grad(fixed.sum(), slope)[0].item() == pytest.approx(10.0)


def test_swapping_falls_from_always_to_its_final_probability():
    conditioning = PoseConditioning(swap=0.5, fade_kimg=1.0)
    assert [conditioning.swap_probability(n) for n in (0, 500, 1000, 5000)] == [1.0, 0.75, 0.5, 0.5]


def test_lazy_regularization_corrects_learning_rate_and_betas():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = Adam(lr=0.002, beta1=0.0, beta2=0.99).build([weight], lazy_interval=16)
    assert optimizer.defaults["lr"] == pytest.approx(0.002 * 16 / 17)
    assert optimizer.defaults["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert Adam(lr=0.002).build([weight]).defaults["lr"] == 0.002


def test_a_rate_that_is_set_later_is_corrected_alike():
    adam = Adam(lr=0.002)
    optimizer = adam.build([torch.nn.Parameter(torch.zeros(1))], lazy_interval=4)
    for rate, expected in ((0.01, 0.008), (None, 0.0016)):
        adam.adjust(optimizer, rate, lazy_interval=4)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_all_numbers_of_adam_are_those_of_the_config_not_of_a_checkpoint():
    weight = torch.nn.Parameter(torch.zeros(1))
    former = Adam(lr=0.002, beta2=0.99).build([weight], lazy_interval=16)
    adam = Adam(lr=0.0005, beta2=0.9, eps=1e-6)
    optimizer = adam.build([weight], lazy_interval=4)
    optimizer.load_state_dict(former.state_dict())
    adam.adjust(optimizer, None, lazy_interval=4)
    (group,) = optimizer.param_groups
    assert group["lr"] == pytest.approx(4e-4)
    assert group["betas"] == (0.0, pytest.approx(0.9192, abs=1e-4))
    assert group["eps"] == 1e-6


def test_the_path_length_of_a_linear_map_is_the_norm_of_its_rows_seen_from_a_random_image():
    # image = A w with orthonormal columns of A times 3: |A^T y| = 3 |projection of y|; for a full
    # basis, 3 |y|.
    draw = Randomness(0, range(3))
    ws = torch.randn(3, 1, 12, requires_grad=True)
    image = (3 * ws).reshape(3, 3, 2, 2)
    lengths = PathLength().lengths(ws, image, draw)
    y = draw.normal("path_noise", 3, 2, 2) / 2
    assert torch.allclose(lengths, 3 * y.flatten(1).norm(dim=1))


def test_the_path_length_is_the_root_of_the_mean_square_over_latents():
    draw = Randomness(0, range(2))
    ws = torch.randn(2, 2, 12, requires_grad=True)
    image = (3 * ws[:, 0] + 4 * ws[:, 1]).reshape(2, 3, 2, 2)
    y = draw.normal("path_noise", 3, 2, 2) / 2
    expected = math.sqrt((9 + 16) / 2) * y.flatten(1).norm(dim=1)
    assert torch.allclose(PathLength().lengths(ws, image, draw), expected)


def test_the_path_penalty_is_the_squared_distance_to_the_updated_mean_and_can_be_differentiated():
    scale = torch.tensor(2.0, requires_grad=True)
    lengths = scale * torch.tensor([1.0, 3.0])
    penalty = PathLength(weight=2.0, decay=0.25)(lengths, torch.tensor(1.0))
    mean = 1.0 + 0.25 * (4.0 - 1.0)
    assert torch.allclose(penalty, 2 * (lengths - mean).square())
    (slope,) = torch.autograd.grad(penalty.sum(), scale)
    # d/ds of 2 (s l - (0.75 + 0.25 s mean(l)))^2, mean(l) = 2
    assert slope.item() == pytest.approx(sum(4 * (2 * x - mean) * (x - 0.5) for x in (1.0, 3.0)))


def test_the_generator_has_one_lazy_regularizer():
    assert lazy_interval(DensityRegularization(), PathLength()) == 0
    assert lazy_interval(DensityRegularization(weight=1, interval=4), PathLength()) == 4
    assert lazy_interval(DensityRegularization(), PathLength(weight=2, interval=8)) == 8
    with pytest.raises(ValueError, match="both on"):
        lazy_interval(DensityRegularization(weight=1), PathLength(weight=2))


def test_top_k_is_the_mean_over_the_best_fakes():
    logits = torch.tensor([3.0, -1.0, 0.5, 2.0, -4.0])
    game = TopK(interval_kimg=1.0, smallest=0.4)
    plain = NonSaturating()
    assert torch.equal(game.generator(logits, 0), plain.generator(logits))
    late = game.generator(logits, 10**6)  # 0.99^1000 is below 0.4: two of five are kept
    assert late.mean() == pytest.approx(plain.generator(logits[[0, 3]]).mean().item())
    assert (late == 0).tolist() == [False, True, True, False, True]


def test_top_k_keeps_one_fake_more_rather_than_a_part_of_one():
    logits = torch.tensor([3.0, -1.0, 0.5, 2.0, -4.0])
    game, plain = TopK(interval_kimg=1.0, smallest=0.5), NonSaturating()
    late = game.generator(logits, 10**6)  # 2.5 of five
    assert (late == 0).tolist() == [False, True, False, False, True]
    assert late.mean() == pytest.approx(plain.generator(logits[[0, 2, 3]]).mean().item())


def test_a_told_pose_is_wrong_by_the_mean_square_over_both_angles():
    camera = Camera.from_sphere(
        torch.tensor([1.5, 1.2]), torch.tensor([1.6, 1.0]), 12.0, resolution=8
    )
    pose = torch.tensor([[1.5, 1.6], [1.4, 1.4]])
    assert PosePrediction(weight=15)(pose, camera).tolist() == pytest.approx(
        [0.0, (0.04 + 0.16) / 2], abs=1e-5
    )


def test_a_told_latent_is_weighted():
    assert LatentPrediction(2.0)(torch.ones(2, 4), torch.zeros(2, 4)).tolist() == [2.0, 2.0]


def test_patches_play_the_same_game_as_images():
    logits = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    patch, game = Patches(0.1), NonSaturating()
    expected = 0.1 * torch.nn.functional.softplus(-logits).mean(dim=(1, 2, 3))
    assert torch.allclose(patch(game.real, logits), expected)
    assert torch.allclose(patch.realness(logits), 0.1 * logits.mean(dim=(1, 2, 3)))


def test_images_whose_shrunk_version_is_the_raw_image_are_consistent():
    raw = torch.full((2, 3, 8, 8), 0.3)
    image = torch.full((2, 3, 32, 32), 0.3)
    maps, raw_maps = torch.full((2, 5, 4, 32, 32), 0.1), torch.full((2, 5, 4, 8, 8), 0.1)
    loss = CrossResolution(3.0)
    assert torch.allclose(loss(image, raw, maps, raw_maps), torch.zeros(2), atol=1e-10)
    assert loss(image, raw + 0.5)[0] == pytest.approx(3 * 0.25, rel=1e-4)
    raw_maps[1] += 0.2
    assert loss(image, raw, maps, raw_maps).tolist() == pytest.approx([0.0, 3 * 0.04], abs=1e-5)


def test_r1_without_a_weight_gets_the_rule_s():
    assert R1(gamma=None).weighted(None, 256, 32).gamma == pytest.approx(
        0.4096
    )  # StyleGAN2-ADA at 256 px
    assert R1(gamma=None).weighted(3.0, 256, 32).gamma == 3.0
    assert R1(gamma=1.5).weighted(None, 256, 32).gamma == 1.5
    assert Losses(r1=R1(gamma=None)).lazy_d == 16
    assert Losses(r1=R1(gamma=0.0)).lazy_d == 0
    with pytest.raises(ValueError, match="has no gamma yet"):
        R1(gamma=None)(lambda image, raw: image.sum(dim=(1, 2, 3)), torch.zeros(1, 3, 2, 2))


def test_gradients_inside_of_a_loss_are_computed_without_autocast():
    """Else operations in float32 would have a gradient in float16."""
    asked = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        x.register_hook(lambda gradient: asked.append(torch.is_autocast_enabled("cpu")))
        return x

    ws = torch.randn(2, 1, 12, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        R1(1.0)(lambda image, raw: noted(2 * image).sum(dim=(1, 2, 3)), torch.ones(2, 3, 2, 2))
        image = noted(3 * ws).reshape(2, 3, 2, 2)
        PathLength().lengths(ws, image, Randomness(0, range(2)))
    assert asked == [False, False]
