"""The written-out passes of training and the packed model are the plain formulation, only faster."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from metaldefect.kernels.switch import cpu_kernels
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.loss import linear_cross_entropy
from metaldefect.maskgit.model import Block, MaskGIT, Mixing
from metaldefect.maskgit.packed_model import PackedMaskGIT, has_onednn_linear, linear
from metaldefect.maskgit.sampler import halton_sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.soft_targets import SoftTargets, soft_targets
from metaldefect.random_numbers import image_generator

# Five heads do not divide 32: projections are 30 wide, as upstream's 510 of 512
SHAPE = MaskGITConfig(dim=32, depth=3, heads=5, classes=3, codebook_size=11, grid=4)


def randomised(module: nn.Module) -> nn.Module:
    """Every weight matters (fresh gates are closed)."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.4)
    return module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("conditioning", ["adaln", "sum"])
def test_the_fused_block_has_the_values_and_gradients_of_the_plain_one(
    conditioning: str, training: bool
) -> None:
    block = randomised(Block(replace(SHAPE, conditioning=conditioning)).double()).train(training)
    x = torch.randn(3, 9, 32, dtype=torch.double, requires_grad=True)
    condition = torch.randn(3, 32, dtype=torch.double, requires_grad=True)
    weight = torch.randn(3, 9, 32, dtype=torch.double)
    results = []
    for enabled in (True, False):
        with cpu_kernels(block, enabled):
            y = block(x, condition)
            with torch.no_grad():
                torch.testing.assert_close(block(x, condition), y.detach(), rtol=1e-12, atol=1e-12)
        wanted = [x, *block.parameters()] + ([condition] if conditioning == "adaln" else [])
        results.append([y, *torch.autograd.grad(y, wanted, weight)])
        assert ("FusedBlock" in str(y.grad_fn)) == enabled
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)


def test_mixing_against_loops_and_silent_at_the_start() -> None:
    torch.manual_seed(0)
    layer = Mixing(replace(SHAPE, mixing=3))
    x = torch.randn(2, 17, 32)
    torch.testing.assert_close(layer(x), x)
    layer.weight.data.normal_()
    expected = x.clone()
    for row in range(4):
        for column in range(4):
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if 0 <= row + i < 4 and 0 <= column + j < 4:
                        weight = layer.weight[:, 0, 1 + i, 1 + j]
                        expected[:, 4 * row + column] += weight * x[:, 4 * (row + i) + column + j]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_neither_train_nor_eval_nor_gradient_mode_chooses_the_kernel() -> None:
    block = Block(SHAPE)
    assert not block.train().cpu_kernel
    with cpu_kernels(block, enabled=True):
        with cpu_kernels(block, enabled=False):
            assert not block.cpu_kernel
        assert block.eval().cpu_kernel
    assert not block.cpu_kernel


def test_dropout_of_a_fused_block_is_unbiased_and_its_gradient_is_of_the_same_draw() -> None:
    block = randomised(Block(replace(SHAPE, dropout=0.3)).double()).train()
    x = torch.randn(1, 4, 32, dtype=torch.double, requires_grad=True)
    condition = torch.randn(1, 32, dtype=torch.double)

    def output(at: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return block(at, condition)

    with cpu_kernels(block, enabled=True):
        assert not torch.equal(output(x), block.eval()(x, condition))
        block.train()
        torch.autograd.gradcheck(output, x, atol=1e-6)


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


@pytest.mark.parametrize(("conditioning", "mixing"), [("adaln", 0), ("sum", 0), ("adaln", 3)])
def test_packed_model_gives_the_logits_of_the_model(conditioning: str, mixing: int) -> None:
    model = randomised(MaskGIT(replace(SHAPE, conditioning=conditioning, mixing=mixing))).eval()
    packed = PackedMaskGIT(model)
    tokens = torch.randint(0, 12, (2, 16))
    for labels in (torch.tensor([0, 3]), torch.tensor([2, 2])):
        full = model(tokens, labels).detach()
        torch.testing.assert_close(packed(tokens, labels), full, rtol=1e-4, atol=1e-4)
        positions = torch.tensor([[3, 0, 3], [15, 7, 1]])
        chosen = torch.stack([full[i, positions[i]] for i in range(2)])
        torch.testing.assert_close(packed(tokens, labels, positions), chosen, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("conditioning", "mixing"), [("adaln", 3), ("sum", 0)])
def test_packed_model_does_not_see_later_changes_of_the_model(
    conditioning: str, mixing: int, dtype: torch.dtype
) -> None:
    model = randomised(MaskGIT(replace(SHAPE, conditioning=conditioning, mixing=mixing))).eval()
    packed = PackedMaskGIT(model, dtype)
    tokens, labels = torch.randint(0, 12, (2, 16)), torch.tensor([0, 3])
    before = packed(tokens, labels)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1.0)
    # Other labels in between: modulations are made anew, and must come from the copies too
    packed(tokens, torch.tensor([1, 1]))
    assert torch.equal(packed(tokens, labels), before)


def test_packed_model_in_bfloat16_is_near_and_in_float32_draws_the_same_tokens() -> None:
    model = randomised(MaskGIT(SHAPE)).eval()
    tokens, labels = torch.randint(0, 12, (2, 16)), torch.tensor([0, 3])
    full = model(tokens, labels).detach()
    rough = PackedMaskGIT(model, torch.bfloat16)(tokens, labels)
    assert rough.dtype is torch.float32
    assert 0 < float((rough - full).abs().mean()) < 0.05 * float(full.std())
    drawn = [
        halton_sample(
            sampled,
            torch.tensor([0, 1, 2]),
            SamplingConfig(temperature=1.0, steps=5),
            [image_generator(3, number) for number in range(3)],
        )
        for sampled in (model, PackedMaskGIT(model))
    ]
    assert torch.equal(*drawn)


@pytest.mark.skipif(not has_onednn_linear(), reason="this PyTorch has no oneDNN")
def test_linear_by_onednn() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 16), torch.randn(7, 16)
    torch.testing.assert_close(linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)
