from pathlib import Path

import pytest
import torch

from metaldefect.efficientad.teacher_weights import (
    import_teacher,
    load_target_statistics,
    load_teacher,
    read_card,
    save_teacher,
    teacher_keys,
)
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.errors import UserError


def nelson_small(state: dict[str, torch.Tensor]) -> torch.nn.Sequential:
    """PDN-S as a plain sequence with the public implementation's indices."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 128, 4, padding=3),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=1, count_include_pad=False),
        torch.nn.Conv2d(128, 256, 4, padding=3),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2, 2, padding=1, count_include_pad=False),
        torch.nn.Conv2d(256, 256, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(256, 384, 4),
    )
    network.load_state_dict(state)
    return network


def test_nelson_layout_computes_the_same() -> None:
    torch.manual_seed(0)
    teacher = PatchDescriptionNetwork("S")
    state = {theirs: teacher.state_dict()[ours] for ours, theirs in teacher_keys("S", "nelson1425").items()}
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = nelson_small(state)(images)
        torch.testing.assert_close(import_teacher(state)(images), expected)


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
    assert torch.equal(load_target_statistics(path)[0], statistics[0])
    weight = load_teacher(path).state_dict()["convolutions.0.weight"]
    assert torch.equal(weight, teacher.state_dict()["convolutions.0.weight"].half().float())


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, PatchDescriptionNetwork("S"), {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="its card says"):
        read_card(path)


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
