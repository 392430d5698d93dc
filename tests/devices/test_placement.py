"""Everything that computes does so where its model lies: no step, sampler or score mixes devices.

Each test runs the same thing on the CPU and on a device that refuses to mix with it, and compares numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metaldefect import backbones
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad import calibration, distillation
from metaldefect.efficientad.calibration import calibrate
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import CropBatches, DistillationImages
from metaldefect.efficientad.evaluation import quick_auroc
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork, infer
from metaldefect.efficientad.training_data import TeacherFeatures, TrainingBatches, TrainingImages
from metaldefect.maskgit.evaluation import held_out_cross_entropy
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import start_from_codebook
from metaldefect.maskgit.sampler import sample
from metaldefect.maskgit.sampling_config import ORDERS, SamplingConfig
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training_config import MaskGITTrainingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import BANDS, Grain
from metaldefect.synthesis.inpainting import inpaint
from metaldefect.synthesis.painter import Painter
from metaldefect.tokenizer import evaluation
from metaldefect.tokenizer.evaluation import Distance, reconstruct
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.perceptual import FeatureDistance
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.callbacks import ComputingTime
from tests.devices.simulated import simulated_device
from tests.tiny_models import TINY, TINY_TOKENIZER, randomised

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 64, 64), dtype=np.uint8)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setenv("METALDEFECT_DEVICE", "cpu")
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    with simulated_device() as device:
        yield device


def assert_near(there: Any, here: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(there), torch.as_tensor(here), rtol=1e-3, atol=1e-3)


def lightning_stubs(module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What Lightning's Trainer gives a module; returns what the module logs."""
    logged: dict[str, Tensor] = {}
    found = module.configure_optimizers()
    optimizers, schedulers = found if isinstance(found, tuple) else (found, [])
    monkeypatch.setattr(module, "optimizers", lambda: optimizers)
    monkeypatch.setattr(module, "lr_schedulers", lambda: schedulers)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    return logged


@pytest.mark.parametrize(("codebook_decay", "from_data"), [(None, False), (0.9, True)])
def test_tokenizer_step_with_all_losses_and_discriminator(
    elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch, codebook_decay: float | None, from_data: bool
) -> None:
    def losses(device: torch.device | str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        config = VQTrainingConfig(
            steps=10, perceptual="efficientnet_lite0", ssim_weight=1.0, entropy_ratio=0.1,
            discriminator_channels=8, codebook_decay=codebook_decay, data_initialised_codebook=from_data,
        )  # fmt: skip
        module = VQLightning(VQModel(TINY_TOKENIZER.replace(patch_path=True)), config).to(device)
        logged = lightning_stubs(module, monkeypatch)
        module.on_fit_start()
        batch = torch.from_numpy(IMAGES).to(device)
        torch.manual_seed(1)
        module.training_step(batch, 0)
        first = {name: value.cpu() for name, value in logged.items()}
        module.step += 1
        module.training_step(batch, 1)
        for _ in range(2):
            module.average.update_parameters(module.model)
        module.tokens_seen[:5] = 0
        module.revive_dead_codes(batch.float().div(127.5).sub(1.0)[:, None].repeat(1, 3, 1, 1))
        assert all(bool(value.isfinite()) for value in logged.values())
        return first

    here, there = losses("cpu"), losses(elsewhere)
    assert {"l1", "ssim", "perceptual", "edge", "adversarial", "codebook", "discriminator"} <= set(there)
    for name in () if from_data else here:  # k-means turns rounding into other centres
        torch.testing.assert_close(there[name], here[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("conditional", [True, False])
def test_maskgit_step_with_soft_targets(
    elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch, conditional: bool
) -> None:
    def loss(device: torch.device | str) -> float:
        model = randomised(TINY.replace(mixing=3), seed=2).train()
        codebook = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
        start_from_codebook(model, codebook.to(device), 0.01)
        config = MaskGITTrainingConfig(steps=4, unmasked_weight=0.1, soft_weight=0.2, conditional=conditional)
        module = MaskGITLightning(model, config, soft_targets(codebook.to(device), 2, 1.0)).to(device)
        lightning_stubs(module, monkeypatch)
        module.on_fit_start()
        optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index]
        tokens = torch.randint(0, 11, (3, 4, 4), generator=torch.Generator().manual_seed(1))
        batch = (tokens.to(device), torch.tensor([0, 1, 2]).to(device))
        torch.manual_seed(3)
        for step in range(2):
            total = module.training_step(batch, step)
            optimizer.zero_grad()
            total.backward()
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
            module.average.update_parameters(module.model)
        return float(total.detach())

    assert_near(loss(elsewhere), loss("cpu"))


def test_whole_images(elsewhere: torch.device) -> None:
    tokenizer = VQModel(TINY_TOKENIZER).eval()
    here = Painter(tokenizer, randomised(TINY), ("a", "b", "c"), Vocabulary.full(11), 32)
    there = replace(here, maskgit=randomised(TINY).to(elsewhere))
    images = [
        painter.sample(torch.tensor([0, 2]), [0, 0], SamplingConfig(steps=3), seed=0)
        for painter in (here, there)
    ]
    assert np.array_equal(*images)


def test_reconstruction_scores(elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = VQModel(TINY_TOKENIZER)
    distance = Distance("distance", FeatureDistance())
    found = []
    for on in (torch.device("cpu"), elsewhere):
        monkeypatch.setattr(evaluation, "device", lambda on=on: on)
        found.append(reconstruct(model, IMAGES, distance, batch_size=3))
    assert np.array_equal(found[0].tokens, found[1].tokens)
    assert_near(found[1].scores.to_numpy(), found[0].scores.to_numpy())


def test_held_out_cross_entropy(elsewhere: torch.device) -> None:
    tokens = torch.randint(0, 11, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    here = held_out_cross_entropy(randomised(TINY), tokens, labels, seed=0, batch_size=2)
    there = held_out_cross_entropy(randomised(TINY).to(elsewhere), tokens, labels, seed=0, batch_size=2)
    for name in ("true", "wrong", "null", "top1", "top5"):
        assert there[name] == pytest.approx(here[name], abs=1e-3)
    assert there["per_sample"]["true"].device.type == "cpu"


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("order", ORDERS)
def test_samplers(elsewhere: torch.device, order: str, guidance: float) -> None:
    config = SamplingConfig(
        steps=4, order=order, guidance=guidance, guidance_schedule="linear", top_k=8, top_p=0.95
    )
    known = torch.randint(0, 11, (2, 16), generator=torch.Generator().manual_seed(0))
    known[:, 3:12] = TINY.mask_id

    def draw(device: torch.device | str) -> Tensor:
        model = randomised(TINY).to(device)
        generators = [image_generator(0, number) for number in range(2)]
        history: list[Tensor] = []
        labels = torch.tensor([0, 2]).to(device)
        found = sample(model, labels, config, generators, known.view(2, 4, 4).to(device), history)
        assert found.device == labels.device
        assert {grids.device for grids in history} == {labels.device}
        return found.cpu()

    assert torch.equal(draw(elsewhere), draw("cpu"))


def painter_on(device: torch.device | str, seed: int = 0) -> Painter:
    torch.manual_seed(seed)
    tokenizer = VQModel(TINY_TOKENIZER).eval()
    maskgit = randomised(TINY.replace(classes=2, codebook_size=20, grid=8))
    grain = Grain(torch.full((32, BANDS), 5.0), torch.ones(1, BANDS), torch.ones(1, 32))
    tokenizer, maskgit = tokenizer.to(device), maskgit.to(device)
    vocabulary = Vocabulary.of(np.arange(20), tokenizer.quantize.codebook.detach())
    return Painter(tokenizer, maskgit, ("scratches", "patches"), vocabulary, 64, grain)


def test_drawing_decoding_and_grain(elsewhere: torch.device) -> None:
    labels = torch.tensor([0, 1, 1])
    here, there = (
        painter_on(device).sample(labels, [0, 0, 1], SamplingConfig(steps=3), seed=4)
        for device in ("cpu", elsewhere)
    )
    assert np.abs(here.astype(int) - there).max() <= 1


def test_inpainting(elsewhere: torch.device) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:36, 24:40] = True
    here, there = (
        inpaint(
            painter_on(device), list(IMAGES[:2]), [mask, mask], ["patches", "scratches"],
            SamplingConfig(steps=3), [image_generator(0, number) for number in range(2)], 4.0,
        )
        for device in ("cpu", elsewhere)
    )  # fmt: skip
    for a, b in zip(here, there, strict=True):
        assert np.abs(a.image.astype(int) - b.image).max() <= 1


def detector(device: torch.device | str) -> EfficientAD:
    torch.manual_seed(0)
    return EfficientAD("S").eval().to(device)


def test_efficientad_step(elsewhere: torch.device, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    images = TrainingImages(
        rng.integers(0, 256, (3, 128, 128), dtype=np.uint8),
        rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8),
        "noise",
    )

    def losses(device: torch.device | str, folder: str) -> dict[str, float]:
        model = detector(device)
        # All but the first image's features are computed when asked for
        features = TeacherFeatures(model.teacher, images.normal, tmp_path / folder / "f.npy", 2 * 384 * 64**2)
        model.teacher_mean.copy_(features.mean)
        model.teacher_std.copy_(features.std)
        for network in (model.student, model.autoencoder):
            network.train()
        model.autoencoder.dropout.p = 0.0
        batch = TrainingBatches(images, features, 2, 0).batch(0)
        moved = replace(
            batch, images=batch.images.to(device), augmented=batch.augmented.to(device),
            penalty=batch.penalty.to(device), features=batch.features.to(device),  # type: ignore[union-attr]
        )  # fmt: skip
        total, parts = training_losses(model, moved, 0.9)
        total.backward()
        return {name: float(value.detach()) for name, value in parts.items()}

    assert losses(elsewhere, "there") == pytest.approx(losses("cpu", "here"), rel=1e-2)


def test_efficientad_scores(elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    monkeypatch.setattr(calibration, "FEWEST_IMAGES", 2)
    found = {}
    for device in ("cpu", elsewhere):
        model = detector(device)
        held_out = calibration.CalibrationImages(images, ["a", "b"], images[::-1], ["c", "d"])
        threshold = calibrate(model, held_out, Target(false_alarms=0.5)).threshold
        score, anomaly_map = infer(model, images[0])
        auroc = quick_auroc(model, images, images, [False, True])
        found[str(device)] = (threshold, score, float(anomaly_map.mean()), auroc)
    assert_near(found[str(elsewhere)][1], found["cpu"][1])
    assert_near(found[str(elsewhere)][0], found["cpu"][0])
    assert found[str(elsewhere)][3] == found["cpu"][3]


def test_the_exported_graph_is_on_the_cpu_wherever_the_detector_is(elsewhere: torch.device) -> None:
    frame = torch.zeros(1, 128, 128, 1, dtype=torch.uint8)
    here, there = (InspectionGraph(detector(device), 128).eval()(frame)[1] for device in ("cpu", elsewhere))
    assert_near(there.detach(), here.detach())


def tiny_features() -> PatchFeatures:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 8, 1), torch.nn.Conv2d(4, 8, 3, 2, 1))
    return PatchFeatures(backbones.Backbone(network, ("0", "1"), (0.5,) * 3, (0.5,) * 3))


def test_distillation(elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = DistillationImages(
        rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8), rng.integers(0, 256, (2, 128, 128), np.uint8),
        natural_groups=(0, 1), metal_groups=(0, 1),
    )  # fmt: skip
    config = DistillationConfig(image_size=64, batch_size=2, steps=2)
    monkeypatch.setattr(distillation, "STATISTICS_BATCHES", 2)

    def numbers(device: torch.device | str) -> dict[str, float]:
        monkeypatch.setattr(distillation, "device", lambda: torch.device(device))
        teacher, batches = distillation.new_teacher(config), CropBatches(images, 64, 2, 0.5, 0.1, 0)
        module = distillation.DistillationModule(
            teacher, tiny_features(), config, ComputingTime(None), batches, None
        ).to(device)
        monkeypatch.setattr(module, "log", lambda *_, **__: None)
        module.on_fit_start()
        loss = module.training_step(batches.batch(0).to(device), 0)
        loss.backward()
        statistics = (module.target_mean.cpu(), module.target_std.cpu())
        network = distillation.new_teacher(config).eval()
        found = distillation.evaluate(network, images, tiny_features(), statistics, 64)
        return found | {"training": float(loss.detach())}

    assert numbers(elsewhere) == pytest.approx(numbers("cpu"), rel=2e-2)


def test_features_of_drawn_images(elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    here = backbones.pooled_features(IMAGES[:2])
    monkeypatch.setattr(backbones, "device", lambda: elsewhere)
    np.testing.assert_allclose(backbones.pooled_features(IMAGES[:2]), here, rtol=1e-3, atol=1e-3)


def test_perceptual_distance(elsewhere: torch.device) -> None:
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    network = FeatureDistance()
    here = network(a, b)
    assert_near(copy.deepcopy(network).to(elsewhere)(a.to(elsewhere), b.to(elsewhere)).cpu(), here)


def test_a_teacher_that_lies_elsewhere(elsewhere: torch.device) -> None:
    torch.manual_seed(0)
    network = PatchDescriptionNetwork("S").eval()
    large = torch.rand(1, 3, 256, 256)
    here = distillation.PdnPredictor(network)(large).detach()
    there = distillation.PdnPredictor(network.to(elsewhere))(large.to(elsewhere)).detach()
    assert_near(there.cpu(), here)
