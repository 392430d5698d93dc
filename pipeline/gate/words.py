"""The verdict in Markdown, for Prefect's artifacts and for whoever opens the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARKS = {"pass": "pass", "hold": "**HOLD**", "reject": "**REJECT**"}
HEADINGS = {
    "PROMOTE": "PROMOTE: the challenger replaces the champion",
    "HOLD": "HOLD: the champion stays, the challenger is kept",
    "REJECT": "REJECT: the champion stays, the challenger must not serve",
}
ROWS = (
    ("image AUROC", "image_auroc"),
    ("detection rate", "detection_rate"),
    ("good images that pass", "passed_good"),
)


def markdown(content: Mapping[str, Any]) -> str:
    """The whole of `verdict.json` that a person wants to read."""
    new, old = content["challenger"], content["champion"]
    heading = HEADINGS[content["verdict"]]
    if content["verdict"] == "PROMOTE" and old is None:
        heading = "PROMOTE: the first champion"
    lines = [f"# {heading}", "", sentence(content["reason"]), ""]
    if new is not None:
        lines += [*table(new, old), ""]
    lines += ["| check | | numbers |", "|---|---|---|"]
    lines += [f"| {c['name']} | {MARKS[c['outcome']]} | {cell(c['detail'])} |" for c in content["checks"]]
    holdout = content["holdout"]
    size = f"{holdout['images']} images of {holdout['scenes']} scenes, " if "images" in holdout else ""
    lines += [
        "",
        f"Holdout: {size}SHA-256 `{holdout['sha256'][:12]}`. Gate `{content['gate_md5'][:12]}`."
        f" {content['time']}, {content['machine']}.",
        "",
    ]
    return "\n".join(lines)


def table(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Challenger and champion side by side."""
    columns = [("challenger", new), *([("champion", old)] if old is not None else [])]
    lines = [
        "| | " + " | ".join(f"{name} `{one['version']}`" for name, one in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for words, key in ROWS:
        lines.append(f"| {words} | " + " | ".join(f"{one['metrics'][key]:.3f}" for _, one in columns) + " |")
    lines.append("| ms per frame | " + " | ".join(f"{one['latency_ms']:.1f}" for _, one in columns) + " |")
    lines.append("| MiB | " + " | ".join(f"{one['bytes'] / 2**20:.1f}" for _, one in columns) + " |")
    return lines


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def cell(text: str) -> str:
    """Text for one cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
