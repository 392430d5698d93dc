"""Whether higher or lower is better for each published metric: the one table for reports and comparisons.

Enter a new metric here under the name it has in the metrics files.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Better(Enum):
    """Where a metric's best value lies."""

    HIGHER = "higher"
    LOWER = "lower"
    NEAR_ONE = "near one"


HIGHER = (
    # reconstruction
    "ssim", "ssim_gain", "psnr", "edge_iou", "edge_iou_gain", "edge_iou_1px",
    # codes
    "used", "perplexity", "explained_variance", "top1", "top5",
    "ce_below_class_unigram", "ce_wrong_minus_true", "ce_null_minus_true", "ce_wrong_minus_true_at_90",
    # drawn images
    "precision", "recall", "density", "coverage", "classifier_accuracy_on_real", "judge_accuracy_on_real",
    "class_agreement", "class_agreement_candidates", "class_agreement_reconstruction",
    "class_agreement_independent", "class_agreement_independent_lowest",
    "cas", "cas_ratio", "cas_reconstruction", "cas_real",
    "gain", "gain_at_10", "gain_at_30", "gain_at_all", "gain_reconstruction_at_10",
    # detection
    "image_auroc", "image_ap", "pixel_auroc", "au_pro", "f1", "f1_max", "f1_at_threshold", "detection_rate",
    "frames_per_s", "images_per_s",
)  # fmt: skip
LOWER = (
    "lpips", "efficientnet_lite0_distance", "mse", "rkid", "rkid_with_grain", "kid", "kid_ratio",
    "masked_ce", "ce_true", "loss", "held_out_loss", "loss_metal", "loss_natural",
    "fake_below", "memorised", "invisible",
    "insertion_realism_auroc", "copy_paste_realism_auroc", "procedural_realism_auroc",
    "false_alarm_rate", "max_abs_error",
    "p50_ms", "p90_ms", "p95_ms", "p99_ms", "seconds", "peak_rss_mb", "peak_rss_gib",
)  # fmt: skip
NEAR_ONE = (
    "block_ratio", "block_ratio_highest", "block_ratio_insertions", "diversity",
    "inserted_to_canvas", "pasted_to_canvas", "inserted_to_real", "inserted_to_real_inspection",
    "pasted_to_real_inspection", "seam_ratio", "seam_ratio_without_compositing",
)  # fmt: skip


def table(**names: Iterable[str]) -> dict[str, Better]:
    """Merge the lists above into one mapping.

    Raises:
        ValueError: a name occurs twice.
    """
    found: dict[str, Better] = {}
    for kind, listed in names.items():
        for name in listed:
            if name in found:
                raise ValueError(f"{name!r} has two directions: {found[name].value} and {kind}")
            found[name] = Better[kind]
    return found


DIRECTIONS = table(HIGHER=HIGHER, LOWER=LOWER, NEAR_ONE=NEAR_ONE)


def direction(key: str) -> Better | None:
    """Return where the best value of a dotted key lies; None for counts, settings and yardsticks.

    The last part of the key that is a metric's name decides, so a metric's statistics share its direction:

    >>> direction("after.rkid.mean"), direction("gain.lpips.relative"), direction("cas.ratio")
    (<Better.LOWER: 'lower'>, <Better.LOWER: 'lower'>, <Better.HIGHER: 'higher'>)
    >>> direction("train_images") is None
    True
    """
    return next((DIRECTIONS[part] for part in reversed(key.split(".")) if part in DIRECTIONS), None)


def improvement(key: str, before: float, after: float) -> float | None:
    """Return how much better `after` is than `before`, in the metric's unit; negative if it is worse.

    Returns:
        None if the table has no direction for the key. For near-one metrics, the distance to 1 counts.

    >>> improvement("rkid", 0.5, 0.25), improvement("block_ratio", 1.5, 0.75), improvement("total", 1, 2)
    (0.25, 0.25, None)
    """
    better = direction(key)
    if better is None:
        return None
    if better is Better.NEAR_ONE:
        return abs(before - 1.0) - abs(after - 1.0)
    return after - before if better is Better.HIGHER else before - after
