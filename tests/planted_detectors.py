"""Exported detectors of planted quality, and a prepared dataset that tells them apart.

All are one untrained network, whose score grows with contrast: good images are faint noise, defects are
squares and stripes of strong noise. `good` decides all of them right, `half_blind` has a threshold that
passes every second defect, `worse` scores upside down, `broken` has lost bytes of a graph.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openvino
import openvino.opset13 as opset
import pytest
from PIL import Image

from benchmarks.toy_project import write_prepared
from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import METADATA, Lineage, write_metadata
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import LAYERS, infer
from tests.slim_detector import SIZE, SLIM, noise, slim_model

GOOD_IMAGES, DEFECTS = 16, 8


def metal(key: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, both `uint8 [SIZE, SIZE]`."""
    rng = np.random.default_rng([key, len(kind)])
    image = 128 + rng.normal(0, 6, (SIZE, SIZE))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if kind == "square":
        mask[40:90, 30:80] = 255
    elif kind == "stripe":
        mask[60:84] = 255
    strong = rng.normal(0, 30 + 6 * (key % DEFECTS), (SIZE, SIZE))
    image = np.where(mask > 0, image + strong, image)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_inspection(root: Path) -> Path:
    """A prepared dataset: train, validation and test in the detector's layout."""
    kinds = ("square", "stripe")
    write_prepared(root, kinds, GOOD_IMAGES, DEFECTS, metal, lambda kind, key: f"{kind}{key // 2}")
    return root


def export(folder: Path) -> Path:
    """Export the network."""
    model = slim_model()
    known = [infer(model, frame)[0] for frame in noise(3)]
    config = DetectorConfig("S", True, SIZE, sorted(known)[1], 0.5, "made up")
    folder.mkdir(parents=True)
    export_bundle(InspectionGraph(model, SIZE), config, folder, noise(4), noise(3), known, Lineage(), 8)
    return folder


def upside_down(source: Path, folder: Path) -> Path:
    """A copy of a bundle whose graphs return the score times -1: the more defective, the lower."""
    shutil.copytree(source, folder)
    for path in folder.glob("detector_*.xml"):
        graph = openvino.Core().read_model(source / path.name)
        for result in graph.get_results():
            score = result.input_value(0)
            if "score" in score.get_names():
                names = score.get_names()
                score.set_names(set())
                negated = opset.negative(score)
                negated.output(0).set_names(names)
                result.input(0).replace_source_output(negated.output(0))
        openvino.save_model(graph, path, compress_to_fp16=False)
    content = read_json(folder / METADATA)
    for frame in content["golden"]:
        frame["scores"] = {name: -score for name, score in frame["scores"].items()}
    content.pop("sha256")
    write_metadata(folder, content)
    return folder


def with_threshold(source: Path, folder: Path, threshold: float) -> Path:
    """A copy of a bundle with another threshold in every precision."""
    shutil.copytree(source, folder)
    content = read_json(folder / METADATA)
    for precision in content["precisions"].values():
        precision["threshold"] = threshold
    write_json(folder / METADATA, content)
    return folder


def scores(bundle: Path, inspection: Path, folders: tuple[str, ...]) -> np.ndarray:
    """Scores of a dataset's images, in the order of their names."""
    detector = Detector.load(bundle, "fp32", self_test=False)
    files = [path for name in folders for path in sorted((inspection / "test" / name).glob("*.png"))]
    return np.array([detector.predict(np.asarray(Image.open(path))).score for path in files])


def plant(root: Path) -> dict[str, Path]:
    """Write the dataset (`inspection`) and the bundles; returns their folders by name."""
    inspection = write_inspection(root / "inspection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS, "S", SLIM)
        raw = export(root / "raw")
    good = scores(raw, inspection, ("good",))
    defects = scores(raw, inspection, ("square", "stripe"))
    assert good.max() < defects.min(), "the planted dataset separates"
    between = float(good.max() + defects.min()) / 2
    found = {
        "inspection": inspection,
        "good": with_threshold(raw, root / "good", between),
        "half_blind": with_threshold(raw, root / "half_blind", float(np.median(defects))),
        "worse": with_threshold(upside_down(raw, root / "inverse"), root / "worse", -between),
        "broken": Path(shutil.copytree(root / "good", root / "broken")),
    }
    for graph in found["broken"].glob("detector_*.bin"):
        graph.write_bytes(graph.read_bytes()[:-100])
    return found
