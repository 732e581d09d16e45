"""gan3d.training.micro_batches: a split batch is judged like the whole."""

import pytest
import torch

from gan3d.camera import Camera
from gan3d.data import Batch
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.training.micro_batches import micro_batches

CAMERA = Camera.from_angles(torch.linspace(-1, 1, 16), torch.zeros(16))
IMAGES = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
BATCH = Batch(IMAGES, CAMERA, torch.arange(100, 116))


@pytest.mark.parametrize("size", [16, 8, 4])
def test_groups_are_the_same_consecutive_images_however_the_batch_is_split(size):
    groups = set()
    for part in micro_batches(BATCH, size, 4, torch.float32):
        stride = size // 4
        groups |= {tuple(sorted(part.indices[m::stride])) for m in range(stride)}
    assert groups == {tuple(range(i, i + 4)) for i in range(100, 116, 4)}


def test_images_cameras_and_indices_stay_together():
    for part in micro_batches(BATCH, 8, 4, torch.float64):
        assert part.image.dtype == torch.float64
        for image, camera, index in zip(part.image, part.camera, part.indices, strict=True):
            assert torch.equal(image, IMAGES[index - 100].double())
            assert torch.equal(camera.label(), CAMERA[index - 100].label().double())


def test_masks_stay_with_their_images():
    masks = torch.linspace(0, 1, 16).view(16, 1, 1, 1).expand(16, 1, 32, 32)
    batch = Batch(IMAGES, CAMERA, BATCH.index, masks)
    for part in micro_batches(batch, 8, 4, torch.float32):
        assert part.mask[:, 0, 0, 0].tolist() == [float(masks[i - 100].max()) for i in part.indices]
    assert micro_batches(BATCH, 8, 4, torch.float32)[0].mask is None


def test_the_discriminator_judges_an_image_alike_in_every_split():
    torch.manual_seed(0)
    judge = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0, "group_size": 4})

    def logits(size: int) -> torch.Tensor:
        found = {}
        for part in micro_batches(BATCH, size, 4, torch.float32):
            found |= dict(zip(part.indices, judge(part.image).logits.tolist(), strict=True))
        return torch.tensor([found[i] for i in range(100, 116)])

    assert torch.allclose(logits(16), logits(4), atol=1e-5)
    assert not torch.allclose(
        logits(16), judge(IMAGES).logits, atol=1e-5
    )  # in plain order the groups are others


@pytest.mark.parametrize(("size", "group"), [(6, 2), (8, 3)])
def test_what_does_not_divide_is_refused(size, group):
    with pytest.raises(
        ValueError,
        match=f"16 images per iteration in micro-batches of {size}, judged in groups of {group}",
    ):
        micro_batches(BATCH, size, group, torch.float32)
