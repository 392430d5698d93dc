from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metaldefect.artifacts import write_json
from metaldefect.efficientad.teacher_weights import (
    import_teacher,
    load_target_statistics,
    load_teacher,
    read_card,
    save_teacher,
    shipped_teacher,
    teacher_keys,
)
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.errors import UserError


def published_small(pad: int) -> torch.nn.Sequential:
    """nelson1425/EfficientAD's `get_pdn_small(384, padding=bool(pad))`: pools with torch's defaults."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 128, 4, padding=3 * pad),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=pad),
        torch.nn.Conv2d(128, 256, 4, padding=3 * pad),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=pad),
        torch.nn.Conv2d(256, 256, 3, padding=pad),
        torch.nn.ReLU(),
        torch.nn.Conv2d(256, 384, 4),
    )


def published_medium(pad: int) -> torch.nn.Sequential:
    """nelson1425/EfficientAD's `get_pdn_medium(384, padding=bool(pad))`."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 256, 4, padding=3 * pad),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=pad),
        torch.nn.Conv2d(256, 512, 4, padding=3 * pad),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=pad),
        torch.nn.Conv2d(512, 512, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(512, 512, 3, padding=pad),
        torch.nn.ReLU(),
        torch.nn.Conv2d(512, 384, 4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(384, 384, 1),
    )


@pytest.mark.parametrize("published", [published_small, published_medium])
@pytest.mark.parametrize("padding", [True, False])
def test_public_teacher_computes_the_published_features(
    published: Callable[[int], torch.nn.Sequential], padding: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = published(int(padding)).eval()
    torch.save(network.state_dict(), tmp_path / "teacher.pth")
    images = torch.rand(1, 3, 64, 72)
    with torch.inference_mode():
        torch.testing.assert_close(load_teacher(tmp_path / "teacher.pth", padding)(images), network(images))


def test_anomalibs_layout_is_the_same_network_by_other_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = published_small(1).eval()
    convolutions = [module for module in network if isinstance(module, torch.nn.Conv2d)]
    state = {
        f"conv{number}.{kind}": getattr(module, kind)
        for number, module in enumerate(convolutions, 1)
        for kind in ("weight", "bias")
    }
    torch.save(state, tmp_path / "anomalib.pth")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_teacher(tmp_path / "anomalib.pth")(images), network(images))


def test_the_shipped_teacher_gives_the_features_that_it_was_trained_to_give() -> None:
    path = shipped_teacher("S")
    assert read_card(path)["count_include_pad"] is False
    teacher = load_teacher(path)
    assert teacher.count_include_pad is False
    ramp = torch.linspace(-2.0, 2.0, 128)
    image = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), torch.zeros(128, 128)])
    with torch.inference_mode():
        features = teacher(image[None])[0]
        counted = import_teacher(teacher.state_dict())(image[None])[0]
    # Of the code that trained it, on this image: two channels at the corner, two in the middle
    found = [float(features[channel, at, at]) for at in (0, 16) for channel in (0, 200)]
    assert found == pytest.approx([-0.4308, 0.6155, -1.5542, -0.2364], abs=2e-4)
    # The public pooling changes the border, where these weights have never seen it, and nothing else
    assert float((counted - features)[:, 4:, 4:].abs().max()) < 1e-5
    assert float((counted - features)[:, 0].std() / features[:, 0].std()) > 0.05


@pytest.mark.parametrize("size", ["S", "M"])
@pytest.mark.parametrize("layout", ["nelson1425", "anomalib"])
def test_round_trip_through_a_public_layout(size: str, layout: str, tmp_path: Path) -> None:
    teacher = PatchDescriptionNetwork(size)
    state = {theirs: teacher.state_dict()[ours] for ours, theirs in teacher_keys(size, layout).items()}
    path = tmp_path / "teacher.pth"
    torch.save(state, path)
    loaded = load_teacher(path)
    assert loaded.size == size
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_known_keys_of_the_public_layouts() -> None:
    assert teacher_keys("S", "nelson1425")["convolutions.3.weight"] == "8.weight"
    assert teacher_keys("M", "nelson1425")["convolutions.5.bias"] == "12.bias"
    assert teacher_keys("M", "anomalib")["convolutions.5.bias"] == "conv6.bias"


def test_own_file_with_card_and_statistics(tmp_path: Path) -> None:
    teacher = PatchDescriptionNetwork("S")
    path = tmp_path / "teacher.safetensors"
    statistics = (torch.randn(1, 384, 1, 1), torch.rand(1, 384, 1, 1))
    save_teacher(path, teacher, {"steps": 3}, torch.float16, statistics)
    assert path.stat().st_size < 6_000_000
    assert read_card(path)["steps"] == 3
    assert read_card(path)["count_include_pad"] is True
    assert torch.equal(load_target_statistics(path)[0], statistics[0])
    weight = load_teacher(path).state_dict()["convolutions.0.weight"]
    assert torch.equal(weight, teacher.state_dict()["convolutions.0.weight"].half().float())


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, PatchDescriptionNetwork("S"), {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for read in (read_card, load_teacher):
        with pytest.raises(UserError, match=r"teacher\.safetensors has SHA-256 \w+, its card says"):
            read(path)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_an_own_teacher_comes_back_with_its_pooling(tmp_path: Path, count_include_pad: bool) -> None:
    teacher = PatchDescriptionNetwork("S", count_include_pad=count_include_pad).eval()
    save_teacher(tmp_path / "teacher.safetensors", teacher, {})
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), teacher(images))


def test_an_own_teacher_without_its_card_or_its_pooling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, PatchDescriptionNetwork("S"), {})
    write_json(tmp_path / "teacher.json", {"sha256": read_card(path)["sha256"]})
    with pytest.raises(UserError, match=r"teacher\.json says nothing about count_include_pad"):
        load_teacher(path)
    (tmp_path / "teacher.json").unlink()
    with pytest.raises(UserError, match=r"teacher\.json does not exist"):
        load_teacher(path)


def test_a_file_that_holds_no_teacher_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"other\.pth: not a teacher: keys \['fc\.weight'\]"):
        load_teacher(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"other\.pth cannot be read"):
        load_teacher(path)
    with pytest.raises(UserError, match=r"missing\.safetensors does not exist"):
        load_teacher(tmp_path / "missing.safetensors")
