"""The independent judge: it learns structure, not light; keeps its best weights; and shares no features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metaldefect.images import U8
from metaldefect.metrics.judge import (
    EarlyStopping,
    Judge,
    JudgeModule,
    JudgeNetwork,
    LabelledImages,
    judge_metrics,
    standardise,
    symmetry,
    train_judge,
    vary,
)
from metaldefect.metrics.judge_config import JudgeSettings

SIDE = 64
KINDS = ("dots", "lines", "stain")
SETTINGS = JudgeSettings(image_size=SIDE, steps=36, batch_size=24, warmup_steps=5, check_steps=6)


def draw(kind: str, rng: np.random.Generator) -> U8:
    """A defect on noise; brightness and contrast are of the image, not of the class."""
    image = rng.normal(0, 2, (SIDE, SIDE))
    if kind == "dots":
        for y, x in rng.integers(4, SIDE - 4, (12, 2)):
            image[y - 1 : y + 2, x - 1 : x + 2] -= 30
    elif kind == "lines":
        for x in rng.integers(4, SIDE - 4, 3):
            image[:, x : x + 2] -= 30
    else:
        y, x = rng.integers(8, 28, 2)
        image[y : y + 26, x : x + 26] -= 30
    return np.clip(rng.uniform(90, 180) + image * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)


def labelled(per_class: int, seed: int) -> LabelledImages:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array(KINDS), per_class)
    images = np.stack([draw(kind, rng) for kind in labels])
    return LabelledImages(images, labels, np.full(len(labels), "s"), np.arange(len(labels)))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return train_judge(labelled(24, 0), labelled(6, 1), SETTINGS, seed=0)


def test_it_learns_and_says_which_drawn_class_is_not_one(judge: Judge) -> None:
    test = labelled(12, 2)
    drawn = labelled(10, 3)
    # Half of the images that were drawn as stains show lines
    stains = np.flatnonzero(drawn.labels == "stain")[:5]
    rng = np.random.default_rng(4)
    drawn.images[stains] = [draw("lines", rng) for _ in stains]
    found = judge_metrics(judge, test, drawn)
    assert found["judge_accuracy_on_real"]["mean"] >= 0.97
    agreement = found["class_agreement_independent"]
    assert agreement["per_class"] == pytest.approx({"dots": 1.0, "lines": 1.0, "stain": 0.5})
    assert agreement["mean"] == pytest.approx(25 / 30)
    assert agreement["low"] < agreement["mean"] < agreement["high"]
    assert found["class_agreement_independent_lowest"] == 0.5


def test_the_light_of_an_image_decides_nothing(judge: Judge) -> None:
    images = labelled(4, 5).images
    dark = (0.5 * images.astype(float) + 10).astype(np.uint8)
    assert (judge.predict(dark) == judge.predict(images)).all()


def test_the_same_seed_gives_the_same_judge() -> None:
    settings = SETTINGS.replace(steps=6)
    states = [
        train_judge(labelled(8, 0), labelled(3, 1), settings, seed).network.state_dict() for seed in (0, 0, 1)
    ]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert not all(torch.equal(states[0][name], value) for name, value in states[2].items())


def test_views_have_mean_zero_and_deviation_one_and_turn_with_the_image() -> None:
    images = torch.from_numpy(labelled(1, 0).images)
    views = standardise(images)
    assert views.shape == (3, 2, SIDE, SIDE)
    assert float(views.mean(dim=(2, 3)).abs().max()) < 1e-4
    assert views.std(dim=(2, 3)).min() > 0.7
    ramp = torch.arange(0, 128, 2, dtype=torch.uint8).repeat(SIDE, 1)[None]
    smooth = standardise(ramp)[0]
    # A ramp is illumination: of it the second view keeps only what the 8 x 8 means miss at two borders
    assert float(smooth[1, :, 8:-8].abs().max()) < 0.2 < float(smooth[0, :, 8:-8].abs().max())
    for number in range(8):
        torch.testing.assert_close(standardise(symmetry(images, number)), symmetry(views, number))


def test_training_sees_all_eight_symmetries_in_crops_of_seven_eighths() -> None:
    image = torch.arange(1024).view(32, 32)
    generator = torch.Generator().manual_seed(0)
    crops = [vary((image, torch.tensor(0)), generator)[0] for _ in range(400)]
    assert {crop.shape for crop in crops} == {(28, 28)}
    # The steps down and across say how the image was turned, the smallest number where it was cut
    assert len({(int(crop[1, 0] - crop[0, 0]), int(crop[0, 1] - crop[0, 0])) for crop in crops}) == 8
    assert {int(crop.min()) for crop in crops} == {32 * top + left for top in range(5) for left in range(5)}


def test_training_stops_without_a_gain_and_keeps_the_best_weights() -> None:
    images = torch.from_numpy(labelled(2, 0).images)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.manual_seed(0)
    module = JudgeModule(JudgeNetwork(3), SETTINGS)
    trainer: Any = SimpleNamespace(should_stop=False)
    stopping = EarlyStopping(images, labels, patience=2)
    stopping.on_train_epoch_end(trainer, module)
    best = module.model.head.bias.detach().clone()
    for wrong in (5.0, 9.0):
        assert not trainer.should_stop
        with torch.no_grad():
            module.model.head.bias.copy_(best + torch.tensor([wrong, 0.0, 0.0]))
        stopping.on_train_epoch_end(trainer, module)
    assert trainer.should_stop
    assert torch.equal(stopping.best["head.bias"], best)
