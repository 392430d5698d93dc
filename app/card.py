"""What the page says about the models: where they come from, and how good they are."""

from __future__ import annotations

from app.studio import Studio
from metaldefect.artifacts import read_json
from metaldefect.synthesis.exemplars import PER_CLASS
from pipeline.params import load_params
from pipeline.report.answer import answer
from pipeline.report.facts import data_hash, is_procedural
from pipeline.report.numbers import Metrics


def model_card(studio: Studio) -> str:
    """Markdown: models and their hashes, data, and what the last run measured."""
    root = studio.root
    maskgit = read_json(root / "models/maskgit/config.json")
    tokenizer = read_json(root / "models/vq/config.json")
    exported = read_json(root / "models/openvino/metadata.json")
    lines = [
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(studio.painter.classes)} |",
        f"| MaskGIT | {maskgit.get('images_seen', 0):,} images seen, SHA-256 `{short(maskgit)}` |",
        f"| tokenizer | {studio.painter.image_size} px, SHA-256 `{short(tokenizer)}` |",
        f"| held by the tokenizer | up to {PER_CLASS} training images per class, which whoever publishes it"
        " publishes too |",
        f"| detector | {exported.get('model', 'EfficientAD')}, {exported['image_size']} px, "
        f"threshold: {exported.get('threshold_source', 'unknown')} |",
        f"| data (DVC's MD5) | `{data_hash(root / 'dvc.lock') or 'unknown'}` |",
    ]
    procedural = is_procedural(load_params(root / "params.yaml"))
    measured = [f"- {line}" for line in answer(Metrics(root), procedural).lines]
    lines += ["", "**Measured in the last run**", "", *measured, "", "All of it: `reports/index.html`."]
    return "\n".join(lines)


def short(config: dict[str, str]) -> str:
    """The beginning of the hash that a model's config holds."""
    return config.get("sha256", "unknown")[:16]
