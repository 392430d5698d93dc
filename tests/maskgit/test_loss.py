"""The loss is the cross-entropy of the target distribution written out, and soft targets lie nearby."""

import pytest
import torch
from torch import nn

from metaldefect.maskgit.loss import linear_cross_entropy
from metaldefect.maskgit.soft_targets import SoftTargets, soft_targets


def test_loss_and_its_gradients_are_those_of_a_dense_target_distribution() -> None:
    torch.manual_seed(0)
    rows = torch.randn(150, 8, dtype=torch.double, requires_grad=True)
    head = nn.Linear(8, 6, dtype=torch.double)
    targets = torch.randint(0, 5, (150,))
    soft = SoftTargets(
        torch.tensor([[1, 2], [0, 2], [3, 4], [2, 0], [1, 0]]), torch.tensor([[0.75, 0.25]]).repeat(5, 1)
    )
    loss, plain, accuracy = linear_cross_entropy(
        rows, head, targets, label_smoothing=0.1, soft_weight=0.2, soft=soft
    )
    distribution = torch.full((150, 6), 0.1 / 6, dtype=torch.double)
    distribution[torch.arange(150), targets] += 0.7
    for k in range(2):
        distribution[torch.arange(150), soft.neighbours[targets, k]] += 0.2 * soft.shares[targets, k].double()
    torch.testing.assert_close(distribution.sum(dim=1), torch.ones(150, dtype=torch.double))
    log_p = head(rows).log_softmax(dim=1)
    expected = -(distribution * log_p).sum(dim=1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    own = log_p[torch.arange(150), targets]
    assert float(plain) == pytest.approx(float(-own.detach().mean()), rel=1e-12)
    assert float(accuracy) == pytest.approx(float((log_p.argmax(1) == targets).double().mean()))
    wanted = [rows, head.weight, head.bias]
    for ours, autograd in zip(
        torch.autograd.grad(3.0 * loss, wanted), torch.autograd.grad(3.0 * expected, wanted), strict=True
    ):
        torch.testing.assert_close(ours, autograd, rtol=1e-9, atol=1e-12)


def test_soft_weight_without_targets_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"soft_weight = 0\.2 needs soft targets"):
        linear_cross_entropy(
            torch.zeros(1, 8), nn.Linear(8, 6), torch.zeros(1, dtype=torch.long), soft_weight=0.2
        )


def test_soft_targets_go_to_the_nearest_codes_by_their_distance() -> None:
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    soft = soft_targets(codebook, count=2, temperature=0.5)
    assert soft.neighbours[0].tolist() == [2, 1]
    # Squared distances 0.4 and 2
    assert soft.shares[0].tolist() == pytest.approx(torch.tensor([-0.8, -4.0]).softmax(0).tolist(), abs=1e-5)
    assert soft_targets(codebook, count=99, temperature=0.5).neighbours.shape == (4, 3)
    with pytest.raises(ValueError, match="temperature 0"):
        soft_targets(codebook, 2, 0.0)


def test_in_half_precision_logits_become_float32_before_the_softmax() -> None:
    torch.manual_seed(0)
    rows, head, targets = torch.randn(50, 8), nn.Linear(8, 600), torch.randint(0, 600, (50,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, plain, _ = linear_cross_entropy(rows, head, targets)
        logits = head(rows)
    assert logits.dtype is torch.bfloat16
    assert (loss.dtype, plain.dtype) == (torch.float32, torch.float32)
    expected = nn.functional.cross_entropy(logits.detach().double(), targets)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
