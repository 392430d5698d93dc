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
from benchmarks.figure_labels import LABELS
from benchmarks.pivots import PIVOTS, pivoted
from benchmarks.results import Figure, Interval, Result, is_stale, measured_paths, path_of, read
from metaldefect.errors import UserError, exit_on_user_error
from pipeline.main_metrics import formatted

CHARTS = Path("docs/images")
CHART_WORDS = {  # for those who do not see the picture
    "edge": "Milliseconds per frame of torch, anomalib's export, onnxruntime and this project's graphs",
    "tiles": "Image AUROC on magnetic tiles, 128 px, against training steps, and a memory bank's",
    "tile_classes": "Tiles with blowholes and breaks: training photographs, drawn images, visible insertions",
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
