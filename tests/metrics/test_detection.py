from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from metaldefect.metrics import detection


def slow_au_pro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """AU-PRO straight from its definition: one pass over all regions for each threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(index, labelled == region) for region in range(1, count + 1)]
    negatives = sum(int((~mask).sum()) for mask in masks)
    points = [(0.0, 0.0)]
    for threshold in sorted(np.unique(np.concatenate([m.ravel() for m in maps])), reverse=True):
        false = sum(int(((m >= threshold) & ~mask).sum()) for m, mask in zip(maps, masks, strict=True))
        overlap = np.mean([(maps[i][region] >= threshold).mean() for i, region in regions])
        points.append((false / negatives, float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.fixture
def pixels() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    masks = [np.zeros((20, 24), bool), np.zeros((16, 16), bool), np.zeros((20, 24), bool)]
    masks[0][2:6, 3:9] = True
    masks[0][12:14, 12:14] = True
    masks[0][14, 14] = True  # touches by a corner: the same region
    masks[1][0:3, 0:3] = True
    maps = [np.round(rng.normal(size=mask.shape) + 1.5 * mask, 1) for mask in masks]  # with equal scores
    return maps, masks


def test_known_scores() -> None:
    scores, labels = [0.1, 0.4, 0.35, 0.8], [False, False, True, True]
    assert detection.auroc(scores, labels) == pytest.approx(0.75)
    assert detection.average_precision(scores, labels) == pytest.approx(0.8333333)
    assert detection.f1_max(scores, labels) == pytest.approx((0.8, 0.35))
    assert detection.f1_at(scores, labels, 0.5) == pytest.approx(2 / 3)
    assert detection.f1_at(scores, labels, 0.9) == 0.0


def test_balanced_threshold_of_known_scores() -> None:
    scores, labels = [0.1, 0.2, 0.3, 0.6, 0.5, 0.9], [False, False, False, False, True, True]
    # 0.4 finds both defects and passes three of four normal images.
    threshold = detection.balanced_threshold(scores, labels)
    assert threshold == pytest.approx(0.4)
    assert detection.balanced_accuracy_at(scores, labels, threshold) == pytest.approx(0.875)
    assert detection.balanced_accuracy_at(scores, labels, 0.7) == pytest.approx(0.75)


def test_balanced_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(4)
    labels = rng.random(80) < 0.2
    scores = (rng.normal(size=80) + labels).round(1)
    best = max(detection.balanced_accuracy_at(scores, labels, t) for t in np.linspace(-5, 5, 1001))
    found = detection.balanced_accuracy_at(scores, labels, detection.balanced_threshold(scores, labels))
    assert found == pytest.approx(best)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_image_metrics_are_those_of_scikit_learn_with_and_without_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for count in (2, 7, 60):
        labels = np.arange(count) % 2 == 0
        scores = rng.integers(0, levels, count) / levels + 0.2 * labels
        assert detection.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        assert detection.average_precision(scores, labels) == pytest.approx(
            average_precision_score(labels, scores)
        )
        precision, recall, thresholds = precision_recall_curve(labels, scores)
        f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
        best, threshold = detection.f1_max(scores, labels)
        assert best == pytest.approx(f1.max())
        assert f1[thresholds == threshold] == pytest.approx(best)


def test_f1_max_is_the_best_of_every_threshold() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=60).round(1), rng.random(60) < 0.3
    best = 0.0
    for threshold in np.unique(scores):
        found = scores >= threshold
        hits = int((found & labels).sum())
        best = max(best, 2 * hits / (int(found.sum()) + int(labels.sum())))
    assert detection.f1_max(scores, labels)[0] == pytest.approx(best)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_au_pro_is_its_definition(pixels: tuple[list[np.ndarray], list[np.ndarray]], limit: float) -> None:
    assert detection.au_pro(*pixels, limit) == pytest.approx(slow_au_pro(*pixels, limit), abs=1e-12)


def test_au_pro_of_known_maps() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:1] = True
    assert detection.au_pro([mask.astype(float)], [mask]) == pytest.approx(1.0)
    # A constant map passes every threshold at once: the curve is the diagonal, its area to 0.3 is 0.15.
    assert detection.au_pro([np.zeros((10, 10))], [mask]) == pytest.approx(0.15)
    assert detection.au_pro([-mask.astype(float)], [mask]) == pytest.approx(0.0, abs=1e-12)


def test_small_regions_weigh_as_much_as_large_ones() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, 0] = True
    mask[5:, :] = True
    found_small = np.zeros((10, 10))
    found_small[0, 0] = 1.0
    fpr, pro = detection.pro_curve([found_small], [mask])
    assert pro[fpr == 0].max() == pytest.approx(0.5)


def test_pyaupro_agrees(pixels: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    pyaupro = pytest.importorskip("pyaupro")
    torch = pytest.importorskip("torch")
    maps, masks = pixels
    metric = pyaupro.PerRegionOverlap(thresholds=None)
    # pyaupro counts tied scores one by one, so there must be none
    untied = [m + 1e-3 * np.random.default_rng(i).random(m.shape) for i, m in enumerate((maps[0], maps[2]))]
    scaled = [(m - np.min(m)) / np.ptp(m) for m in untied]
    metric.update(torch.tensor(np.stack(scaled)).float(), torch.tensor(np.stack([masks[0], masks[2]])).long())
    fpr, pro = metric.compute()
    expected = float(pyaupro.auc_compute(fpr, pro, limit=0.3))
    assert detection.au_pro(scaled, [masks[0], masks[2]]) == pytest.approx(expected, abs=1e-4)


def test_pixel_auroc_counts_pairs(pixels: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    maps, masks = pixels
    inside = np.concatenate([m[mask] for m, mask in zip(maps, masks, strict=True)])
    outside = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    wins = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    assert detection.pixel_auroc(maps, masks) == pytest.approx(wins)


def test_image_interval_holds_the_estimate_and_narrows_with_more_images() -> None:
    rng = np.random.default_rng(0)

    def interval(count: int) -> tuple[float, float]:
        labels = np.arange(count) % 2 == 0
        return detection.bootstrap_interval(
            detection.auroc, rng.normal(size=count) + labels, labels, samples=200
        )

    narrow, wide = interval(2000), interval(60)
    assert narrow[0] < 0.76 < narrow[1]  # Phi(1 / sqrt(2))
    assert narrow[1] - narrow[0] < 0.06 < wide[1] - wide[0]


def interval_width(bounds: tuple[float, float]) -> float:
    return bounds[1] - bounds[0]


def test_image_intervals_of_copies_are_as_wide_as_those_of_the_scenes() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(40) % 2 == 0
    scores = rng.normal(size=40) + labels

    def width(copies: int, groups: list[int] | None) -> float:
        repeated = np.repeat(scores, copies), np.repeat(labels, copies)
        return interval_width(detection.bootstrap_interval(detection.auroc, *repeated, groups))

    scenes = width(1, None)
    assert width(6, list(np.repeat(np.arange(40), 6))) == pytest.approx(scenes, rel=1e-9)
    # Six exposures taken for six images: too narrow by the root of six.
    assert width(6, None) == pytest.approx(scenes / np.sqrt(6), rel=0.15)


def test_intervals_of_images_that_are_all_scenes_are_the_ungrouped_ones() -> None:
    rng = np.random.default_rng(6)
    labels = rng.random(30) < 0.5
    scores = rng.normal(size=30) + labels
    scenes = [f"scene {rng.random()}" for _ in labels]
    plain, grouped = (
        detection.bootstrap_interval(detection.auroc, scores, labels, groups) for groups in (None, scenes)
    )
    assert grouped == plain
    maps = [rng.normal(size=(8, 8)) for _ in range(6)]
    masks = [np.zeros((8, 8), bool) for _ in range(6)]
    for mask in masks[:3]:
        mask[2:5, 2:5] = True
    assert detection.pixel_intervals(maps, masks, scenes[:6], samples=50) == detection.pixel_intervals(
        maps, masks, samples=50
    )


def test_pixel_intervals_of_copies_are_as_wide_as_those_of_the_scenes() -> None:
    rng = np.random.default_rng(7)
    masks = [np.zeros((16, 16), bool) for _ in range(12)]
    for index, mask in enumerate(masks[:6]):
        mask[2 : 6 + index, 3:9] = True
    maps = [ndimage.gaussian_filter(rng.normal(size=m.shape), 1) + 0.3 * m for m in masks]
    copies = [maps[i // 4] for i in range(48)], [masks[i // 4] for i in range(48)]
    scenes = detection.pixel_intervals(maps, masks, samples=400)
    grouped = detection.pixel_intervals(*copies, [i // 4 for i in range(48)], samples=400)
    ungrouped = detection.pixel_intervals(*copies, samples=400)
    for name in ("pixel_auroc", "au_pro"):
        assert interval_width(grouped[name]) == pytest.approx(interval_width(scenes[name]), rel=0.05), name
        assert interval_width(ungrouped[name]) < 0.7 * interval_width(grouped[name]), name


def test_an_image_without_its_group_is_refused() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        detection.bootstrap_interval(detection.auroc, [0.1, 0.2], [False, True], ["one"])


def test_pixel_intervals_surround_the_exact_values() -> None:
    rng = np.random.default_rng(3)
    masks = [np.zeros((24, 24), bool) for _ in range(20)]
    for index, mask in enumerate(masks[:12]):
        mask[4 : 8 + index % 5, 4:12] = True
    maps = [ndimage.gaussian_filter(rng.normal(size=m.shape), 1) + 0.4 * m for m in masks]
    intervals = detection.pixel_intervals(maps, masks, samples=200)
    for name, exact in (
        ("pixel_auroc", detection.pixel_auroc(maps, masks)),
        ("au_pro", detection.au_pro(maps, masks)),
    ):
        low, high = intervals[name]
        assert low < exact < high, name
        assert high - low < 0.3, name


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="all 2 labels are True"):
        detection.auroc([0.1, 0.2], [True, True])
    with pytest.raises(ValueError, match=r"anomaly map 0 is \(2, 2\), its mask \(3, 3\)"):
        detection.au_pro([np.zeros((2, 2))], [np.zeros((3, 3), bool)])
    with pytest.raises(ValueError, match="0 regions and 4 pixels"):
        detection.au_pro([np.zeros((2, 2))], [np.zeros((2, 2), bool)])


def test_the_interval_of_a_rate_is_that_of_scipys_binomial_test() -> None:
    for hits, count in ((0, 6), (1, 48), (5, 20), (7, 7)):
        exact = binomtest(hits, count).proportion_ci(method="exact")
        assert detection.rate_interval(hits / count, count) == pytest.approx((exact.low, exact.high))
    assert detection.rate_interval(0.5, 10)[1] > detection.rate_interval(0.5, 40)[1], "scenes count"
