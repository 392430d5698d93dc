"""Measure the source shortcut: how well grey statistics alone reveal which dataset an image is from.

If a class comes from two datasets that look different, a classifier can learn the camera instead of the
defect. The measure is the balanced accuracy of a linear classifier on four statistics per image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import laplace
from scipy.stats import skew
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metaldefect.images import U8

FOLDS = 5


@dataclass(frozen=True)
class GreyStatistics:
    """Statistics of one image's grey levels (0 to 255); `sharpness` is the Laplacian's deviation."""

    mean: float
    std: float
    skewness: float
    sharpness: float


@dataclass(frozen=True)
class Tone:
    """An affine change of grey levels: `(grey - mean) * gain + target`."""

    mean: float
    gain: float
    target: float

    def apply(self, image: U8) -> U8:
        """Return the changed image, `uint8 [H, W]` or `[H, W, 3]`, clipped to 0..255."""
        changed = (image.astype(np.float32) - self.mean) * self.gain + self.target
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def grey_statistics(image: U8) -> GreyStatistics:
    """Measure a grey image `uint8 [H, W]`."""
    levels = image.astype(np.float64)
    spread = float(levels.std())
    return GreyStatistics(
        mean=float(levels.mean()),
        std=spread,
        skewness=float(skew(levels, axis=None)) if spread > 0 else 0.0,
        sharpness=float(laplace(levels).std()),
    )


def source_tones(
    sources: list[str], statistics: list[GreyStatistics], reference: list[bool]
) -> dict[str, Tone]:
    """Compute one tone per source that moves its mean brightness and contrast to the average of all sources.

    All images of a source get the same change, so differences between classes remain.

    Args:
        sources: source of each image.
        statistics: grey statistics of each image.
        reference: which images to average; pass training images only, so that no test data leaks.

    Returns:
        source -> tone, for sources with at least one reference image.
    """
    frame = pd.DataFrame([asdict(item) for item in statistics]).assign(source=sources)[reference]
    averages = frame.groupby("source")[["mean", "std"]].mean()
    target = averages.mean()
    return {
        str(source): Tone(row["mean"], target["std"] / max(row["std"], 1e-6), target["mean"])
        for source, row in averages.iterrows()
    }


def source_shortcut(table: pd.DataFrame, statistics: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Measure, in each class with several sources, how well a classifier recognises the source.

    Args:
        table: with columns `label`, `source`, `scene`.
        statistics: `GreyStatistics` of each row, in the same order.

    Returns:
        By class: `balanced_accuracy` (0 to 1, lower is better) of a logistic regression, cross-validated
        by scene, and `chance` (1 / number of sources). If a source has fewer scenes than there are folds,
        the class has `too_few_images: 1` instead of an accuracy.
    """
    found: dict[str, dict[str, float]] = {}
    for label in sorted(table["label"].unique()):
        rows = (table["label"] == label).to_numpy()
        sources = table.loc[rows, "source"].to_numpy()
        names = np.unique(sources)
        if len(names) < 2:
            continue
        chance = round(1 / len(names), 4)
        groups = pd.factorize(table.loc[rows, "scene"])[0]
        if min(len(np.unique(groups[sources == name])) for name in names) < FOLDS:
            found[label] = {"chance": chance, "too_few_images": 1}
            continue
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        folds = StratifiedGroupKFold(FOLDS)
        predicted = cross_val_predict(
            classifier, statistics[rows].to_numpy(), sources, groups=groups, cv=folds
        )
        found[label] = {
            "balanced_accuracy": round(float(balanced_accuracy_score(sources, predicted)), 4),
            "chance": chance,
        }
    return found
