"""Models by name: paths, runs, what comes with gan3d, the hub; generators of packaged configs."""

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gan3d
from gan3d.checkpoints.models import create, find_model, from_pretrained, load_model
from gan3d.cli.zoo import print_models
from gan3d.generators import PiGAN
from gan3d.zoo import configs
from gan3d.zoo.models import list_models, read_card


def equal(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The present folder is an empty one, and nothing comes with gan3d."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr("gan3d.zoo.models.SHIPPED", tmp_path / "shipped")
    for name in ("GAN3D_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small() -> PiGAN:
    torch.manual_seed(1)
    return PiGAN(**PiGAN.tiny)


# ------------------------------------------------------------ what is on the disk


def test_a_model_is_a_file_a_folder_or_a_checkpoint(run, pair, small):
    file, folder = small.save_pretrained("a.safetensors"), small.save_pretrained("b")
    assert equal(from_pretrained(file), small)
    assert equal(from_pretrained(str(folder)), small)
    generator = from_pretrained(run / "checkpoints" / "kimg-000001.000.ckpt")
    assert equal(generator, pair["generator"])
    assert not generator.training


@pytest.mark.parametrize("name", ["runs/heads", "runs/heads/", "runs/heads/checkpoints"])
def test_a_run_is_the_average_of_its_newest_whole_checkpoint(run, pair, name):
    generator, facts = load_model(name)
    assert equal(generator, pair["generator_ema"])
    assert facts == {"source": "generator_ema", "images_seen": 2500}
    (run / "checkpoints" / "kimg-000002.500.ckpt").write_bytes(b"cut off")
    assert equal(from_pretrained(name), pair["generator"])


def test_a_home_folder_is_written_with_a_tilde(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/runs/heads").name == "kimg-000002.500.ckpt"


def test_a_folder_without_a_model_says_what_is_missing_and_what_is_there(tmp_path, small):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no model: neither model.safetensors"):
        find_model("empty")
    small.save_pretrained("empty/other.safetensors")
    with pytest.raises(ValueError, match=r"give one of its files: other.safetensors"):
        find_model("empty")


def test_a_run_whose_checkpoints_are_all_broken_is_refused(run):
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        find_model(run)


# ------------------------------------------------------------ names


def test_what_comes_with_gan3d_is_found_by_name_after_what_is_here(tmp_path, small):
    small.save_pretrained("shipped/heads.safetensors")
    assert find_model("heads") == tmp_path / "shipped" / "heads.safetensors"
    assert equal(from_pretrained("heads"), small)
    small.save_pretrained("heads")
    assert find_model("heads") == Path("heads/model.safetensors")


def test_shipped_weights_lie_in_the_package():
    assert Path(gan3d.zoo.__file__).parent == Path(gan3d.__file__).parent / "zoo"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("runs/haeds", "did you mean runs/heads?"),
        ("runs/heads/checkpoints/kimg-000002.50.ckpt", "kimg-000002.500.ckpt"),
        ("eg3d_hads", "did you mean eg3d_heads?"),
        ("nothing_like_it", "give a .safetensors, a .ckpt, a folder of save_pretrained"),
        ("eg3d_ffhq512", 'gan3d.create("eg3d_ffhq512") makes it with random ones'),
    ],
)
def test_a_misspelt_name_gets_the_nearest_ones_and_no_network(run, small, name, nearest, hub):
    small.save_pretrained("shipped/eg3d_heads.safetensors")
    with pytest.raises(ValueError, match="there is no model") as refused:
        from_pretrained(name)
    assert nearest in str(refused.value)
    assert hub.asked == []


# ------------------------------------------------------------ the hub


class Hub:
    """Stands for the package huggingface_hub: answers with a file, or with an error."""

    def __init__(self):
        self.asked: list[tuple[str, str, bool]] = []
        self.answer: Path | Exception = OSError("404 Client Error: no such repository\nmore")

    def download(self, repository: str, file: str, *, local_files_only: bool) -> str:
        self.asked.append((repository, file, local_files_only))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


@pytest.fixture
def hub(monkeypatch) -> Hub:
    hub, package = Hub(), ModuleType("huggingface_hub")
    package.hf_hub_download = hub.download
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    return hub


def test_user_and_name_are_asked_of_the_hub(hub, small):
    hub.answer = small.save_pretrained("cache") / "model.safetensors"
    assert equal(from_pretrained("user/heads"), small)
    assert hub.asked == [("user/heads", "model.safetensors", False)]


def test_a_path_that_exists_is_not_asked_of_the_hub(hub, small):
    small.save_pretrained("user/heads")
    assert equal(from_pretrained("user/heads"), small)
    assert hub.asked == []


@pytest.mark.parametrize("variable", ["GAN3D_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_only_the_cache_is_asked(hub, small, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=rf"no file or folder user/heads(.|\n)*{variable}"):
        find_model("user/heads")
    hub.answer = small.save_pretrained("cache") / "model.safetensors"
    assert equal(from_pretrained("user/heads"), small)
    assert [offline for _, _, offline in hub.asked] == [True, True]
    monkeypatch.setenv(variable, "0")
    find_model("user/heads")
    assert hub.asked[-1][2] is False


def test_what_the_hub_refuses_is_said_in_a_line_with_a_way_out(hub):
    expected = r"gave no model.safetensors of user/heads: 404 Client Error: no such repository\n"
    with pytest.raises(ValueError, match=expected + r"  check the name, the network"):
        find_model("user/heads")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install gan3d\[hub\]"):
        find_model("user/heads")


@pytest.mark.parametrize(
    "name", ["user/heads/more", "https://x.org/y", "a b/c", "../heads", "./a", "runs/x.ckpt"]
)
def test_what_is_no_name_of_a_repository_is_not_asked_of_the_hub(hub, name):
    with pytest.raises(ValueError, match="there is no model"):
        find_model(name)
    assert hub.asked == []


def test_models_with_weights_are_listed_and_described_without_torch(small, capsys):
    scores = {"distance": {"value": 0.1234}, "turn": {"value": 0.5}}
    facts = {"scores": scores, "status": "preview"}
    small.save_pretrained("shipped/heads.safetensors", facts=facts)
    small.save_pretrained("shipped/other.safetensors")
    assert list_models(pretrained=True) == ["heads", "other"]
    assert list_models("o*", pretrained=True) == ["other"]
    card = read_card("heads")
    assert (card.architecture, card.resolution, card.facts) == (
        "PiGAN",
        small.img_resolution,
        facts,
    )
    assert card.megabytes == Path("shipped/heads.safetensors").stat().st_size / 1e6
    print_models()
    heading, first, second, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[:6] == ["model", "architecture", "px", "MB", "distance", "bodies"]
    assert first.split()[4:] == ["0.12", "-", "-", "0.50", "preview"]
    assert second.split()[4:] == ["-", "-", "-", "-"]
    print_models("none")
    assert "no trained model that comes with gan3d fits 'none'" in capsys.readouterr().out


# ------------------------------------------------------------ generators of packaged configs


def test_models_are_the_configs_that_are_no_overlays():
    overlays = {n for n in configs.names() if configs.summary(n).startswith("Overlay")}
    assert overlays
    known = [name.removesuffix(".yaml") for name in configs.names() if name not in overlays]
    assert list_models() == known
    assert list_models("*heads??") == [name for name in known if "heads" in name]
    assert list_models("none*") == []


@pytest.mark.parametrize("name", list_models())
def test_every_packaged_model_can_be_made(name):
    with torch.device("meta"):
        generator = create(name)
    assert str(generator.img_resolution) in name
    section = configs.generator_of(configs.read(configs.find(name)))
    assert type(generator).__name__ == section["class_path"].rpartition(".")[2]


def test_arguments_go_over_those_of_the_config():
    with torch.device("meta"):
        known, changed = create("eg3d_heads32"), create("eg3d_heads32", z_dim=7)
    assert changed.z_dim == 7 != known.z_dim
    assert {**changed.arguments, "z_dim": known.z_dim} == known.arguments


def test_a_dictionary_changes_only_the_fields_that_it_names():
    with torch.device("meta"):
        known = create("eg3d_heads32").arguments
        group = next(name for name, value in known.items() if is_dataclass(value))
        field = next(
            f.name for f in fields(known[group]) if type(getattr(known[group], f.name)) is int
        )
        value = 2 * getattr(known[group], field)
        changed = create("eg3d_heads32", **{group: {field: value}}).arguments
    assert changed == {**known, group: replace(known[group], **{field: value})}


def test_a_config_file_and_a_bare_class_make_a_generator(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "model: {generator: {class_path: my.PiGAN, init_args: {z_dim: 5, img_resolution: 16}}}"
    )
    assert create("own.yaml").z_dim == 5
    (tmp_path / "bare.yaml").write_text("model: {generator: PiGAN}")
    with torch.device("meta"):
        assert type(create("bare.yaml")) is PiGAN


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("eg3d_head32", {}, r"no config eg3d_head32(.|\n)*did you mean eg3d_heads32.yaml"),
        ("bf16", {}, "bf16 is an overlay"),
        ("eg3d_heads32", {"z_dmi": 3}, r"EG3D does not take z_dmi; did you mean z_dim\?"),
        ("broken.yaml", {}, "is not YAML"),
        ("list.yaml", {}, "holds no dictionary"),
        ("unknown.yaml", {}, "there is no class 'system'"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, name, arguments, problem):
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "unknown.yaml").write_text("model: {generator: {class_path: os.system}}\n")
    with pytest.raises(ValueError, match=problem):
        create(name, **arguments)


def test_configs_are_read_as_data(tmp_path):
    (tmp_path / "x.yaml").write_text("model: !!python/object/apply:os.mkdir [was_executed]\n")
    with pytest.raises(ValueError, match="is not YAML"):
        create("x.yaml")
    assert not (tmp_path / "was_executed").exists()
