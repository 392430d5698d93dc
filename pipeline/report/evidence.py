"""The tables of the page's story: data, reconstruction, usefulness, detector, export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaldefect.metrics.directions import improvement
from pipeline.main_metrics import formatted
from pipeline.report.numbers import Estimate, Metrics, share
from pipeline.report.tables import Table

MEGABYTE = 1e6
RECONSTRUCTION = {
    "ssim": "SSIM: structure",
    "edge_iou_1px": "Edge IoU, 1 px tolerance",
    "edge_iou": "Edge IoU, exact",
    "lpips": "LPIPS: perceived difference",
    "psnr": "PSNR, dB",
    "rkid": "KID to the originals",
}
# (key in evaluate_synthesis, label, what a perfect or unhelpful value is, whether it is a share)
USEFULNESS = (
    ("cas.accuracy", "Classifier trained on drawn images alone, right on test images", "", True),
    (
        "gain_at_10",
        "Accuracy gained by adding drawn images to ten training images per class",
        "0: no help",
        True,
    ),
    ("class_agreement_independent", "Drawn images taken for their class, independent classifier", "", True),
    ("class_agreement", "The same, by the classifier that also selected them", "", True),
    (
        "kid.ratio",
        "KID of drawn images, as a multiple of the tokenizer's own",
        "1: MaskGIT adds no error",
        False,
    ),
    ("precision", "Drawn images among the test images (precision)", "1 is best", True),
    ("recall", "Test images among the drawn ones (recall)", "1 is best", True),
    ("memorisation.fake_below", "Drawn images that copy a training image", "0 is best", True),
    (
        "realism.insertion_realism_auroc",
        "Telling inserted defects from the test set's own (AUROC)",
        "0.5: impossible",
        False,
    ),
    (
        "block_ratio_insertions",
        "Steps across token cells in insertions, inside = 1",
        "1: no grid",
        False,
    ),
    ("seams.inserted_to_canvas", "Gradient at an insertion's border, before = 1", "1: no seam", False),
    ("seams.inserted_to_real_inspection", "The same, the test images' defects = 1", "1: alike", False),
)


def data_table(metrics: Metrics) -> Table | None:
    """What was read, what is left, and what was refused."""
    merged = metrics.content("merge")
    if not merged:
        return None
    inspection = merged.get("inspection") or {}
    test = inspection.get("test") or {}
    good = test.get("good", 0)
    rows: list[tuple[str, Any]] = [
        ("images with a defect class", merged.get("total")),
        ("of these with a mask", merged.get("with_mask")),
        ("near-duplicate pairs, kept in one split", merged.get("duplicate_pairs")),
        ("exact duplicates", merged.get("exact_duplicates")),
        (
            "photographs that are filed under several classes",
            merged.get("groups_of_several_classes") or None,
        ),
        ("scenes that cross a split", merged.get("scenes_across_splits")),
        ("files refused", merged.get("rejected")),
        ("good images that the detector learns from", inspection.get("train")),
        ("good images that set its threshold", inspection.get("validation")),
        ("test images of the detector: good", good if test else None),
        ("test images of the detector: defective", sum(test.values()) - good if test else None),
    ]
    known = [[(name, ""), (formatted(value), "number")] for name, value in rows if value is not None]
    return Table("", ["", ""], known)


def reconstruction_table(metrics: Metrics) -> Table | None:
    """Reconstruction of test images before and after training, with intervals."""
    table = Table("", ["", "before", "after", ""])
    for key, name in RECONSTRUCTION.items():
        before = metrics.estimate("evaluate_vq", f"before.{key}")
        after = metrics.estimate("evaluate_vq", f"after.{key}")
        if before is None or after is None:
            continue
        better = improvement(key, before.value, after.value) or 0
        clear = is_clear(metrics.mapping("evaluate_vq", f"gain.{key}"), before, after)
        kind = "good" if better > 0 else "bad"
        verdict, kind = (("better" if better > 0 else "worse"), kind) if clear and better else ("as good", "")
        table.rows.append(
            [
                (name, ""),
                (before.as_number(), "number"),
                (after.as_number(), "number strong"),
                (verdict, f"number {kind}"),
            ]
        )
    return table if table.rows else None


def is_clear(gain: Mapping[str, Any], before: Estimate, after: Estimate) -> bool:
    """Whether a difference is larger than chance: the interval of the paired gain does not contain 0.

    Without a paired gain, the two intervals must not overlap.
    """
    if "low" in gain and "high" in gain:
        return bool(gain["low"] > 0 or gain["high"] < 0)
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return False
    return after.low > before.high or after.high < before.low


def usefulness_table(metrics: Metrics) -> Table | None:
    """Each measure of usefulness with its interval, and what it is to be compared with."""
    table = Table("", ["", "measured (95 % interval)", "compare with"])
    against = references(metrics)
    for key, name, meaning, is_share in USEFULNESS:
        estimate = metrics.estimate("evaluate_synthesis", key)
        if estimate is None:
            continue
        text = estimate.as_percent() if is_share else estimate.as_number()
        table.rows.append([(name, ""), (text, "number strong"), (against.get(key) or meaning, "number")])
    table.rows += [*calibration_rows(metrics), *threshold_rows(metrics)]
    return table if table.rows else None


def references(metrics: Metrics) -> dict[str, str]:
    """For keys of `USEFULNESS`, what the same measure gives for images that are not drawn."""
    found = {}
    accuracy = metrics.value("evaluate_synthesis", "cas.accuracy")
    ratio = metrics.value("evaluate_synthesis", "cas.ratio")
    if accuracy and ratio:
        found["cas.accuracy"] = f"trained on training images: {share(accuracy / ratio)}"
    for key, reference, name in (
        ("class_agreement_independent", "judge_accuracy_on_real", "test images"),
        ("class_agreement", "class_agreement_reconstruction", "test images through the tokenizer"),
        ("precision", "manifold.real.precision", "training images"),
        ("recall", "manifold.real.recall", "training images"),
    ):
        value = metrics.value("evaluate_synthesis", reference)
        if value is not None:
            found[key] = f"{name}: {share(value)}"
    before = metrics.value("evaluate_synthesis", "block_ratio_insertions.canvas")
    if before is not None:
        found["block_ratio_insertions"] = f"before the insertion: {formatted(before)}"
    return found


def calibration_rows(metrics: Metrics) -> list[list[tuple[str, str]]]:
    """What the inserted defects chose when the detector was calibrated."""
    shares = metrics.mapping("calibrate", "map_weights.image_auroc_by_student_share")
    chosen = metrics.value("calibrate", "map_weights.student")
    best = next((value for key, value in shares.items() if float(key) == chosen), None)
    equal = shares.get("0.5")
    if best is None or equal is None:
        return []
    name = "Detector's maps mixed by inserted defects (validation AUROC)"
    against = f"equal weights: {formatted(float(equal))}"
    return [[(name, ""), (formatted(float(best)), "number strong"), (against, "number")]]


def threshold_rows(metrics: Metrics) -> list[list[tuple[str, str]]]:
    """What the calibration expects of its threshold, with the interval of the false alarms."""
    chosen = metrics.mapping("calibrate", "threshold")
    expected, detected = chosen.get("expected_false_alarm_rate"), chosen.get("inserted_defects_found")
    rows = []
    if detected is not None:
        against = f"of {formatted(chosen['defects'])}"
        rows.append(("Inserted defects found at the threshold", share(detected), against))
    if expected is not None:
        bounds = chosen.get("false_alarm_rate_interval_95") or ()
        against = f"from {formatted(chosen['normals'])} good validation images"
        text = Estimate(expected, *bounds).as_percent()
        rows.append(("False alarms to expect at the threshold", text, against))
    return [[(name, ""), (text, "number strong"), (against, "number")] for name, text, against in rows]


def detector_table(metrics: Metrics) -> Table | None:
    """The detector on the test set's defects and on inserted ones, the paper's score, and a memory bank."""
    sets = {
        "": "test defects",
        "generated.": "inserted drawn defects",
        "paper_score.": "test defects, the paper's score",
        "memory_bank.": "test defects, memory bank",
    }
    table = Table("", ["", *sets.values()])
    rows = (
        ("image_auroc", "Image AUROC", False),
        ("au_pro", "AU-PRO (how exactly maps mark defects)", False),
        ("pixel_auroc", "Pixel AUROC", False),
        ("f1_max", "F1 at the best threshold", False),
        ("detection_rate", "Found at the threshold", True),
        ("false_alarm_rate", "False alarms at the threshold", True),
        ("f1_at_threshold", "F1 at the threshold", False),
    )
    for key, name, is_share in rows:
        cells = []
        for prefix in sets:
            found = metrics.estimate("evaluate_efficientad", prefix + key)
            text = "–" if found is None else found.as_percent() if is_share else found.as_number()
            cells.append((text, "number"))
        if cells[0][0] != "–":
            table.rows.append([(name, ""), *cells])
    return table if table.rows else None


def type_table(metrics: Metrics) -> Table | None:
    """The detector on each type of test defect."""
    types = metrics.mapping("evaluate_efficientad", "per_type")
    table = Table("By type of defect", ["", "images", "found", "image AUROC", "AU-PRO"])
    for name, values in types.items():
        au_pro = values.get("au_pro")
        table.rows.append(
            [
                (name.replace("_", " "), ""),
                (formatted(values["images"]), "number"),
                (share(values["detection_rate"]), "number"),
                (formatted(values["image_auroc"]), "number"),
                ("–" if au_pro is None else formatted(au_pro), "number"),
            ]
        )
    return table if table.rows else None


EXPORTED = ("image_auroc", "auroc_drop", "changed_decisions", "f1_at_threshold", "threshold")


def export_table(metrics: Metrics) -> Table | None:
    """Each exported precision: what it computes in, accuracy, threshold, latency, size on disk."""
    exported = metrics.content("evaluate_openvino")
    sizes = exported.get("bytes") or {}
    header = [
        "",
        "computes in",
        "image AUROC",
        "lost against FP32",
        "decisions changed",
        "F1 at threshold",
        "threshold",
        "median ms",
        "99 % within ms",
        "images/s",
        "MB",
    ]
    table = Table("", header)
    for name in ("fp32", "fp16", "int8"):
        values, speed = exported.get(name), metrics.content("latency").get(name) or {}
        if not isinstance(values, Mapping):
            continue
        size = sum(count for file, count in sizes.items() if f"_{name}." in file) / MEGABYTE
        numbers = [
            *(values.get(key) for key in EXPORTED),
            *(speed.get(key) for key in ("p50_ms", "p99_ms", "frames_per_s")),
            size,
        ]
        texts = [formatted(None if value is None else float(value)) for value in numbers]
        names = [(name.upper(), ""), (str(values.get("execution", "–")), "")]
        table.rows.append([*names, *((text, "number") for text in texts)])
    return table if table.rows else None
