"""Image-level and pixel-level anomaly detection metrics: pure functions of scores and ground truth.

Maps and masks come as sequences because images of one test set may differ in size. A mask is a boolean
array with the shape of its map. Pixels are gathered in temporary files, not in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from metaldefect.on_disk import zeros_on_disk

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

FPR_LIMIT = 0.3
EIGHT_CONNECTED = np.ones((3, 3), dtype=int)
BOOTSTRAP_SAMPLES = 1000
BOOTSTRAP_THRESHOLDS = 500


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the receiver operating characteristic, in [0, 1].

    Raises:
        ValueError: all labels are equal.
    """
    scores, labels = checked(scores, labels)
    ranks, found = stats.rankdata(scores), int(labels.sum())
    pairs = found * (len(labels) - found)
    return float((ranks[labels].sum() - found * (found + 1) / 2) / pairs)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision (area under the precision-recall steps), in [0, 1]."""
    scores, labels = checked(scores, labels)
    _, alarms, hits = counts_at_thresholds(scores, labels)
    return float(np.sum(np.diff(hits, prepend=0) / labels.sum() * hits / alarms))


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(largest F1 over all thresholds, the threshold: scores at or above it count as anomalous)."""
    scores, labels = checked(scores, labels)
    thresholds, alarms, hits = counts_at_thresholds(scores, labels)
    f1 = 2 * hits / (alarms + labels.sum())
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))  # of equal ones the lowest threshold
    return float(f1[best]), float(thresholds[best])


def counts_at_thresholds(
    scores: NDArray[np.float64], labels: Bools
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """The distinct scores from high to low; how many images score at least that, and how many hits are among.

    The bootstrap calls this a thousand times, so it is plain NumPy: scikit-learn's checks of its input take
    a hundred times as long as the sums.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return ordered[last], last + 1, np.cumsum(labels[order])[last]


def f1_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """F1 when scores above `threshold` count as anomalous; 0 if there are no hits."""
    scores, labels = checked(scores, labels)
    found = scores > threshold
    hits = float(np.sum(found & labels))
    return 2 * hits / (float(np.sum(found)) + float(np.sum(labels)))


def balanced_accuracy_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Mean of true-positive and true-negative rate when scores above `threshold` count as anomalous."""
    scores, labels = checked(scores, labels)
    found = scores > threshold
    return float((found[labels].mean() + (~found[~labels]).mean()) / 2)


def balanced_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the threshold with the largest balanced accuracy, which ignores class imbalance.

    It lies half-way between two neighbouring scores; of equally good thresholds, the middle one wins.
    """
    scores, labels = checked(scores, labels)
    values = np.unique(scores)
    candidates = np.concatenate([[values[0] - 1.0], (values[:-1] + values[1:]) / 2, [values[-1] + 1.0]])
    defective, normal = np.sort(scores[labels]), np.sort(scores[~labels])
    detected = 1.0 - np.searchsorted(defective, candidates, side="right") / len(defective)
    passed = np.searchsorted(normal, candidates, side="right") / len(normal)
    best = np.flatnonzero(np.isclose(detected + passed, (detected + passed).max()))
    return float(candidates[best[len(best) // 2]])


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], Bools]:
    """Return both as arrays after checking them.

    Raises:
        ValueError: the lengths differ, or all labels are equal.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {labels.shape} labels")
    if labels.all() or not labels.any():
        raise ValueError(f"all {len(labels)} labels are {bool(labels.any())}: both kinds are needed")
    return scores, labels


def pixel_auroc(maps: Sequence[Floats], masks: Sequence[Bools]) -> float:
    """AUROC over all pixels of all images.

    Computed as the share of (defect pixel, other pixel) pairs in the right order, ties counting half:
    sorting one kind and looking up the other is much faster than sorting both with their labels.

    Raises:
        ValueError: all pixels have the same label.
    """
    check_maps(maps, masks)
    outside, inside = by_truth(maps, masks)
    inside.sort()
    if not len(outside) or not len(inside):
        raise ValueError(f"all pixels are labelled {bool(len(inside))}: both kinds are needed")
    wins = sum(
        np.searchsorted(outside, inside, side=side).sum(dtype=np.float64) for side in ("left", "right")
    )
    return float(wins / (2.0 * len(outside) * len(inside)))


def by_truth(maps: Sequence[Floats], masks: Sequence[Bools]) -> tuple[Floats, Floats]:
    """All values outside the masks, ascending and on disk; and all inside, image by image, in memory.

    Most pixels are outside.
    """
    pairs = list(zip(maps, masks, strict=True))
    inside = np.concatenate([values[mask] for values, mask in pairs])
    outside = zeros_on_disk((sum(mask.size for mask in masks) - len(inside),), inside.dtype)
    start = 0
    for values, mask in pairs:
        part = values[~mask]
        outside[start : start + len(part)] = part
        start += len(part)
    outside.sort()
    return outside, inside


def check_maps(maps: Sequence[Floats], masks: Sequence[Bools]) -> None:
    """Check that each map has the size of its mask.

    Raises:
        ValueError: names the first pair that differs.
    """
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} anomaly maps for {len(masks)} masks")
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        if anomaly_map.shape != mask.shape:
            raise ValueError(f"anomaly map {index} is {anomaly_map.shape}, its mask {mask.shape}")


def pro_curve(
    maps: Sequence[Floats], masks: Sequence[Bools]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false-positive rate and per-region overlap over every threshold that the maps contain.

    A region is an 8-connected component of a mask. The overlap is the mean, over regions, of the share of
    the region that is found; the rate is over all pixels outside regions, including those of defect-free
    images. Source: definition of the MVTec AD evaluation code (Bergmann et al., IJCV 2021).

    The overlap changes only at values inside regions, and these are few. So the curve's corners lie just
    above and at each of them, and the other pixels need sorting only, without their labels.

    Returns:
        Two arrays from (0, 0) to (1, 1), the corners of the curve.

    Raises:
        ValueError: there are no regions, or no pixels outside them.
    """
    check_maps(maps, masks)
    gains, regions = [], 0
    for mask in masks:
        labelled, count = ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(labelled.ravel(), minlength=count + 1)
        gains.append(1.0 / sizes[labelled[mask]])
        regions += count
    outside, inside = by_truth(maps, masks)
    if not regions or not len(outside):
        raise ValueError(f"{regions} regions and {len(outside)} pixels outside them: both are needed")
    values, place = np.unique(inside, return_inverse=True)
    values, gain = values[::-1], np.bincount(place, np.concatenate(gains))[::-1]
    found = np.minimum(np.cumsum(gain) / regions, 1.0)
    above, at = (1.0 - np.searchsorted(outside, values, side=s) / len(outside) for s in ("right", "left"))
    fpr = np.stack([above, at], axis=1).ravel()
    pro = np.stack([np.append(0.0, found[:-1]), found], axis=1).ravel()
    return np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])


def area_to_limit(fpr: ArrayLike, rate: ArrayLike, limit: float) -> float:
    """Trapezoidal area under a curve from 0 to `limit` (interpolated there), divided by `limit`."""
    x, y = np.asarray(fpr, np.float64), np.asarray(rate, np.float64)
    inside = x <= limit
    at_limit = np.interp(limit, x, y)
    x, y = np.append(x[inside], limit), np.append(y[inside], at_limit)
    return float(np.trapezoid(y, x) / limit)


def au_pro(maps: Sequence[Floats], masks: Sequence[Bools], limit: float = FPR_LIMIT) -> float:
    """Area under `pro_curve` up to a false-positive rate of `limit`, divided by `limit`, in [0, 1]."""
    return area_to_limit(*pro_curve(maps, masks), limit)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.float64], Bools], float],
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[object] | None = None,
    seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of (scores, labels), resampling groups within each label.

    Args:
        statistic: of (scores, labels).
        scores: one number per image.
        labels: whether each image is anomalous.
        groups: group of each image. Whole groups are resampled, since images of one group (exposures of
            one piece of metal) are not independent. None: each image is a group.
        seed: of the resampling.
        samples: number of resamples.
    """
    scores, labels = checked(scores, labels)
    rng = np.random.default_rng(seed)
    kinds = [members_of_groups(kind, groups) for kind in (labels, ~labels)]
    values = np.empty(samples)
    for index in range(samples):
        chosen = np.concatenate([resample(kind, rng) for kind in kinds])
        values[index] = statistic(scores[chosen], labels[chosen])
    return percentiles(values)


def rate_interval(rate: float, independent: int) -> tuple[float, float]:
    """95 % interval of a rate (Clopper and Pearson, 1934), which is exact and never empty, also at 0 and 1.

    Args:
        rate: share of the images, in [0, 1].
        independent: number of independent ones among them: scenes, not exposures.
    """
    hits = rate * independent
    low = stats.beta.ppf(0.025, hits, independent - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(0.975, hits + 1, independent - hits) if hits < independent else 1.0
    return float(low), float(high)


def members_of_groups(chosen: Bools, groups: Sequence[object] | None) -> list[NDArray[np.intp]]:
    """Return the indices of the chosen images, one array per group, in the order groups first occur.

    Raises:
        ValueError: the number of groups differs from the number of images.
    """
    keys: Sequence[object] = range(len(chosen)) if groups is None else groups
    if len(keys) != len(chosen):
        raise ValueError(f"{len(keys)} groups for {len(chosen)} images")
    members: dict[object, list[int]] = {}
    for index in np.flatnonzero(chosen).tolist():
        members.setdefault(keys[index], []).append(index)
    return [np.array(images) for images in members.values()]


def resample(members: Sequence[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw as many groups as there are, with replacement, and return the indices of their images."""
    return np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])


def percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentiles."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def pixel_intervals(
    maps: Sequence[Floats],
    masks: Sequence[Bools],
    groups: Sequence[object] | None = None,
    limit: float = FPR_LIMIT,
    seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of `pixel_auroc` and `au_pro`, resampling groups within good and defective.

    `groups` as in `bootstrap_interval`.

    Sorting all pixels a thousand times would take hours. Instead, count each image's pixels once at 500
    thresholds (quantiles of the pixels outside regions, denser towards the top); a resample is then a
    weighted sum of these counts.
    """
    check_maps(maps, masks)
    outside, inside = by_truth(maps, masks)
    inside.sort()
    levels = np.linspace(0, 1, BOOTSTRAP_THRESHOLDS) ** 2
    thresholds = np.unique(np.concatenate([at_rank(outside, 1 - levels), at_rank(inside, levels)]))
    counts = len(maps), len(thresholds)
    false, true, overlap = (zeros_on_disk(counts, np.float64) for _ in range(3))
    regions = np.zeros(len(maps))
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        false[index] = at_or_above(anomaly_map[~mask], thresholds)
        labelled, count = ndimage.label(mask, EIGHT_CONNECTED)
        regions[index] = count
        for region in range(1, count + 1):
            found = at_or_above(anomaly_map[labelled == region], thresholds)
            true[index] += found
            overlap[index] += found / max(1.0, found[0])
    negatives = np.array([float((~mask).sum()) for mask in masks])
    positives = np.array([float(mask.sum()) for mask in masks])
    rng = np.random.default_rng(seed)
    chosen_kinds = (positives > 0, positives == 0)
    kinds = [members_of_groups(kind, groups) for kind in chosen_kinds if kind.any()]
    results = np.empty((samples, 2))
    for index in range(samples):
        chosen = np.concatenate([resample(kind, rng) for kind in kinds])
        weight = np.bincount(chosen, minlength=len(maps)).astype(np.float64)
        fpr = np.append(0.0, ((weight @ false) / (weight @ negatives))[::-1])
        tpr = np.append(0.0, ((weight @ true) / (weight @ positives))[::-1])
        pro = np.append(0.0, ((weight @ overlap) / (weight @ regions))[::-1])
        results[index] = np.trapezoid(tpr, fpr), area_to_limit(fpr, pro, limit)
    return {"pixel_auroc": percentiles(results[:, 0]), "au_pro": percentiles(results[:, 1])}


def at_rank(ascending: Floats, shares: Floats) -> Floats:
    """Return the values at these shares of the way through ascending ones."""
    return ascending[np.round(shares * (len(ascending) - 1)).astype(int)]


def at_or_above(values: Floats, thresholds: Floats) -> NDArray[np.float64]:
    """Count the values at or above each of the ascending thresholds."""
    return len(values) - np.searchsorted(np.sort(values, axis=None), thresholds, side="left").astype(float)
