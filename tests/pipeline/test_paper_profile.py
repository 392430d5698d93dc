"""The full sizes construct from the `paper` profile and take a training step.

The steps see images of half the profile's side: networks and losses are the same, in a quarter of the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc.utils.hydra import compose_and_dump
from torch.utils.data import TensorDataset

from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.efficientad.training import train
from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.maskgit.config import named_config as maskgit_config
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.recipe import Recipe
from metaldefect.tokenizer.config import named_config as tokenizer_config
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit
from pipeline.params import Params, parse_params

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("paper")
    target = folder / "params.yaml"
    compose_and_dump(target, str(ROOT / "conf"), None, "config", str(folder), ["profile=paper"])
    return parse_params(yaml.safe_load(target.read_text()))


def changed(before: torch.Tensor, after: torch.Tensor) -> bool:
    return bool(torch.isfinite(after).all()) and not torch.equal(before, after)


def test_tokenizer(paper: Params) -> None:
    section = paper.finetune_vq
    model = VQModel(tokenizer_config(section.tokenizer.name, section.tokenizer.codebook_size))
    assert sum(p.numel() for p in model.parameters()) == 71_883_403
    assert model.config.grid(section.tokenizer.image_size) == 16
    # Everything of the profile but LPIPS's VGG, which a test must not download
    module = VQLightning(
        model,
        VQTrainingConfig(
            steps=1,
            learning_rate=section.training.learning_rate,
            warmup_steps=1,
            perceptual="efficientnet_lite0",
            adversarial_weight=section.training.adversarial_weight,
            discriminator_channels=section.training.discriminator_channels,
        ),
    )
    before = model.decoder.conv_out.weight.detach().clone()
    rng = np.random.default_rng(0)
    size = section.tokenizer.image_size // 2
    image = torch.from_numpy(rng.integers(0, 256, (1, size, size)).astype(np.uint8))
    history = fit(
        module, SampledBatches(image, 1, 0), steps=1, epoch_steps=1, seed=0, checkpoint_directory=None
    )
    assert {"l1", "perceptual", "edge", "codebook", "adversarial", "discriminator"} <= set(history[0])
    assert changed(before, model.decoder.conv_out.weight.detach())


def test_maskgit(paper: Params) -> None:
    section = paper.train_maskgit
    recipe = Recipe.of(section, paper.seed)
    config = maskgit_config(classes=6, codebook_size=16_384, grid=16, **recipe.shape)
    model = MaskGIT(config)
    assert sum(p.numel() for p in model.parameters()) == 68_884_993
    module = MaskGITLightning(model, recipe.loss.model_copy(update={"warmup_steps": 1}))
    before = model.head.bias.detach().clone()
    data = TensorDataset(torch.randint(0, 16_384, (2, 16, 16)), torch.tensor([0, 5]))
    history = fit(
        module, SampledBatches(data, 2, 0), steps=1, epoch_steps=1, seed=0, checkpoint_directory=None
    )
    assert 9.0 < history[0]["masked_ce"] < 11.0
    assert changed(before, model.head.bias.detach())


def test_efficientad(paper: Params, tmp_path: Path) -> None:
    section = paper.train_efficientad
    torch.manual_seed(0)
    fresh = EfficientAD(paper.distill_teacher.size, section.padding)
    assert sum(p.numel() for p in fresh.parameters()) == 20_738_432
    rng = np.random.default_rng(0)
    size = section.image_size // 2
    normal = rng.integers(0, 256, (2, size, size)).astype(np.uint8)
    penalty = rng.integers(0, 256, (1, size, size, 3)).astype(np.uint8)
    one_step = section.model_copy(update={"steps": 1, "checkpoint_steps": 1})
    trained = train(
        fresh.teacher,
        TrainingImages(normal, penalty, "noise"),
        TrainingConfig.of(one_step, seed=paper.seed),
        tmp_path,
    )
    assert set(trained.history[0]) >= {"hard", "penalty", "autoencoder", "imitation", "loss"}
