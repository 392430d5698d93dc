import numpy as np
import pytest
import torch
from torch.nn import functional

from metaldefect.efficientad import torch_model
from metaldefect.efficientad.anomaly_map import combine_maps
from metaldefect.efficientad.torch_model import (
    Autoencoder,
    EfficientAD,
    PatchDescriptionNetwork,
    check_image_size,
    decoder_sizes,
    map_size,
    to_image_size,
)
from metaldefect.errors import UserError
from metaldefect.kernels.switch import cpu_kernels


@pytest.mark.parametrize(("size", "parameters"), [("S", 8_057_856), ("M", 20_738_432)])
def test_parameter_count_of_the_paper(size: str, parameters: int) -> None:
    assert sum(p.numel() for p in EfficientAD(size).parameters()) == parameters


@pytest.mark.parametrize("size", ["S", "M"])
@pytest.mark.parametrize(("padding", "side"), [(True, 64), (False, 56)])
def test_map_size_at_256_px(size: str, padding: bool, side: int) -> None:
    with torch.device("meta"):
        network = PatchDescriptionNetwork(size, 384, padding)
        assert network(torch.empty(1, 3, 256, 256)).shape == (1, 384, side, side)
    assert map_size(256, 256, padding) == (side, side)


def test_decoder_sizes_of_the_paper() -> None:
    assert decoder_sizes(256, 256) == [(side, side) for side in (3, 8, 15, 32, 63, 127)]


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (129, 200), (256, 131), (480, 250), (512, 512)])
def test_autoencoder_meets_the_teacher_at_any_size(height: int, width: int, padding: bool) -> None:
    with torch.device("meta"):
        images = torch.empty(1, 3, height, width)
        teacher = PatchDescriptionNetwork("S", 384, padding)(images)
        assert Autoencoder(384, padding)(images).shape == teacher.shape
    assert teacher.shape[-2:] == map_size(height, width, padding)


@pytest.mark.parametrize("side", [128, 256, 512])
def test_bottleneck_is_global(side: int) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(4).eval()
    codes = []
    autoencoder.bottleneck.register_forward_hook(lambda _m, _i, out: codes.append(out.shape))
    with torch.inference_mode():
        autoencoder(torch.zeros(1, 3, side, side))
    assert codes == [(1, 64, 1, 1)]


def test_receptive_field_is_33_pixels() -> None:
    torch.manual_seed(0)
    network = PatchDescriptionNetwork("S", 1, padding=False).eval()
    image = torch.rand(1, 3, 65, 65, requires_grad=True)
    output = network(image)
    output[0, 0, 4, 4].backward()
    assert image.grad is not None
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 33


@pytest.mark.parametrize(
    ("count_include_pad", "corner", "edge"),
    # Of a pool's 4 pixels, 1 at a corner and 2 at an edge of an even map lie inside it
    [(True, 0.25, 0.5), (False, 1.0, 1.0)],
)
def test_pools_divide_by_four_where_padded_zeros_count(
    count_include_pad: bool, corner: float, edge: float
) -> None:
    network = PatchDescriptionNetwork("S", count_include_pad=count_include_pad)
    ones = network.pool(torch.ones(1, 1, 6, 6))[0, 0]
    assert ones[0, 0] == ones[3, 3] == corner
    assert ones[0, 1] == ones[2, 3] == edge
    assert ones[1, 1] == 1.0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_cpu_kernels_compute_what_the_plain_network_does(
    count_include_pad: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    student = PatchDescriptionNetwork("S", 768, True, count_include_pad).train(training)
    images = torch.rand(2, 3, 96, 96)
    taken = []
    original = torch_model.convolution
    monkeypatch.setattr(
        torch_model, "convolution", lambda *given, **named: taken.append(1) or original(*given, **named)
    )
    results = []
    for enabled in (False, True):
        with cpu_kernels(student, enabled):
            features = student(images)
            results.append([features, *torch.autograd.grad(features.square().mean(), student.parameters())])
            with torch.inference_mode():
                torch.testing.assert_close(student(images), features.detach())
        assert bool(taken) == enabled
    for plain, kernel in zip(*results, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=1e-3, atol=1e-3 * float(plain.detach().abs().max()))


def test_teacher_and_student_pool_alike() -> None:
    for count_include_pad in (True, False):
        model = EfficientAD("S", count_include_pad=count_include_pad)
        for network in (model.teacher, model.student):
            assert network.pool.count_include_pad is count_include_pad


def test_forward_scores_the_maximum_of_the_combined_map() -> None:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    model.quantiles.copy_(torch.tensor([[0.0, 0.5], [0.1, 0.3]]))
    images = torch.rand(1, 3, 128, 160)
    with torch.inference_mode():
        anomaly_map, score = model(images)
        student, autoencoder = (
            functional.interpolate(raw, (128, 160), mode="bilinear").numpy() for raw in model.raw_maps(images)
        )
    expected = 0.5 * (0.1 * student / 0.5) + 0.5 * (0.1 * (autoencoder - 0.1) / 0.2)
    assert anomaly_map.shape == (1, 1, 128, 160)
    np.testing.assert_allclose(anomaly_map.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert float(score[0]) == float(anomaly_map.max())


def test_quantiles_become_0_and_a_tenth() -> None:
    quantiles = torch.tensor([[2.0, 4.0], [10.0, 30.0]])
    half = torch.tensor([0.5, 0.5])
    low = combine_maps(torch.tensor(2.0), torch.tensor(10.0), quantiles, half)
    high = combine_maps(torch.tensor(4.0), torch.tensor(30.0), quantiles, half)
    assert float(low) == pytest.approx(0.0)
    assert float(high) == pytest.approx(0.1)


def test_map_weights_are_those_of_the_scaled_maps() -> None:
    quantiles = torch.tensor([[2.0, 4.0], [10.0, 30.0]])
    maps = torch.tensor(4.0), torch.tensor(50.0)  # 0.1 and 0.2 once scaled
    for weights, expected in (([1.0, 0.0], 0.1), ([0.0, 1.0], 0.2), ([0.75, 0.25], 0.125)):
        assert float(combine_maps(*maps, quantiles, torch.tensor(weights))) == pytest.approx(expected)


def test_unpadded_maps_lie_over_their_patches() -> None:
    # 56 positions, four pixels apart, that begin 4 positions inside a 256 px image.
    raw = torch.zeros(1, 1, 56, 56)
    raw[0, 0, 6, 20] = 1.0
    found = to_image_size(raw, (256, 256))[0, 0]
    row, column = divmod(int(found.argmax()), 256)
    assert 4 * (6 + 4) <= row < 4 * (6 + 5)
    assert 4 * (20 + 4) <= column < 4 * (20 + 5)


def test_the_frame_of_an_unpadded_map_is_not_blind() -> None:
    raw = torch.zeros(1, 1, 24, 24)
    raw[..., 0, :] = 1.0
    assert float(to_image_size(raw, (128, 128))[0, 0, 0, 64]) == 1.0


def test_small_images_are_refused() -> None:
    with pytest.raises(UserError, match="image size 127 x 256: EfficientAD needs at least 128"):
        check_image_size(127, 256)
