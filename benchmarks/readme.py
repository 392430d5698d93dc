"""`python -m benchmarks.readme`: write the generated parts of README.md and docs.

A part lies between `<!-- dag -->` and `<!-- /dag -->` (the pipeline's graph) or between `<!-- NAME-run -->`
and `<!-- /NAME-run -->` (the table of `benchmarks/results/NAME.json`, and `docs/images/NAME.png` if there is
one). `<!-- edge-goals -->` and `<!-- edge-speeds -->` show more of `edge.json`, and
`<!-- ablation-tables -->` the variants of `ablation.json`. `--check` writes nothing and fails if a part is
stale.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.ablation_table import settings, tables
from benchmarks.edge_tables import execution_line, goals_table, speeds_table
from benchmarks.pipeline import FIGURES
from benchmarks.pivots import PIVOTS, pivoted
from benchmarks.results import Figure, Interval, Result, is_stale, measured_paths, path_of, read
from metaldefect.errors import UserError, exit_on_user_error
from pipeline.main_metrics import formatted

CHARTS = Path("docs/images")
CHART_WORDS = {  # for those who do not see the picture
    "edge": "Milliseconds per frame of torch, anomalib's export, onnxruntime and this project's graphs",
    "tiles": "Image AUROC on magnetic tiles, 128 px, against training steps, and a memory bank's",
    "tiles_256": "Image AUROC on magnetic tiles, 256 px, against training steps, and a memory bank's",
}
PART = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)
RUN = re.compile(r"(?P<result>[\w-]+)-run")
# Figures of several teachers and seeds (`benchmarks.tiles`)
VARIANT = re.compile(r"(?:(?P<teacher>[a-z0-9]+)_teacher_)?(?P<figure>.+?)(?:_seed(?P<seed>\d+))?")
SEED = re.compile(r"_seed\d+$")
# Of a pipeline's run: what a reader asks first
MAIN = (
    "ssim", "ssim_gain", "edge_iou_1px", "lpips", "class_agreement_independent",
    "class_agreement_independent_lowest", "cas_ratio", "gain_at_10", "block_ratio",
    "insertion_realism_auroc", "copy_paste_realism_auroc", "procedural_realism_auroc",
    "image_auroc", "au_pro", "memory_bank_image_auroc", "detection_rate_drawn", "f1_at_threshold",
    "false_alarm_rate", "latency_int8_ms", "seconds", "peak_rss_mb",
)  # fmt: skip
STALE = "**Measured before the code changed; to be measured again.**"
LABELS = {
    "ssim": "reconstruction SSIM",
    "ssim_gain": "SSIM gained by fine-tuning",
    "edge_iou": "Edge IoU",
    "edge_iou_gain": "Edge IoU gained by fine-tuning",
    "edge_iou_1px": "Edge IoU, 1 px tolerance",
    "lpips": "LPIPS",
    "masked_ce": "masked cross-entropy, held-out (nats)",
    "ce_wrong_minus_true": "cross-entropy, wrong label minus true label (nats)",
    "ce_wrong_minus_true_at_90": "the same with 90 % masked",
    "judge_accuracy_on_real": "independent judge: accuracy on test images",
    "class_agreement_independent": "class agreement of drawn images, independent judge",
    "class_agreement_independent_lowest": "the same for the worst class",
    "class_agreement": "class agreement of drawn images, with the features that selected them",
    "cas_ratio": "CAS ratio: classifier trained on drawn images, over one trained on the training images",
    "gain_at_10": "accuracy on test images that drawn ones add to 10 training images per class",
    "reconstruction_block_ratio": "block ratio of reconstructions (1: the grid of token cells is invisible)",
    "block_ratio": "block ratio of drawn images",
    "block_ratio_highest": "the same for the worst class",
    "block_ratio_insertions": "block ratio of inserted defects, on the grid of their own windows",
    "insertion_realism_auroc": "telling drawn insertions from test defects (AUROC; 0.5: impossible)",
    "copy_paste_realism_auroc": "the same for defects copied from other photographs",
    "procedural_realism_auroc": "the same for painted defects",
    "kid_ratio": "KID of drawn images over the tokenizer's",
    "seam_ratio": "gradient along the seams of insertions, over that in the untouched image",
    "image_auroc": "detector: image AUROC",
    "au_pro": "detector: AU-PRO",
    "paper_score_image_auroc": "the paper's score of the same networks: image AUROC",
    "paper_score_au_pro": "the paper's score: AU-PRO",
    "paper_score_f1_max": "the paper's score: highest F1 of any threshold",
    "memory_bank_image_auroc": "a memory bank without training, same test: image AUROC",
    "memory_bank_au_pro": "a memory bank without training, same test: AU-PRO",
    "detection_rate_drawn": "detector: share of drawn test defects that it finds at its threshold",
    "f1_at_threshold": "detector: F1 at its threshold",
    "false_alarm_rate": "detector: false alarms at its threshold",
    "parity_max_abs_error": "largest difference between exported and trained scores",
    "latency_fp32_ms": "latency per frame of the run's detector, median, FP32 (ms)",
    "latency_fp16_ms": "latency per frame of the run's detector, median, FP16 (ms)",
    "latency_int8_ms": "latency per frame of the run's detector, median, INT8 (ms)",
    # Reading, merging and augmenting
    "total": "images in all",
    "merge_images_per_s": "merging: images per second",
    "merge_peak_rss_mb_at_1x": "merging: peak memory (MiB)",
    "merge_peak_rss_mb_at_4x": "the same with four times the images",
    "augmented": "images after augmentation",
    "augment_images_per_s": "augmenting: images per second",
    "augment_peak_rss_mb": "augmenting: peak memory (MiB)",
    "tokenizer_loader_peak_rss_mb_at_1x": "reading them as the tokenizer's training does: peak memory (MiB)",
    "tokenizer_loader_peak_rss_mb_at_4x": "the same with four times the images",
    "detector_loader_peak_rss_mb_at_1x": "reading them as the detector's training does: peak memory (MiB)",
    "detector_loader_peak_rss_mb_at_4x": "the same with four times the images",
    **{
        f"check_s_per_1000_images_{key}": f"`metaldefect check`, {words}: seconds per 1,000 images"
        for key, words in (
            ("neu_det", "NEU-DET"),
            ("sd_saliency_900", "SD-saliency-900"),
            ("x_sdd", "X-SDD"),
            ("magnetic_tile", "magnetic tiles"),
        )
    },
    "duplicate_pairs": "pairs of near-duplicates",
    "groups": "groups of near-duplicates",
    "group_precision": "precision of the groups",
    "group_recall": "recall of the groups",
    "grouping_s": "finding the groups (s)",
    "groups_across_splits": "groups that lie in several splits",
    "scenes_across_splits": "scenes that lie in several splits",
    # Two classes of magnetic tiles
    "images_per_class": "photographs with masks, per class of defects",
    "good_images": "photographs without a defect",
    "training_images": "training images after augmentation",
    "ssim_before": "reconstruction SSIM before fine-tuning",
    "ssim_after": "reconstruction SSIM after it",
    "lpips_before": "LPIPS before fine-tuning",
    "lpips_after": "LPIPS after it",
    # Methods of insertion
    "f1_images": "images with defects of each method, the same masks in the same places",
    "f1_normals": "F1 of the detector, threshold from good images alone (0.99 quantile)",
    "f1_drawn": "F1, threshold from good images and drawn defects",
    "f1_copy_paste": "F1, threshold from good images and copied defects",
    "f1_procedural": "F1, threshold from good images and painted defects",
    "f1_drawn_minus_copy_paste": "F1: drawn minus copied",
    "f1_drawn_minus_procedural": "F1: drawn minus painted",
    "gain_images": "crops with defects of each method, the same masks in the same places",
    "gain_drawn": "accuracy that drawn crops add to 10 originals per class",
    "gain_copy_paste": "the same for copied ones",
    "gain_procedural": "the same for painted ones",
    "gain_drawn_minus_copy_paste": "gain: drawn minus copied",
    "gain_drawn_minus_procedural": "gain: drawn minus painted",
    "realism_drawn": "telling drawn insertions from test defects (AUROC of the run; 0.5: impossible)",
    "realism_copy_paste": "the same for copied defects",
    "realism_procedural": "the same for painted defects",
    # Edge: one frame at a time on all threads, the model alone, where nothing else is said
    "torch_eager_fp32_p50_ms": "torch, eager FP32: median (ms)",
    "anomalib_eager_fp32_p50_ms": "anomalib, eager FP32: median (ms)",
    "onnxruntime_fp32_p50_ms": "onnxruntime, FP32: median (ms)",
    "anomalib_ir_default_p50_ms": "anomalib's IR, OpenVINO's default precision: median (ms)",
    "fp32_p50_ms": "this IR, FP32: median (ms)",
    "fp16_p50_ms": "this IR, FP16: median (ms)",
    "int8_p50_ms": "this IR, INT8: median (ms)",
    "fp32_whole_path_p50_ms": "PNG file to verdict, FP32: median (ms)",
    "fp16_whole_path_p50_ms": "PNG file to verdict, FP16: median (ms)",
    "int8_whole_path_p50_ms": "PNG file to verdict, INT8: median (ms)",
    "fp32_over_eager_fp32": "speed of FP32 over torch eager",
    "fp16_over_eager_fp32": "speed of FP16 over torch eager FP32",
    "int8_over_eager_fp32": "speed of INT8 over torch eager FP32",
    "int8_over_anomalib_ir": "speed of INT8 over anomalib's IR",
    "fp32_images_per_s": "several frames at once, FP32 (images/s)",
    "fp16_images_per_s": "several frames at once, FP16 (images/s)",
    "int8_images_per_s": "several frames at once, INT8 (images/s)",
    "p99_over_p50_int8": "INT8: 99th percentile of the latency over its median",
    "streams_at_10_fps": "cameras of 10 frames/s that INT8 keeps up with",
    "streams_at_10_fps_1_thread": "the same on one thread",
    "gflop_per_frame": "work per frame (GFLOP)",
    "matmul_share_fp32": "FP32: rate over that of a 2048³ matrix product",
    "matmul_share_fp16": "FP16: the same",
    "matmul_share_int8": "INT8: the same (above 1: its convolutions are faster than a plain product)",
    "cold_start_s": "cold start (s)",
    "cold_start_cached_s": "cold start with cached graphs (s)",
    "inpainting_s": "one inpainting, median (s)",
    "page_inpainting_s": "one inpainting at the page, median (s)",
    "grid_of_nine_s": "nine whole images (s)",
    "requests": "requests",
    "concurrency": "of these at once",
    "swaps": "swaps of the model meanwhile",
    "lost": "requests lost",
    "wrong": "wrong answers",
    "p50_s": "time to an answer under this load, median (s)",
    "memory_mb": "memory (MiB)",
    "memory_growth_mb": "growth of memory from the second to the last quarter (MiB)",
    **{
        f"{method}_{figure}": f"{method}: {words}"
        for method in ("transplant", "procedural", "drawn")
        for figure, words in (
            ("images_per_s", "images per second"),
            ("defects", "defects in as many images"),
            ("changed_beyond_feather", "pixels that changed beyond the feather"),
            ("equal_again", "the same bytes with the same seed (1: yes)"),
        )
    },
    **{
        f"alarms_without_drift_reference_{images}": f"batches without drift that raise an alarm, reference of"
        f" {images} images"
        for images in (25, 100, 400)
    },
    **{
        f"alarms_brightness_shifted_by_{share}_percent_of_its_spread": "batches that raise an alarm,"
        f" brightness shifted by {share} % of its spread"
        for share in (25, 50, 100)
    },
    "train_step_speedup": "training step: times as fast as the plain float32 formulation",
    "loss_difference": "largest relative difference of the losses",
    "inference_images_per_s": "inference: images per second, with torch's convolutions",
    "scoring_images_per_s": "inference: images per second, with the kernels that score a test set",
    "parity_max_error": "largest difference between FP32's and torch's scores",
    "auroc_drop_int8": "image AUROC that INT8 loses against FP32",
    "auroc_drop_int8_worst_type": "the same for the kind of defect that loses most",
    "changed_decisions_int8": "share of images that INT8 decides otherwise",
    "image_auroc_fp32": "image AUROC, FP32",
    "auroc_drop_fp16": "image AUROC that FP16 loses against FP32",
    "auroc_drop_fp16_worst_type": "the same for the kind of defect that loses most",
    "changed_decisions_fp16": "share of images that FP16 decides otherwise",
    "auroc_drop_bf16": "image AUROC that bf16 (this CPU's way to compute FP16) loses against FP32",
    "auroc_drop_bf16_worst_type": "the same for the kind of defect that loses most",
    "changed_decisions_bf16": "share of images that bf16 decides otherwise",
    "f1": "detector: F1 at its threshold",
    "f1_calibrated": "detector: F1 at the threshold that painted defects choose",
    "f1_max": "detector: highest F1 of any threshold",
    "minutes": "minutes of training",
    "seconds": "wall-clock seconds",
    "peak_rss_mb": "peak memory (MiB)",
    "noop_flow_s": "flow of the whole graph that finds nothing to do (s; limit: 15)",
    # Three runs of the pipeline
    "outputs": "outputs of the pipeline without a time in them",
    "outputs_unequal_on_one_machine": "of these, different in a second run on one machine",
    "outputs_unequal_elsewhere": "of these, different on the other machine",
    "numbers": "numbers in the metrics, without latencies",
    "numbers_unequal_on_one_machine": "of these, different in a second run on one machine",
    "figures_beyond_their_interval_elsewhere": "figures that leave their interval on the other machine",
}
LABELS |= {
    f"{name}_difference": f"change on the other machine: {LABELS[name]}" for name in FIGURES if name in LABELS
}


def dag() -> str:
    """DVC's graph of the pipeline as Mermaid."""
    command = [sys.executable, "-m", "dvc", "dag", "--mermaid"]
    graph = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"```mermaid\n{graph.strip()}\n```"


def cell(figure: Figure) -> str:
    """Format a figure as `0.735 (0.731 to 0.739)`, or as the number alone."""
    if isinstance(figure, Interval):
        return f"{formatted(figure.value)} ({formatted(figure.low)} to {formatted(figure.high)})"
    return formatted(figure)


def label(name: str) -> str:
    """A figure's name in words: `short_teacher_f1_seed0` is `short teacher, detector: F1 at ..., seed 0`."""
    found = VARIANT.fullmatch(name)
    assert found is not None
    words = [
        found["teacher"] and f"{found['teacher']} teacher",
        LABELS.get(found["figure"], found["figure"].replace("_", " ")),
        found["seed"] and f"seed {found['seed']}",
    ]
    return ", ".join(word for word in words if word)


def in_order(figures: Mapping[str, Figure]) -> list[tuple[str, Figure]]:
    """Figures in the order of `LABELS`, where one label may speak of the one before; then all others."""
    known = [(name, figures[name]) for name in LABELS if name in figures]
    return known + [(name, figure) for name, figure in figures.items() if name not in LABELS]


def heading(result: Result, stale: bool) -> list[str]:
    """A run's command, machine, commit and date, what its precisions computed in, and how old it is."""
    commit = f"commit `{result.commit[:7]}`"
    if result.confirmed is not None:
        commit += f" (the same figures at `{result.confirmed[:7]}`)"
    run = f"`{result.command}` on {result.machine}, {commit}, {result.date[:10]}."
    note = str(result.details.get("note", ""))
    origin = f"{note[0].upper()}{note[1:]}." if note else None
    words = [run, execution_line(result.details), origin, STALE if stale else None]
    return [" ".join(word for word in words if word), ""]


def rows_of(figures: Mapping[str, Figure]) -> list[str]:
    """A table with one row per figure."""
    rows = [f"| {label(name)} | {cell(figure)} |" for name, figure in in_order(figures)]
    return ["| figure | value (95 % interval) |", "|---|---|", *rows]


def table(result: Result, stale: bool) -> str:
    """A table of one run: its heading, then one row per figure.

    Of a run of the pipeline, and of one with several seeds, the main figures come first; all are folded away.
    """
    figures = result.figures
    main = {name: figure for name, figure in figures.items() if name in MAIN or "ssim" not in figures}
    main = {name: figure for name, figure in main.items() if not SEED.search(name)}
    lines = [*heading(result, stale), *rows_of(main)]
    if len(main) < len(figures):
        lines += ["", "<details><summary>All figures</summary>", "", *rows_of(figures), "", "</details>"]
    return "\n".join(lines)


def pivot_table(name: str) -> Callable[[Result, bool], str]:
    """What writes the table of a result in `PIVOTS`: rows against columns, then what is neither."""

    def write(result: Result, stale: bool) -> str:
        pivot, (cells, others) = PIVOTS[name], pivoted(name, result.figures)
        lines = [*heading(result, stale), f"| {pivot.corner} | {' | '.join(pivot.columns.values())} |"]
        lines.append("|---" * (1 + len(pivot.columns)) + "|")
        for row, words in pivot.rows.items():
            found = [cells.get((row, column)) for column in pivot.columns]
            if any(figure is not None for figure in found):
                texts = ["–" if figure is None else cell(figure) for figure in found]
                lines.append(f"| {words} | {' | '.join(texts)} |")
        if others:
            lines += ["", *rows_of({other: result.figures[other] for other in others})]
        return "\n".join(lines)

    return write


def goals(result: Result, stale: bool) -> str:
    """A table of the edge benchmark's goals: asked, measured, met."""
    return "\n".join([*heading(result, stale), *goals_table(result.figures)])


def speeds(result: Result, stale: bool) -> str:
    """A table of all latencies and rates of the edge benchmark."""
    return "\n".join([*heading(result, stale), *speeds_table(result.details)])


def ablation(result: Result, stale: bool) -> str:
    """The tables of the ablation, a row per variant."""
    about = result.details
    return "\n".join([*heading(result, stale), settings(about), *tables(about["rows"], about)])


# Name of a part -> result and what writes it
OWN_FORM = {
    "edge-goals": ("edge", goals),
    "edge-speeds": ("edge", speeds),
    "ablation-tables": ("ablation", ablation),
    **{f"{name}-run": (name, pivot_table(name)) for name in PIVOTS},
}


def run_table(name: str, write: Callable[[Result, bool], str] = table) -> str:
    """The table of a result file, marked as stale if the measured code has changed since.

    Args:
        name: of the result.
        write: makes the table.
    """
    path = path_of(name)
    if not path.is_file():
        return "Not measured yet."
    result = read(path)
    return write(result, is_stale(result, measured_paths(name)))


def chart(name: str, page: Path) -> str:
    """A benchmark's chart as an image in a page; empty if it draws none."""
    path = CHARTS / f"{name}.png"
    words = CHART_WORDS.get(name, name)
    return f"![{words}]({path.relative_to(page.parent)})\n\n" if path.is_file() else ""


def part(name: str, page: Path) -> str:
    """The content of a generated part of a page.

    Raises:
        UserError: no part has this name.
    """
    if name == "dag":
        return dag()
    if name in OWN_FORM:
        return run_table(*OWN_FORM[name])
    if found := RUN.fullmatch(name):
        return chart(found["result"], page) + run_table(found["result"])
    known = ", ".join(f"`{one}`" for one in ("dag", "<result>-run", *OWN_FORM))
    raise UserError(f"<!-- {name} -->: expected one of {known}")


def rendered(text: str, page: Path = Path("README.md")) -> str:
    """The text of a page with all generated parts regenerated."""
    return PART.sub(lambda m: f"<!-- {m['name']} -->\n{part(m['name'], page)}\n<!-- /{m['name']} -->", text)


def stale_pages(write: bool) -> list[str]:
    """README and docs pages whose generated parts are out of date; `write` updates them."""
    stale = []
    for page in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        fresh = rendered(text, page)
        if fresh != text:
            stale.append(str(page))
            if write:
                page.write_text(fresh, encoding="utf-8")
    return stale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a part is stale")
    args = parser.parse_args()
    with exit_on_user_error(parser.prog):
        stale = stale_pages(write=not args.check)
    if args.check and stale:
        sys.exit(f"stale: {', '.join(stale)}: run python -m benchmarks.readme")


if __name__ == "__main__":
    main()
