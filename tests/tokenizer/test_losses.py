"""Losses against numpy, the discriminator's published keys, and training that resumes bit for bit."""

import numpy as np
import pytest
import torch

from metaldefect.metrics.reconstruction import ssim
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.discriminator import PatchDiscriminator
from metaldefect.tokenizer.lightning_module import VQLightning, to_model_input
from metaldefect.tokenizer.losses import (
    adaptive_weight,
    edge_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    image_gradients,
    ssim_loss,
)
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit

TINY = VQConfig(
    channels=32,
    multipliers=(1, 1),
    encoder_blocks=1,
    decoder_blocks=1,
    z_channels=32,
    codebook_size=16,
    stem=2,
)


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.5))
    assert float(hinge_generator_loss(fake)) == pytest.approx(1.0)


def test_gradient_of_a_ramp_is_its_slope() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    gradients = image_gradients(ramp)
    torch.testing.assert_close(gradients[:, 0], torch.ones(1, 6, 6))
    torch.testing.assert_close(gradients[:, 1], torch.zeros(1, 6, 6))
    assert float(edge_loss(ramp, torch.zeros_like(ramp))) == pytest.approx(0.5)


def test_ssim_loss_is_one_minus_the_metric() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (40, 56), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    loss = ssim_loss(*(to_model_input(torch.from_numpy(x)[None]) for x in (a, b)))
    assert float(loss) == pytest.approx(1.0 - ssim(a, b), abs=1e-4)
    assert float(ssim_loss(*(to_model_input(torch.from_numpy(a)[None]),) * 2)) == pytest.approx(0.0, abs=1e-6)


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    images = weight * torch.tensor([3.0, 4.0])
    strong, weak = torch.tensor([6.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = (6.0 * 3.0) / (2.0 * 4.0)
    assert float(adaptive_weight(images, strong, weak, weight)) == pytest.approx(expected, rel=1e-3)


def test_the_step_has_the_gradient_of_the_losses_written_out() -> None:
    torch.manual_seed(0)
    config = VQTrainingConfig(
        steps=4,
        perceptual="efficientnet_lite0",
        l1_weight=0.7,
        ssim_weight=0.4,
        edge_weight=3.0,
        adversarial_weight=0.3,
        discriminator_channels=8,
    )
    module = VQLightning(VQModel(TINY).train(), config)
    module.discriminator.eval().requires_grad_(False)
    model = module.model
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    module.generator_loss(images, model(images), True)[0].backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    output = model(images)
    reconstruction = (
        0.7 * (output.images - images).abs().mean()
        + 0.4 * ssim_loss(output.images, images)
        + module._perceptual[0](output.images, images).mean()
        + 3.0 * edge_loss(output.images, images)
    )
    fooling = -module.discriminator(output.images).mean()
    last = model.decoder.conv_out.weight
    norms = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (reconstruction, fooling)]
    weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 10).detach()
    quantized = output.quantized
    codebook = quantized.codebook_loss + 0.25 * quantized.commitment_loss
    (reconstruction + 0.3 * weight * fooling + codebook).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


def test_entries_follow_the_running_mean_of_their_vectors() -> None:
    torch.manual_seed(0)
    config = VQTrainingConfig(steps=4, perceptual="efficientnet_lite0", codebook_decay=0.9)
    module = VQLightning(VQModel(TINY), config)
    book = module.model.quantize.codebook.detach().numpy().copy()
    quantized = module.model.quantize(torch.randn(2, TINY.codebook_dim, 4, 4))
    module.follow_vectors(quantized, 0.9)
    vectors, tokens = quantized.vectors.numpy(), quantized.tokens.flatten().numpy()
    expected = []
    for entry, start in enumerate(book):
        total = 0.9 * start + 0.1 * vectors[tokens == entry].sum(axis=0)
        expected.append(total / np.linalg.norm(total))
    np.testing.assert_allclose(module.model.quantize.codebook.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("codebook_size", [16, 256])
def test_a_codebook_that_starts_from_data_stays_there(
    images: torch.Tensor, tmp_path, monkeypatch: pytest.MonkeyPatch, steps: int, codebook_size: int
) -> None:
    """Both with enough vectors for k-means (16 entries) and with too few (256)."""
    start: list[torch.Tensor] = []
    original = VQLightning.initialise_codebook

    def initialise(module: VQLightning, batch: torch.Tensor) -> None:
        original(module, batch)
        start.append(module.model.quantize.codebook.detach().clone())

    monkeypatch.setattr(VQLightning, "initialise_codebook", initialise)
    torch.manual_seed(1)
    config = VQTrainingConfig(
        steps=steps,
        warmup_steps=1,
        perceptual="efficientnet_lite0",
        codebook_decay=0.99,
        data_initialised_codebook=True,
        discriminator_channels=8,
    )
    module = VQLightning(VQModel(TINY.replace(codebook_size=codebook_size)), config)
    fit(
        module,
        SampledBatches(images, 2, 3),
        steps=steps,
        epoch_steps=steps,
        seed=3,
        checkpoint_directory=tmp_path,
    )
    used = module.model.encode(to_model_input(images)).unique()
    cosine = (module.model.quantize.codebook.detach() * start[0]).sum(dim=1)[used]
    assert len(used) > 4
    assert float(cosine.min()) > 0.95
    assert float(cosine.mean()) > 0.99


def test_discriminator_has_the_published_keys() -> None:
    state = PatchDiscriminator().state_dict()
    convolutions = {key.split(".")[1] for key, value in state.items() if value.dim() == 4}
    norms = {key.split(".")[1] for key in state if "running_mean" in key}
    assert convolutions == {"0", "2", "5", "8", "11"}
    assert norms == {"3", "6", "9"}
    assert PatchDiscriminator()(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_grey_and_colour_batches_reach_the_model_in_tanh_range() -> None:
    grey = torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)
    assert to_model_input(grey)[0, 2].tolist() == [[-1.0, 1.0], [1.0, -1.0]]
    colour = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    colour[..., 1] = 255
    assert to_model_input(colour)[0, :, 0, 0].tolist() == [-1.0, 1.0, -1.0]


def trained(images: torch.Tensor, steps: int, directory, mode: str = "full") -> VQLightning:
    torch.manual_seed(1)
    config = VQTrainingConfig(
        steps=6,
        warmup_steps=1,
        learning_rate=1e-3,
        perceptual="efficientnet_lite0",
        discriminator_start=2,
        discriminator_channels=8,
        mode=mode,  # type: ignore[arg-type]
    )
    module = VQLightning(VQModel(TINY), config)
    fit(
        module,
        SampledBatches(images, 2, 3),
        steps=steps,
        epoch_steps=2,
        seed=3,
        checkpoint_directory=directory,
    )
    return module


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    ramps = np.add.outer(np.arange(32), np.arange(32)) * 4
    noisy = ramps[None] % 256 + rng.integers(-20, 20, (8, 32, 32))
    return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))


def test_a_resumed_run_ends_with_the_same_weights(images: torch.Tensor, tmp_path) -> None:
    straight = trained(images, 6, tmp_path / "a").state_dict()
    trained(images, 2, tmp_path / "b")
    trained(images, 4, tmp_path / "b")
    module = trained(images, 6, tmp_path / "b")
    resumed = module.state_dict()
    assert module.step == 6
    different = [key for key, value in straight.items() if not torch.equal(value, resumed[key])]
    assert different == []


def test_decoder_only_leaves_the_tokens_as_they_were(images: torch.Tensor, tmp_path) -> None:
    torch.manual_seed(1)
    start = VQModel(TINY).state_dict()
    state = trained(images, 6, tmp_path, mode="decoder_only").model.state_dict()
    kept = [k for k in start if k.startswith(("encoder.", "quant_conv.", "quantize.embedding"))]
    assert all(torch.equal(start[k], state[k]) for k in kept)
    assert not torch.equal(start["decoder.conv_out.weight"], state["decoder.conv_out.weight"])


def test_decoder_only_computes_no_gradient_of_what_it_keeps(images: torch.Tensor, tmp_path) -> None:
    model = trained(images, 1, tmp_path, mode="decoder_only").model
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"decoder", "post_quant_conv"}


def test_a_slow_codebook_moves_while_nearly_all_tokens_stay(images: torch.Tensor, tmp_path) -> None:
    torch.manual_seed(1)
    start = VQModel(TINY)
    grids, kept = start.encode(to_model_input(images)), {}
    for mode, decay in (("slow_codebook", 0.999), ("full", 0.5)):
        torch.manual_seed(1)
        config = VQTrainingConfig(
            steps=6, warmup_steps=1, learning_rate=1e-3, perceptual="efficientnet_lite0",
            discriminator_channels=8, mode=mode, codebook_decay=decay,
        )  # fmt: skip
        module = VQLightning(VQModel(TINY), config)
        batches = SampledBatches(images, 2, 3)
        fit(module, batches, steps=6, epoch_steps=6, seed=3, checkpoint_directory=tmp_path / mode)
        kept[mode] = float((module.model.encode(to_model_input(images)) == grids).float().mean())
        state, before = module.model.state_dict(), start.state_dict()
        still = [key for key in before if key.startswith(("encoder.", "quant_conv."))]
        assert all(torch.equal(before[key], state[key]) for key in still) == (mode == "slow_codebook")
        moved = (module.model.quantize.codebook * start.quantize.codebook).sum(dim=1).detach()
        assert float(moved.min()) < 1 - 1e-6, "some entries follow"
        if mode == "slow_codebook":
            assert float(moved.min()) > 0.95
    assert kept["slow_codebook"] > 0.9 > kept["full"]


def test_a_slow_codebook_needs_a_decay_near_one() -> None:
    for decay in (None, 0.99):
        with pytest.raises(ValueError, match="slow_codebook needs a codebook_decay"):
            VQTrainingConfig(steps=1, mode="slow_codebook", codebook_decay=decay)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint(images, tmp_path) -> None:
    trained(images, 2, tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    torch.manual_seed(1)
    config = VQTrainingConfig(steps=6, l1_weight=float("nan"), perceptual="efficientnet_lite0")
    module = VQLightning(VQModel(TINY), config)
    module.model.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step 0"):
        fit(
            module,
            SampledBatches(images, 2, 3),
            steps=2,
            epoch_steps=2,
            seed=3,
            checkpoint_directory=tmp_path / "new",
        )
    assert not (tmp_path / "new" / "last.ckpt").exists()
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_dead_codes_move_to_encoder_outputs() -> None:
    torch.manual_seed(0)
    module = VQLightning(VQModel(TINY), VQTrainingConfig(steps=10, perceptual="efficientnet_lite0"))
    used = torch.zeros(16, dtype=torch.long)
    used[:4] = 5
    module.tokens_seen.copy_(used)
    before = module.model.quantize.embedding.weight.detach().clone()
    module.revive_dead_codes(torch.rand(2, 3, 32, 32) * 2 - 1)
    after = module.model.quantize.embedding.weight.detach()
    assert torch.equal(before[:4], after[:4])
    assert not torch.isclose(before[4:], after[4:]).all(dim=1).any()
