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
    auroc_difference,
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


CLEAR, UNCLEAR = {"value": 0.1, "low": 0.02, "high": 0.2}, {"value": 0.1, "low": -0.02, "high": 0.2}
OTHER_WAY = {"value": -0.18, "low": -0.25, "high": -0.1}


@pytest.mark.parametrize(
    ("aurocs", "difference", "scenes", "use", "words"),
    [
        (
            (0.95, 0.90),
            None,
            9,
            "detector",
            "use the detector today: image AUROC 0.950 against 0.900 of",
        ),
        ((0.951, 0.950), None, 9, "detector", "cannot tell which is better (image AUROC 0.951"),
        ((0.64, 0.82), None, 9, "memory bank", "use the memory bank today, which needs no training"),
        (
            (0.64, 0.82),
            OTHER_WAY,
            9,
            "memory bank",
            "difference of -0.180 (-0.250 to -0.100);",
        ),
        ((0.9, 0.8), CLEAR, 9, "detector", "use the detector today: image AUROC 0.900"),
        ((0.9, 0.8), UNCLEAR, 9, "detector", "today: the test images cannot tell which is better"),
        (
            (0.64, 0.82),
            UNCLEAR,
            9,
            "detector",
            "today: the test images cannot tell which is better",
        ),
        (
            (0.64, 0.82),
            OTHER_WAY,
            4,
            "detector",
            "today: with only 4 test scenes of a kind, the test cannot",
        ),
        ((0.64, None), None, 9, None, "cannot be measured: the test needs good and defective images"),
    ],
)
def test_the_advice_follows_the_numbers_and_their_interval(
    aurocs: tuple[float, float | None],
    difference: dict[str, float] | None,
    scenes: int,
    use: str | None,
    words: str,
) -> None:
    found, sentence = advice(*aurocs, difference, scenes)
    assert found == use
    assert words in sentence


def as_scored(scores: list[float], scenes: list[str]) -> list[Scored]:
    """Half of them are good, in the order of the scores given."""
    half, empty = len(scores) // 2, np.zeros((2, 2), np.uint8)
    return [
        Scored(
            empty, empty > 0, "good" if k < half else "dent", f"{k}", scene, score, empty.astype(np.float32)
        )
        for k, (score, scene) in enumerate(zip(scores, scenes, strict=True))
    ]


def test_the_difference_to_the_bank_is_paired_over_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = [f"{k}" for k in range(24)]
    hard = np.concatenate([rng.normal(0, 1, 12), rng.normal(0.8, 1, 12)])
    same = [as_scored((hard + shift).tolist(), scenes) for shift in (0.0, 5.0)]
    assert auroc_difference(*same, seed=0, samples=200) == {"value": 0.0, "low": 0.0, "high": 0.0}
    better = as_scored((hard + np.repeat([0.0, 3.0], 12)).tolist(), scenes)
    found = auroc_difference(better, same[0], seed=0, samples=200)
    assert found is not None
    assert 0 < found["low"] < found["value"] < found["high"]
    assert auroc_difference(better[:12], same[0][:12], seed=0, samples=20) is None


def test_few_scenes_and_the_interval_reach_the_verdict() -> None:
    bank = {"image_auroc": 0.82, "interval_95": {}}
    many, few = ({"image_auroc": 0.64, "scenes": {"good": 9, "defective": n}} for n in (9, 3))
    assert compare_with_bank(many, bank, OTHER_WAY)["use"] == "memory bank"
    assert compare_with_bank(many, bank, OTHER_WAY)["image_auroc_difference"] == OTHER_WAY
    assert compare_with_bank(few, bank, OTHER_WAY)["use"] == "detector"


def test_without_the_backbones_package_the_teacher_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = PatchDescriptionNetwork("S").eval()
    assert available_features(teacher).name.startswith("EfficientNet-Lite0")
    monkeypatch.setattr(memory_bank, "find_spec", lambda _name: None)
    features = available_features(teacher)
    assert features.name == "the PDN-S teacher"
    assert features.describe(np.zeros((1, 128, 144), np.uint8)).shape == (1, 384, 16, 18)
