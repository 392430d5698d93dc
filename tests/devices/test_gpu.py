"""One tiny pipeline on a real GPU: tokenizer, tokens, MaskGIT, drawn images, a detector and its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from metaldefect import hardware
from metaldefect.backbones import LITE0_FEATURES, pooled_features
from metaldefect.efficientad.calibration import CalibrationImages, calibrate
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.evaluation import score_test_images
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork, infer
from metaldefect.efficientad.training import train as train_detector
from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.inspection.synthetic import SyntheticCounts, SyntheticDatasetProvider
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.evaluation import held_out_cross_entropy
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampling_config import ORDERS, SamplingConfig
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training_config import MaskGITTrainingConfig
from metaldefect.procedural.images import generate_normal_image
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.inpainting import inpaint
from metaldefect.synthesis.painter import Painter, Vocabulary
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit
from tests.tiny_models import CLASSES, TINY_TOKENIZER, randomised

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(hardware.available_devices() == ["cpu"], reason="this machine has no GPU"),
]

SHAPE = MaskGITConfig(dim=32, depth=2, heads=2, classes=2, codebook_size=32, grid=8, mixing=3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setenv("METALDEFECT_DEVICE", hardware.available_devices()[0])
    monkeypatch.setenv("METALDEFECT_PRECISION", "")
    return hardware.device()


def metal(count: int, size: int) -> np.ndarray:
    return np.stack([generate_normal_image(seed, size) for seed in range(count)])


def test_tokenizer_maskgit_and_drawing(gpu: torch.device, tmp_path: Path) -> None:
    images = metal(8, 64)
    tokenizer = VQLightning(
        VQModel(TINY_TOKENIZER), VQTrainingConfig(steps=4, perceptual="efficientnet_lite0", warmup_steps=1)
    )
    history = fit(
        tokenizer, SampledBatches(torch.from_numpy(images), 4, 0), steps=4,
        epoch_steps=2, seed=0, checkpoint_directory=tmp_path / "vq",
    )  # fmt: skip
    assert np.isfinite([value for row in history for value in row.values()]).all()

    model = tokenizer.model.eval().to(gpu)
    vocabulary = Vocabulary.full(TINY_TOKENIZER.codebook_size)
    maskgit = MaskGIT(SHAPE)
    painter = Painter(model, maskgit, CLASSES, vocabulary, 64)
    tokens, labels = painter.encode(images), torch.arange(8) % 2
    soft = soft_targets(model.quantize.codebook.detach(), 2, 1.0)
    module = MaskGITLightning(maskgit, MaskGITTrainingConfig(steps=4, warmup_steps=1, soft_weight=0.1), soft)
    history = fit(
        module, SampledBatches(TensorDataset(tokens, labels), 4, 0), steps=4, epoch_steps=2, seed=0,
        checkpoint_directory=tmp_path / "maskgit",
    )  # fmt: skip
    assert np.isfinite([value for row in history for value in row.values()]).all()

    maskgit.eval().to(gpu)
    assert np.isfinite(held_out_cross_entropy(maskgit, tokens, labels, seed=0)["true"])
    for order in ORDERS:
        drawn = painter.sample(labels, range(8), SamplingConfig(steps=4, order=order), seed=0)
        assert drawn.shape == (8, 64, 64)
    assert pooled_features(drawn).shape == (8, LITE0_FEATURES)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    (found,) = inpaint(
        painter, [images[0]], [mask], ["patches"], SamplingConfig(steps=4), [image_generator(0)], 4.0
    )
    assert np.array_equal(found.image[:8], images[0][:8])


def test_a_seed_draws_the_cpus_tokens(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    torch.manual_seed(0)
    tokenizer, maskgit = VQModel(TINY_TOKENIZER).eval(), randomised(SHAPE)
    drawn = []
    for device in (torch.device("cpu"), gpu):
        painter = Painter(tokenizer.to(device), maskgit.to(device), CLASSES, Vocabulary.full(32), 64)
        labels = torch.tensor([0, 1])
        drawn.append(
            painter.draw_tokens(labels, SamplingConfig(steps=4), painter.generators(labels, [0, 0], 0))
        )
    # All but a few: rounding moves the borders between tokens a little
    assert float((drawn[0] == drawn[1]).float().mean()) > 0.9


def test_detector(gpu: torch.device, tmp_path: Path) -> None:
    images = TrainingImages(metal(4, 128), None, "none")
    torch.manual_seed(0)
    teacher = PatchDescriptionNetwork("S").requires_grad_(False).eval()
    trained = train_detector(teacher, images, TrainingConfig(steps=4, checkpoint_steps=2), tmp_path)
    assert hardware.device_of(trained.model).type == gpu.type
    normals, scenes = metal(12, 128), [str(k) for k in range(12)]
    held_out = CalibrationImages(normals, scenes, normals[::-1], scenes)
    chosen = calibrate(trained.model, held_out, Target(false_alarms=0.1))
    score, anomaly_map = infer(trained.model, images.normal[0])
    test = SyntheticDatasetProvider(0, SyntheticCounts(1, 1, 1, 1), 128).test()
    scored = score_test_images(trained.model, test, 128, "score")
    assert np.isfinite([chosen.threshold, score, anomaly_map.mean(), *(item.score for item in scored)]).all()
