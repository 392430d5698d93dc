"""One name for one thing: no two classes share theirs, with a few exceptions that are listed."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("metaldefect", "pipeline", "stages", "flows", "app", "benchmarks")

# Classes of one name in several modules, and what they are there. Rename one before you add a line.
ALLOWED = {
    "Annotation",  # of a COCO and of a VOC file
    "Batch",  # of a training step, and of frames in an answer of the service, whose schema names it
    "Canvas",  # an image of the inspection line to insert into, and a file to do so with
    "DrawnImages",  # batches for a tokenizer's base weights, and images with their classes
    "Metrics",  # of the service, and a run's for the report
    "Photograph",  # to insert into, and what the demo's page sent
    "Reconstruction",  # of one batch in training, and of a test set with its scores
    "Scored",  # a test image, and an exported graph's scores
    "Verdict",  # of the service or the demo on a frame, and of the gate on a detector
}


def declared() -> dict[str, list[str]]:
    """The files that declare a class of each name at the top."""
    found = defaultdict(list)
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(file.relative_to(ROOT).as_posix())
    return dict(found)


def test_no_two_classes_have_one_name() -> None:
    twice = {name: files for name, files in declared().items() if len(files) > 1}
    assert {name: files for name, files in twice.items() if name not in ALLOWED} == {}
    assert set(twice) >= ALLOWED, "no longer declared twice: shorten the list"
