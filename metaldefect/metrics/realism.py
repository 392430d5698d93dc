"""Whether inserted defects can be told from real ones: a two-sample test with a classifier.

Lopez-Paz and Oquab (2017), "Revisiting classifier two-sample tests": if a classifier that was trained on
half of both samples cannot tell the other half apart, the samples come from one distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedGroupKFold

from metaldefect.feature_classifier import Features, classifier
from metaldefect.metrics.detection import auroc, bootstrap_interval

FOLDS = 5
FEWEST_GROUPS = 3  # with fewer groups than folds, each group is a fold
INTERVAL_SAMPLES = 500


def realism_auroc(
    real: Features,
    inserted: Features,
    real_groups: Sequence[object],
    inserted_groups: Sequence[object],
    seed: int,
) -> dict[str, float]:
    """How well a classifier tells inserted from real defects; 0.5 is perfect realism, 1 the worst.

    Each image is scored by a classifier that saw no image of its group.

    Args:
        real: features of crops with real defects, `float32 [N, D]`.
        inserted: of crops with inserted ones, `float32 [M, D]`.
        real_groups: groups of the real crops; whole groups are held out and resampled.
        inserted_groups: groups of the inserted ones; a copied defect belongs to its original's group.
        seed: of the folds and the interval.

    Returns:
        `mean` (the AUROC), `low`, `high` (95 % bootstrap interval over groups).

    Raises:
        ValueError: fewer than three groups on a side.
    """
    for name, groups in (("real", real_groups), ("inserted", inserted_groups)):
        if len(set(groups)) < FEWEST_GROUPS:
            raise ValueError(f"{len(set(groups))} groups of {name} defects, {FEWEST_GROUPS} are needed")
    features = np.concatenate([real, inserted])
    truth = np.repeat([False, True], [len(real), len(inserted)])
    names = np.where(truth, "inserted", "real")
    groups = [*real_groups, *inserted_groups]
    keys = np.unique([str(group) for group in groups], return_inverse=True)[1]
    scores = np.empty(len(features))
    count = min(FOLDS, len(set(real_groups)), len(set(inserted_groups)))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for train, held in folds.split(features, truth, keys):
        judge = classifier(features[train], names[train], seed)
        column = list(judge.classes_).index("inserted")
        scores[held] = ranks(judge.predict_proba(features[held])[:, column])
    low, high = bootstrap_interval(auroc, scores, truth, groups, seed, INTERVAL_SAMPLES)
    return {"mean": auroc(scores, truth), "low": low, "high": high}


def ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks in (0, 1): scores of classifiers from different folds do not share a scale."""
    return np.asarray(rankdata(scores) / (len(scores) + 1))
