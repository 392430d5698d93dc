"""Accuracy of a precision on test images, and what it costs against FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaldefect.efficientad.evaluation import Scored
from metaldefect.metrics.detection import auroc, f1_at


def precision_accuracy(scored: Sequence[Scored], threshold: float) -> dict[str, Any]:
    """Image AUROC, F1 at the threshold, and the detection rate per defect type.

    Args:
        scored: the test images with the precision's scores.
        threshold: of the precision.

    Returns:
        `left_out` instead of metrics that the images do not allow.
    """
    scores, labels = [item.score for item in scored], [item.is_defective for item in scored]
    result: dict[str, Any] = {"threshold": threshold}
    if len(set(labels)) == 2:
        result |= {"image_auroc": auroc(scores, labels), "f1_at_threshold": f1_at(scores, labels, threshold)}
    else:
        result["left_out"] = "image_auroc, f1_at_threshold: the test images are not both good and defective"
    kinds = sorted({item.label for item in scored if item.is_defective})
    result["detection_rate"] = {
        kind: float(np.mean([item.score > threshold for item in scored if item.label == kind]))
        for kind in kinds
    }
    return result


# Image AUROC that a precision may lose against FP32; FP16's is bf16's too, where the CPU computes FP16 in it
MAX_DROP = {"fp16": 0.002, "int8": 0.005}


def beyond_limits(accuracy: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In words, what each precision loses beyond `MAX_DROP`; `accuracy` holds `against_fp32` by precision."""
    return [
        f"{precision} loses {100 * drop:.2f} points of image AUROC, more than {100 * limit:.1f}"
        for precision, limit in MAX_DROP.items()
        if (drop := accuracy.get(precision, {}).get("auroc_drop", 0.0)) > limit
    ]


def against_fp32(
    scored: Sequence[Scored], threshold: float, fp32: Sequence[Scored], fp32_threshold: float
) -> dict[str, Any]:
    """What a precision changes against FP32 on the same images in the same order.

    Returns:
        `changed_decisions`, the share of images that it decides otherwise; `auroc_drop`, FP32's image AUROC
        minus its own (left out without both good and defective images); `by_type`: the same for the images of
        each kind of defect, whose AUROC is against all good images.
    """
    result: dict[str, Any] = cost(scored, threshold, fp32, fp32_threshold)
    result["by_type"] = {}
    for kind in sorted({item.label for item in scored if item.is_defective}):
        chosen = [item.label == kind for item in scored]
        compared = [one or not item.is_defective for one, item in zip(chosen, scored, strict=True)]
        of_kind = cost(*selected(chosen, scored, threshold, fp32, fp32_threshold))
        drop = cost(*selected(compared, scored, threshold, fp32, fp32_threshold)).get("auroc_drop")
        result["by_type"][kind] = of_kind | ({} if drop is None else {"auroc_drop": drop})
    return result


def selected(
    chosen: Sequence[bool],
    scored: Sequence[Scored],
    threshold: float,
    fp32: Sequence[Scored],
    fp32_threshold: float,
) -> tuple[list[Scored], float, list[Scored], float]:
    """The arguments of `cost` for the chosen images alone."""
    own, reference = (
        [item for one, item in zip(chosen, items, strict=True) if one] for items in (scored, fp32)
    )
    return own, threshold, reference, fp32_threshold


def cost(
    scored: Sequence[Scored], threshold: float, fp32: Sequence[Scored], fp32_threshold: float
) -> dict[str, float]:
    """`changed_decisions` and, with both good and defective images, `auroc_drop`."""
    pairs = list(zip(scored, fp32, strict=True))
    changed = [(one.score > threshold) != (two.score > fp32_threshold) for one, two in pairs]
    result = {"changed_decisions": float(np.mean(changed)) if changed else 0.0}
    labels = [item.is_defective for item in scored]
    if len(set(labels)) == 2:
        own, reference = ([item.score for item in items] for items in (scored, fp32))
        result["auroc_drop"] = auroc(reference, labels) - auroc(own, labels)
    return result
