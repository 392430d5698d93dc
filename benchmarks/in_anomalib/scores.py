"""Scores of images by anomalib's `OpenVINOInferencer`. Prints one line of JSON: a [score, label] per image.

A program of its own, because anomalib's pins may differ from this project's: run it with the Python of any
environment that has anomalib and openvino. It imports nothing of this project.

    python benchmarks/in_anomalib/scores.py copy/model.xml f32 golden/*.png
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Score and print."""
    from anomalib.deploy import OpenVINOInferencer

    graph, precision, *images = sys.argv[1:]
    paths = [Path(image).resolve() for image in images]
    config = {} if precision == "default" else {"INFERENCE_PRECISION_HINT": precision}
    inferencer = OpenVINOInferencer(Path(graph).resolve(), device="CPU", config=config)
    found = [inferencer.predict(path) for path in paths]
    print(json.dumps([[one.pred_score.item(), bool(one.pred_label.item())] for one in found]))


if __name__ == "__main__":
    sys.argv[1] = str(Path(sys.argv[1]).resolve())
    sys.argv[3:] = [str(Path(image).resolve()) for image in sys.argv[3:]]
    with tempfile.TemporaryDirectory() as folder:  # the inferencer leaves its cache where it runs
        os.chdir(folder)
        main()
