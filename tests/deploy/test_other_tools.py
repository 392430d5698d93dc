"""Other people's runtimes load the exported graphs and give the same scores."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from benchmarks.agreement import by_anomalib, by_model_api, by_python, compare
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.for_anomalib import with_input, write_for_anomalib
from metaldefect.deploy.frames import as_frame
from metaldefect.deploy.graph import INPUT
from metaldefect.deploy.runtime import Detector
from metaldefect.errors import UserError
from metaldefect.image_files import Levels


def photographs() -> list[np.ndarray]:
    """Colour images on both sides of the threshold, `uint8 [150, 170, 3]`."""
    return [
        np.random.default_rng(seed).integers(0, 60 + 60 * seed, (150, 170, 3), dtype=np.uint8)
        for seed in range(4)
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_model_api_gives_the_same_scores_and_decisions(exported: Path, precision: str) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    adapter = OpenvinoAdapter(
        openvino.Core(),
        str(exported / f"detector_{precision}.xml"),
        device="CPU",
        plugin_config={"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {},
    )
    other = Model.create_model(adapter)
    detector = Detector.load(exported, precision, self_test=False)
    labels = set()
    for image in photographs():
        ours, theirs = detector.predict(image), other(image)
        labels.add(theirs.pred_label)
        assert theirs.pred_label == ("Anomalous" if ours.is_anomalous else "Normal")
        normalised = np.clip(0.5 + (ours.score - detector.threshold) / (2 * detector.threshold), 0, 1)
        # Model API gives the probability of the label that it names
        expected = normalised if ours.is_anomalous else 1 - normalised
        assert theirs.pred_score == pytest.approx(float(expected), abs=1e-4)
        assert theirs.anomaly_map.shape == (150, 170)
    assert len(labels) == 2, "the images must test both decisions"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_anomalibs_inferencer_gives_the_same_scores_and_decisions(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    pytest.importorskip("anomalib", reason="anomalib is not installed")
    from anomalib.deploy import OpenVINOInferencer

    monkeypatch.chdir(tmp_path)  # it leaves its cache where it runs
    path = write_for_anomalib(exported, precision, tmp_path / "copy")
    config = {"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {}
    other = OpenVINOInferencer(path, device="CPU", config=config)
    detector = Detector.load(exported, precision, self_test=False)
    tolerance = detector.metadata.precisions[precision].tolerance  # 1e-4 where float32 computes
    for image in photographs():
        ours, theirs = detector.predict(image), other.predict(image)
        assert tolerance.allows(theirs.pred_score.item(), ours.score)
        assert bool(theirs.pred_label.item()) == ours.is_anomalous


def test_the_agreement_of_a_16_bit_detector_is_measured_on_what_each_tool_takes(deep: Path) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    pytest.importorskip("anomalib", reason="anomalib is not installed")
    detector = Detector.load(deep, "fp32")
    files = [deep / "golden" / frame.file for frame in detector.metadata.golden]
    ours = by_python(detector, files)
    assert set(ours.anomalous) == {True, False}, "the frames must test both decisions"
    shown = (0.0, 2 * detector.threshold)  # beyond, Model API clips
    tolerance = detector.metadata.precisions["fp32"].tolerance
    found = compare(ours, by_model_api(deep, "fp32", detector, files), tolerance, shown)
    assert found == (pytest.approx(0, abs=1e-4), 0, 0)
    found = compare(ours, by_anomalib(sys.executable, deep, "fp32", detector, files), tolerance)
    assert found == (pytest.approx(0, abs=1e-4), 0, 0)


def test_model_api_gives_a_16_bit_detector_the_pixels_that_it_gets(deep: Path) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    path = str(deep / "detector_fp32.xml")
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    other = Model.create_model(OpenvinoAdapter(openvino.Core(), path, device="CPU", plugin_config=config))
    detector = Detector.load(deep, "fp32", self_test=False)
    labels = set()
    for image in photographs():
        ours, theirs = detector.predict(image), other(as_frame(image, detector.metadata.input))
        assert theirs.pred_label == ("Anomalous" if ours.is_anomalous else "Normal")
        labels.add(theirs.pred_label)
        # docs/edge.md says that it does not spread 8-bit images: to the graph, this one is below black
        unspread = other(image)
        black = detector.predict(np.zeros_like(image))
        assert unspread.pred_label == ("Anomalous" if black.is_anomalous else "Normal")
    assert len(labels) == 2, "the images must test both decisions"


def as_anomalib_feeds(image: np.ndarray) -> np.ndarray:
    """What anomalib 2.7's inferencer makes of an image: divided by 255, channels first."""
    return (image.astype(np.float32) / 255.0)[None].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_copy_for_anomalib_takes_what_anomalib_feeds(
    exported: Path, tmp_path: Path, precision: str
) -> None:
    path = write_for_anomalib(exported, precision, tmp_path / "copy")
    assert {file.name for file in path.parent.iterdir()} == {"model.xml", "model.bin"}
    options = {"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    assert len(compiled.inputs) == 1
    detector = Detector.load(exported, precision, self_test=False)
    stated = detector.metadata.precisions[precision].tolerance
    rough = 0.0 if precision == "fp32" else 0.1
    verdicts = set()
    for image in photographs():
        found = compiled(as_anomalib_feeds(image))
        score, anomaly_map = detector.detect(image)
        assert stated.allows(float(found["pred_score"][0]), score)
        # INT8 rounds a pixel otherwise here and there, and bfloat16 all of them
        np.testing.assert_allclose(found["anomaly_map"][0, 0], anomaly_map, atol=stated.absolute, rtol=rough)
        assert bool(found["pred_label"][0]) == (score > detector.threshold)
        verdicts.add(bool(found["pred_label"][0]))
    assert len(verdicts) == 2, "the images must test both decisions"


def test_the_copy_of_a_16_bit_detector_spreads_8_bits_over_its_levels() -> None:
    frame = opset13.parameter([1, -1, -1, -1], np.uint16, name=INPUT)
    frame.output(0).get_tensor().set_names({INPUT})
    levels = openvino.Model([opset13.result(opset13.convert(frame, "f32"))], [frame], "levels")
    image = np.array([[[[0, 1, 128], [254, 255, 7]]]], np.uint8)  # [1, 1, 2, 3]
    fed = as_anomalib_feeds(image[0])
    found = openvino.Core().compile_model(with_input(levels, Levels(256, 4351, clip=False)), "CPU")(fed)[0]
    # 4095 levels above 256 in 255 steps, rounded: 16.06 levels per step
    assert found.astype(int).tolist() == [[[[256, 272, 2312], [4335, 4351, 368]]]]


def test_no_copy_of_a_broken_bundle_or_into_a_folder_that_exists(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exists: name a new folder"):
        write_for_anomalib(bundle, "fp32", tmp_path)
    (bundle / "detector_fp32.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"detector_fp32\.bin has SHA-256"):
        write_for_anomalib(bundle, "fp32", tmp_path / "copy")
