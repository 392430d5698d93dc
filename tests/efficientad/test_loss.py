import numpy as np
import pytest
import torch

from metaldefect.efficientad.loss import distance_loss, hard_feature_loss, penalty_loss, row_quantiles


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 8, 20, 25)), rng.normal(size=(3, 8, 20, 25))


@pytest.mark.parametrize("quantile", [0.999, 0.99, 0.5, 0.0])
def test_hard_feature_loss_is_the_numpy_formulation_image_by_image(
    maps: tuple[np.ndarray, np.ndarray], quantile: float
) -> None:
    teacher, student = maps
    expected = []
    for image in range(3):
        distance = (teacher[image] - student[image]) ** 2
        limit = np.quantile(distance, quantile)
        expected.append(distance[distance >= limit].mean())
    found = hard_feature_loss(torch.from_numpy(teacher), torch.from_numpy(student), quantile)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-12)


def test_hard_feature_loss_of_known_numbers() -> None:
    teacher = torch.arange(11.0).view(1, 1, 1, 11)  # squares 0, 1, 4, ..., 100
    # The 0.8 quantile lies exactly on the ninth of eleven: 64; 64, 81 and 100 are hard.
    assert float(hard_feature_loss(teacher, torch.zeros_like(teacher), 0.8)) == pytest.approx(245 / 3)


def test_quantile_is_exact_beyond_torchs_limit() -> None:
    count = 2**24 + 7
    values = torch.arange(count, dtype=torch.float64).flip(0)[None]
    assert float(row_quantiles(values, 0.999)) == pytest.approx(0.999 * (count - 1), abs=1e-6)


def test_only_hard_elements_receive_gradients() -> None:
    student = torch.zeros(1, 1, 1, 1000, requires_grad=True)
    hard_feature_loss(torch.arange(1000.0).view(1, 1, 1, 1000), student, 0.99).backward()
    assert student.grad is not None
    assert int((student.grad != 0).sum()) == 10


def test_means_of_squares() -> None:
    a, b = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 5.0]]]])
    assert float(distance_loss(a, b)) == 6.5
    assert float(penalty_loss(a)) == 2.5
