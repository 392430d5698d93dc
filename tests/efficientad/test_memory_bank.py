"""The memory bank: distances as scikit-learn computes them, and advice that follows the numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from metaldefect.efficientad import memory_bank
from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.memory_bank import (
    Features,
    MemoryBank,
    advice,
    available_features,
    bank_metrics,
    compare_with_bank,
    fill_bank,
    nearest_distances,
    score_with_bank,
)
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.images import U8
from metaldefect.inspection.provider import InspectionImage, InspectionImages


def blocks(images: U8) -> Tensor:
    """Each 8 x 8 block is described by the mean and the deviation of its pixels."""
    cells = torch.from_numpy(np.array(images)).float().unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
    return torch.stack([cells.mean(dim=3), cells.std(dim=3)], dim=1)


FEATURES = Features("blocks", blocks)


def noise(count: int, seed: int) -> U8:
    return np.random.default_rng(seed).integers(100, 120, (count, 64, 96)).astype(np.uint8)


def test_distances_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank, rows = (rng.normal(50.0, 1.0, (count, 384)).astype(np.float32) for count in (3000, 200))
    reference, _ = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank).kneighbors(rows)
    found = nearest_distances(torch.from_numpy(rows), torch.from_numpy(bank), block=64)
    np.testing.assert_allclose(found.numpy(), reference[:, 0], rtol=1e-4)


def test_score_and_map_follow_the_distances() -> None:
    images = noise(5, 1)
    bank = fill_bank(images, FEATURES, seed=0)
    assert (bank.images, len(bank.patches)) == (5, 5 * 8 * 12), "fewer patches than asked for: all of them"
    image = noise(1, 2)[0]
    image[24:32, 40:48] = 250
    reference = NearestNeighbors(n_neighbors=1).fit(bank.patches.numpy())
    expected = reference.kneighbors(blocks(image[None])[0].flatten(1).T.numpy())[0]
    score, anomaly_map = bank.detect(image)
    assert score == pytest.approx(float(expected.max()), rel=1e-5)
    assert anomaly_map.shape == (64, 96)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert 24 <= row < 32
    assert 40 <= column < 48


def test_a_bank_is_a_random_choice_that_its_seed_repeats() -> None:
    images = noise(6, 3)
    first, again, other = (fill_bank(images, FEATURES, seed, 100, most_images=4) for seed in (0, 0, 1))
    assert (len(first.patches), first.images) == (100, 4)
    assert torch.equal(first.patches, again.patches)
    assert not torch.equal(first.patches, other.patches)


def scored_set(bank: MemoryBank) -> list[Scored]:
    def bad(index: int) -> InspectionImage:
        image, mask = noise(1, 20 + index)[0], np.zeros((64, 96), bool)
        mask[16:32, 16:40] = True
        image[mask] = 200
        return InspectionImage(image, mask, "dent", f"dent/{index}", f"d{index}")

    def good(index: int) -> InspectionImage:
        return InspectionImage(noise(1, 10 + index)[0], None, "good", f"good/{index}", f"g{index}")

    loads = [partial(draw, k) for draw in (good, bad) for k in range(4)]
    return score_with_bank(bank, InspectionImages(loads, ["good"] * 4 + ["dent"] * 4), 64)


def test_the_bank_stands_beside_the_detector() -> None:
    bank = fill_bank(np.stack([image[:, :64] for image in noise(6, 4)]), FEATURES, seed=0)
    scored = scored_set(bank)
    assert scored[0].anomaly_map.shape == (64, 96), "the map has the image's own size"
    measured = bank_metrics(bank, scored, seed=0, samples=10)
    found = compare_with_bank({"image_auroc": 0.9}, measured)
    assert (found["image_auroc"], found["use"], found["features"]) == (1.0, "memory bank", "blocks")
    assert found["au_pro"] > 0.5
    assert set(found["interval_95"]) == {"image_auroc", "image_ap", "f1_max", "pixel_auroc", "au_pro"}
    assert "image AUROC 1.000 against 0.900 of the detector" in found["verdict"]
    good = compare_with_bank({}, bank_metrics(bank, scored[:4], seed=0, samples=10))
    assert good["use"] is None
    assert "cannot be measured" in good["verdict"]


@pytest.mark.parametrize(
    ("detector", "bank", "use", "words"),
    [
        (0.95, 0.90, "detector", "use the detector: image AUROC 0.950 against 0.900 of a memory bank"),
        (0.951, 0.950, "detector", "it ties, image AUROC 0.951"),
        (0.64, 0.82, "memory bank", "better today"),
    ],
)
def test_the_advice_follows_the_numbers(detector: float, bank: float, use: str, words: str) -> None:
    found, sentence = advice(detector, bank)
    assert found == use
    assert words in sentence


def test_without_the_backbones_package_the_teacher_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = PatchDescriptionNetwork("S").eval()
    assert available_features(teacher).name.startswith("EfficientNet-Lite0")
    monkeypatch.setattr(memory_bank, "find_spec", lambda _name: None)
    features = available_features(teacher)
    assert features.name == "the PDN-S teacher"
    assert features.describe(np.zeros((1, 128, 144), np.uint8)).shape == (1, 384, 16, 18)
