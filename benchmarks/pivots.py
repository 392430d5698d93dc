"""Tables for the docs of figures whose names hold a row and a column, such as `cpp_int8_max_error`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.results import Figure


class Pivot(NamedTuple):
    """How the names of a result's figures become a table.

    Attributes:
        pattern: of a figure's name; its group `row`, and all its other groups together, name the two.
        corner: what the rows are.
        rows: words for the rows, in order.
        columns: words for the columns, in order.
    """

    pattern: re.Pattern[str]
    corner: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]


RUNTIMES = {"cpp": "C++", "model_api": "OpenVINO Model API", "anomalib": "anomalib"}
PIVOTS = {
    "agreement": Pivot(
        re.compile(r"(?P<row>(?:cpp|model_api|anomalib)_(?:fp32|fp16|int8))_(max_error|changed_decisions)"),
        "against Python",
        {
            f"{runtime}_{precision}": f"{words}, {precision.upper()}"
            for runtime, words in RUNTIMES.items()
            for precision in ("fp32", "fp16", "int8")
        },
        {"max_error": "largest difference of a score", "changed_decisions": "decisions that differ"},
    ),
    "categories": Pivot(
        re.compile(
            r"(?P<row>(?:magnetic_tile|strip_windows)(?:_memory_bank)?)"
            r"_(image_auroc|au_pro|f1_at_threshold|f1_max)"
        ),
        "30 minutes each",
        {
            "magnetic_tile": "magnetic tiles: detector",
            "magnetic_tile_memory_bank": "magnetic tiles: memory bank, no training",
            "strip_windows": "windows of steel strip: detector",
            "strip_windows_memory_bank": "windows of steel strip: memory bank, no training",
        },
        {
            "image_auroc": "image AUROC",
            "au_pro": "AU-PRO",
            "f1_at_threshold": "F1 at its threshold",
            "f1_max": "highest F1 of any threshold",
        },
    ),
    "kills": Pivot(
        re.compile(r"(?P<row>stage|worker|server|mlflow)_killed(.*)"),
        "what was killed",
        {"stage": "a stage", "worker": "the worker", "server": "Prefect's server", "mlflow": "MLflow"},
        {
            "": "times",
            "_and_the_run_went_on": "the run went on",
            "_and_this_or_the_next_run_completed": "this or the next run completed",
        },
    ),
    "learning": Pivot(
        re.compile(
            r"(?P<row>plain|paper|batch_4|batch_4_rate_doubled|rising_quantile|falling_rate|autoencoder_rare"
            r"|autoencoder_first|teacher_start)_(steps|painted|tiles)"
        ),
        "the same computing time",
        {
            "plain": "`metaldefect train`: rate 4e-4, quantile 0.97, one image per step",
            "paper": "the paper's rate (1e-4) and quantile (0.999)",
            "batch_4": "four images per step",
            "batch_4_rate_doubled": "four images per step, twice the rate",
            "rising_quantile": "a quantile that rises from 0.9 to 0.999",
            "falling_rate": "a rate that falls along a cosine",
            "autoencoder_rare": "the autoencoder's losses in every second step",
            "autoencoder_first": "a fifth of the time for the autoencoder alone, first",
            "teacher_start": "a student that starts with the teacher's weights",
        },
        {
            "steps": "steps",
            "painted": "image AUROC, painted validation defects",
            "tiles": "image AUROC, test tiles",
        },
    ),
    "patch_limits": Pivot(
        re.compile(r"(edge_iou|psnr|ssim)_(?P<row>components_\d+|kmeans_\d+)_at(_\d+)"),
        "each patch becomes",
        {
            "kmeans_1024": "the nearest of 1,024 k-means patches",
            "components_1": "its first principal component",
            **{f"components_{n}": f"its first {n} principal components" for n in (2, 4, 8)},
        },
        {
            f"{metric}_{side}": f"{words}, {side} px"
            for metric, words in (("ssim", "SSIM"), ("edge_iou", "Edge IoU"), ("psnr", "PSNR (dB)"))
            for side in (128, 256)
        },
    ),
    "synthesis_helps": Pivot(
        re.compile(r"(?P<row>.+)_(normals|inserted|real|best)"),
        "measured on real test images",
        {
            "f1": "F1",
            "balanced_accuracy": "balanced accuracy",
            "detection_rate": "share of the defects found",
            "false_alarm_rate": "share of the good images flagged",
            "auroc": "image AUROC of these defects against good images",
            "image_auroc_of_choice": "image AUROC of the model that was chosen of ten",
        },
        {
            "normals": "good images alone",
            "inserted": "with inserted defects",
            "real": "with real defects",
            "best": "best of the ten",
        },
    ),
}


def pivoted(name: str, figures: Mapping[str, Figure]) -> tuple[dict[tuple[str, str], Figure], list[str]]:
    """Figures of a result by row and column, and the names of those that are neither.

    Args:
        name: of the result, one of `PIVOTS`.
        figures: of the result.
    """
    pivot = PIVOTS[name]
    cells: dict[tuple[str, str], Figure] = {}
    others = []
    for figure, value in figures.items():
        found = pivot.pattern.fullmatch(figure)
        if found is None:
            others.append(figure)
            continue
        row = found["row"]
        column = "".join(text for text in found.groups() if text != row)
        if row not in pivot.rows or column not in pivot.columns:
            others.append(figure)
        else:
            cells[row, column] = value
    return cells, others
