"""`python -m benchmarks.agreement`: do all runtimes give a bundle's golden frames the same scores?

Scores the golden frames of an exported detector in every precision with this project's Python runtime, the
C++ program (`--cpp build/detect`), OpenVINO Model API, and anomalib's `OpenVINOInferencer` (in this
environment, or in that of `--anomalib-python`). What is not there is left out. Writes
`benchmarks/results/agreement.json`: the largest difference to Python's scores, and how many decisions differ.
Exits with 1 if a decision differs, or a score by more than the bundle's tolerance.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino

from benchmarks.results import add_results_argument, publish
from metaldefect.deploy.bundle import GOLDEN, PRECISIONS, Tolerance, graph_file
from metaldefect.deploy.for_anomalib import write_for_anomalib
from metaldefect.deploy.frames import as_frame
from metaldefect.deploy.runtime import Detector
from metaldefect.errors import exit_on_user_error
from metaldefect.images import read_rgb, write_png

SCORES = Path(__file__).parent / "in_anomalib/scores.py"


class Answers(NamedTuple):
    """Scores and decisions of all golden frames."""

    scores: Sequence[float]
    anomalous: Sequence[bool]


def execution(precision: str) -> dict[str, str]:
    """OpenVINO's setting: FP32 computes in float32, the others in the machine's default."""
    return {"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {}


def by_python(detector: Detector, files: Sequence[Path]) -> Answers:
    """This project's runtime."""
    found = [detector.predict(read_rgb(file, levels=detector.levels)) for file in files]
    return Answers([one.score for one in found], [one.is_anomalous for one in found])


def by_cpp(program: Path, bundle: Path, precision: str, files: Sequence[Path]) -> Answers:
    """The C++ program."""
    command = [str(program), str(bundle), "--precision", precision, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{program} failed: {done.stderr}")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    return Answers([float(row["score"]) for row in rows], [row["is_anomalous"] == "True" for row in rows])


def by_model_api(bundle: Path, precision: str, detector: Detector, files: Sequence[Path]) -> Answers:
    """OpenVINO Model API, whose score is clipped: as far as it is not, in the detector's units.

    It hands pixels to the graph as they are, so a detector of 16-bit frames gets its images spread over its
    levels.
    """
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    path = str(bundle / graph_file(precision))
    core = openvino.Core()
    other = Model.create_model(OpenvinoAdapter(core, path, device="CPU", plugin_config=execution(precision)))
    images = [read_rgb(file, levels=detector.levels) for file in files]
    found = [other(as_frame(image, detector.metadata.input)) for image in images]
    anomalous = [one.pred_label == "Anomalous" for one in found]
    # It says the probability of the label that it names, 0.5 at the threshold and 1 at twice it
    shares = [
        one.pred_score if bad else 1 - one.pred_score for one, bad in zip(found, anomalous, strict=True)
    ]
    return Answers([2 * detector.threshold * share for share in shares], anomalous)


def by_anomalib(
    python: str, bundle: Path, precision: str, detector: Detector, files: Sequence[Path]
) -> Answers:
    """anomalib's inferencer, on the copy that `metaldefect anomalib` writes.

    It makes levels above 255 of a 16-bit file white, so it gets 8-bit copies, by the detector's levels.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = write_for_anomalib(bundle, precision, Path(folder) / "copy")
        hint = execution(precision).get("INFERENCE_PRECISION_HINT", "default")
        copies = [Path(folder) / "frames" / file.name for file in files]
        for copy, file in zip(copies, files, strict=True):
            write_png(copy, read_rgb(file, levels=detector.levels))
        command = [python, str(SCORES), str(graph), hint, *map(str, copies)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} {SCORES.name} failed:\n{done.stderr}")
    scores, anomalous = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
    return Answers(scores, anomalous)


class AnswerDifference(NamedTuple):
    """How far the scores and decisions of two runtimes are apart.

    Attributes:
        largest: difference of two scores.
        changed: decisions that differ.
        beyond: scores that differ by more than the tolerance.
    """

    largest: float
    changed: int
    beyond: int

    def in_words(self, runtime: str) -> list[str]:
        """What a runtime gets wrong, in words; empty where it agrees."""
        words = []
        if self.changed:
            words.append(f"{runtime} decides {self.changed} golden frames otherwise")
        if self.beyond:
            words.append(f"{runtime} scores {self.beyond} golden frames off by up to {self.largest:.3g}")
        return words


def compare(
    ours: Answers, theirs: Answers, tolerance: Tolerance, limits: tuple[float, float] = (-np.inf, np.inf)
) -> AnswerDifference:
    """Compare another runtime's answers with this project's.

    Args:
        ours: the reference.
        theirs: of the same frames.
        tolerance: by which scores may differ.
        limits: beyond them, scores count as equal.
    """
    pairs = list(zip(np.clip(ours.scores, *limits), np.clip(theirs.scores, *limits), strict=True))
    changed = sum(one != other for one, other in zip(ours.anomalous, theirs.anomalous, strict=True))
    beyond = sum(not tolerance.allows(other, one) for one, other in pairs)
    return AnswerDifference(float(max(abs(one - other) for one, other in pairs)), changed, beyond)


def measure(bundle: Path, cpp: Path | None, python: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and details for every runtime that is there."""
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {"execution": {}, "scores": {}, "disagreements": []}
    for precision in PRECISIONS:
        detector = Detector.load(bundle, precision)
        files = [bundle / GOLDEN / frame.file for frame in detector.metadata.golden]
        ours = by_python(detector, files)
        details["execution"][precision] = detector.graph.execution
        details["scores"][precision] = [round(score, 6) for score in ours.scores]
        compared: dict[str, AnswerDifference] = {}
        tolerance = detector.metadata.precisions[precision].tolerance
        if cpp is not None:
            compared["cpp"] = compare(ours, by_cpp(cpp, bundle, precision, files), tolerance)
        if importlib.util.find_spec("model_api") is not None:
            shown = (0.0, 2 * detector.threshold)  # beyond, Model API clips
            theirs = by_model_api(bundle, precision, detector, files)
            compared["model_api"] = compare(ours, theirs, tolerance, shown)
        if python is not None:
            theirs = by_anomalib(python, bundle, precision, detector, files)
            compared["anomalib"] = compare(ours, theirs, tolerance)
        for name, difference in compared.items():
            figures[f"{name}_{precision}_max_error"] = difference.largest
            figures[f"{name}_{precision}_changed_decisions"] = difference.changed
            details["disagreements"] += difference.in_words(f"{name} in {precision}")
    return {"golden_frames": len(files), **dict(sorted(figures.items()))}, details


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/openvino"))
    parser.add_argument("--cpp", type=Path, help="the built C++ program")
    parser.add_argument(
        "--anomalib-python",
        default=sys.executable if importlib.util.find_spec("anomalib") else None,
        metavar="PYTHON",
    )
    add_results_argument(parser, "agreement")
    arguments = parser.parse_args()
    figures, details = measure(arguments.bundle, arguments.cpp, arguments.anomalib_python)
    publish(arguments.results, "agreement", figures, details)
    if found := details["disagreements"]:
        sys.exit(f"benchmarks.agreement: {'; '.join(found)}")


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.agreement"):
        main()
