"""Write the generated parts of README.md: the DAG and the results.

`python -m benchmarks.readme` rewrites them; `--check` only compares and fails where they are stale.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaldefect.artifacts import read_json

README = Path("README.md")
RESULTS = Path("benchmarks/results")


def dag() -> str:
    """DVC's own graph as Mermaid."""
    command = [sys.executable, "-m", "dvc", "dag", "--mermaid"]
    graph = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"```mermaid\n{graph.strip()}\n```"


def interval(value: dict[str, float]) -> str:
    """`0.735 (0.731-0.739)`."""
    return f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})"


def gain(vq: dict[str, Any]) -> list[tuple[str, str]]:
    """What fine-tuning changed on the same images, relative and absolute, with its interval."""
    if "gain" not in vq:
        return []
    parts = [(name, vq["gain"][key]) for name, key in (("SSIM", "ssim"), ("Edge IoU", "edge_iou"))]
    text = "; ".join(
        f"{name} {g['relative']:+.1%}, by {g['mean']:+.4f} ({g['low']:+.4f} to {g['high']:+.4f})"
        for name, g in parts
    )
    return [("fine-tuning, image by image", text)]


def headline(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a run's key numbers."""
    vq, git, made = result["finetune_vq"], result["train_maskgit"], result["synthesize"]
    detector, latency = result["train_efficientad"], result["latency"]
    return [
        ("images, near-duplicate groups", f"{result['merge']['total']:,}, {result['merge']['groups']:,}"),
        ("groups that cross a split", str(result["merge"]["groups_across_splits"])),
        *(
            (f"{name}, before", f"{interval(vq['before'][key])}; after {interval(vq['after'][key])}")
            for name, key in (
                ("reconstruction SSIM", "ssim"),
                ("Edge IoU", "edge_iou"),
                ("Edge IoU, 1 px tolerance", "edge_iou_1px"),
            )
        ),
        *gain(vq),
        ("codes used", f"{result['tokenize']['codes']['used']} of {result['tokenize']['codes']['codebook']}"),
        (
            "masked cross-entropy, held-out",
            f"{git['masked_ce']:.2f} nats (class unigram {git['class_unigram']:.2f}; "
            f"wrong label {git['ce_wrong']:.2f})",
        ),
        (
            "class agreement of drawn images",
            f"{made['class_agreement']['mean']:.3f} "
            f"(the classifier on real test images: {made['classifier_accuracy_on_real']:.3f})",
        ),
        *(
            [("the same before the choice among candidates", f"{chosen['mean']:.3f}")]
            if (chosen := made.get("class_agreement_candidates"))
            else []
        ),
        (
            "classifier trained on drawn images alone, on real test images",
            "accuracy "
            + interval(
                dict(zip(("low", "high"), made["cas"]["interval_95"]["accuracy"], strict=True))
                | {"mean": made["cas"]["accuracy"]}
            ),
        ),
        (
            "KID drawn / through the tokenizer / real floor",
            " / ".join(f"{made['kid'][k]:.4f}" for k in ("synthetic", "reconstruction", "real_floor")),
        ),
        (
            "detector: image AUROC, AU-PRO",
            f"{detector['image_auroc']:.3f}, {detector['au_pro']:.3f}",
        ),
        (
            "latency of a frame, median, FP32 / FP16 / INT8",
            " / ".join(f"{latency[p]['p50_ms']:.0f} ms" for p in ("fp32", "fp16", "int8")),
        ),
    ]


def run_table(name: str) -> str:
    """A run's machine, time, memory and key numbers; says so where it has not been measured."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return "Not measured yet."
    result = read_json(path)
    rows = "\n".join(f"| {key} | {value} |" for key, value in headline(result))
    apart = " (its stages were run apart)" if "runs" in result else ""
    return (
        f"`{result['command']}` on {result['machine']}: {result['seconds'] / 60:.1f} minutes{apart}, "
        f"{result['peak_rss_gib']:.1f} GiB at most.\n\n| | |\n|---|---|\n{rows}"
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "dag": dag,
    "default-run": lambda: run_table("default"),
    "real-run": lambda: run_table("real"),
}


def rendered(text: str) -> str:
    """README's text with every generated section made anew."""
    for name, make in SECTIONS.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        start, end = text.index(opening) + len(opening), text.index(closing)
        text = f"{text[:start]}\n{make()}\n{text[end:]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where README.md is stale")
    args = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    fresh = rendered(text)
    if args.check and fresh != text:
        sys.exit("README.md is stale: run python -m benchmarks.readme")
    README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
