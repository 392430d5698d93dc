"""A detector of colour and rectangles behind every door: one rule for grey and colour frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from fastapi.testclient import TestClient
from PIL import Image

from metaldefect.artifacts import read_json
from metaldefect.commands.detect import load_model
from metaldefect.deploy.bundle import ONNX, read_metadata
from metaldefect.deploy.calibration import with_painted_anomalies
from metaldefect.deploy.export import parity
from metaldefect.deploy.golden import draw_golden_frames, read_golden_frames
from metaldefect.deploy.graph import INPUT, InspectionGraph, resize_levels
from metaldefect.deploy.live import LiveDetector
from metaldefect.deploy.prediction_log import PredictionLog
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.deploy.service import Service, ServiceSettings
from metaldefect.deploy.service_routes import create_app
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.image_files import Levels, read_pixels
from metaldefect.images import as_channels
from tests.slim_detector import SIZE

RECTANGLE = (128, 160)


def colours(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours: neighbouring pixels are alike, as in photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def detector(coloured: Path) -> Detector:
    return Detector.load(coloured, "fp32")


def test_the_bundle_says_what_the_detector_sees(coloured: Path, exported: Path) -> None:
    content = read_json(coloured / "metadata.json")
    assert content["image_size"] == [128, 160]
    assert content["outputs"]["anomaly_map"] == "f32 [1, 1, 128, 160]"
    assert (content["input"]["channels"], content["input"]["seen"]) == ([1, 3], 3)
    assert read_json(exported / "metadata.json")["input"]["seen"] == 1


def test_golden_frames_test_colour_and_the_rectangle(coloured: Path, detector: Detector) -> None:
    metadata = read_metadata(coloured)
    frames = read_golden_frames(coloured, metadata)
    shapes = {
        real: {
            frame.shape
            for item, frame in zip(metadata.golden, frames, strict=True)
            if item.file.endswith("_real.png") == real
        }
        for real in (False, True)
    }
    assert shapes[False] == {(128, 160, 1), (128, 240, 1), (96, 160, 1), (256, 200, 3)}
    # Noise is a golden frame only where its score is clear of the threshold, which depends on the CPU
    assert shapes[True] <= {(*RECTANGLE, 3)}
    scores = [detector.predict(frame).score for frame in frames]
    assert scores == pytest.approx([item.scores["fp32"] for item in metadata.golden], rel=1e-3)


def test_the_graph_resizes_colours_as_pillow_does() -> None:
    image = colours(90, 200)
    found = resize_levels(torch.from_numpy(image.copy()).float().permute(2, 0, 1), RECTANGLE)
    expected = np.asarray(Image.fromarray(image).resize((160, 128), Image.Resampling.BILINEAR))
    difference = np.abs(found.permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03, "only exact halves may be rounded otherwise"


def test_onnx_and_fp32_compute_what_torch_computes(model: EfficientAD, coloured: Path) -> None:
    graph = InspectionGraph(model, RECTANGLE, channels=3)
    errors = parity(graph, coloured, [colours(70, 300), colours(128, 160), colours(99, 80)[..., 0]])
    assert 0 <= errors["max_abs_error"] < 1e-4


def test_training_and_runtime_score_a_colour_image_alike(model: EfficientAD, detector: Detector) -> None:
    image = colours(*RECTANGLE)
    score, anomaly_map = infer(model, image)
    found = detector.predict(image)
    assert found.score == pytest.approx(score, abs=1e-4)
    np.testing.assert_allclose(found.anomaly_map, anomaly_map, atol=1e-4)


def test_a_grey_frame_is_repeated_for_a_colour_detector(detector: Detector) -> None:
    grey = np.asarray(Image.fromarray(colours(140, 150)).convert("L"))
    assert detector.channels == 3
    expected = detector.predict(grey[..., None].repeat(3, axis=2)).score
    assert detector.predict(grey).score == pytest.approx(expected, abs=1e-6)
    assert detector.predict(colours(140, 150)).score != pytest.approx(expected, abs=1e-3)


def test_a_colour_frame_is_grey_by_rec_601_for_a_grey_detector(exported: Path) -> None:
    detector = Detector.load(exported, "fp32", self_test=False)
    image = colours(140, 150)
    assert detector.channels == 1
    expected = detector.predict(np.asarray(Image.fromarray(image).convert("L"))).score
    assert detector.predict(image).score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("which", ["exported", "coloured"])
def test_every_door_reads_colour_and_grey_files_alike(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    detector, command = Detector.load(folder, "fp32"), load_model(folder, "fp32")
    service = Service(LiveDetector(lambda: detector), ServiceSettings(), PredictionLog(tmp_path / "log"))
    image = colours(150, 140)
    with TestClient(create_app(service)) as client:
        for name, pixels in (("colour", image), ("grey", image[..., 0])):
            path = tmp_path / f"{name}.png"
            Image.fromarray(pixels).save(path)
            expected = detector.predict(pixels)
            assert command.score(command.read(path))[0] == pytest.approx(expected.score, abs=1e-5)
            answer = client.post("/predict?overlay=true", content=path.read_bytes())
            assert answer.status_code == 200, answer.text
            assert answer.json()["score"] == pytest.approx(expected.score, abs=1e-5)


def test_tiles_have_the_detectors_shape(detector: Detector) -> None:
    image = colours(200, 400)
    found = detector.predict_tiles(image, 32)
    assert found.anomaly_map.shape == (200, 400)
    corners = [(0, 0), (0, 120), (0, 240), (72, 0), (72, 120), (72, 240)]
    parts = [detector.predict(image[top : top + 128, left : left + 160]).score for top, left in corners]
    assert found.score == pytest.approx(max(parts), abs=1e-5)


def test_16_bit_colour_is_read_by_file_and_graph_alike(model: EfficientAD, tmp_path: Path) -> None:
    levels = Levels(0, 4095, clip=False)
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 50, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", pixels, photometric="rgb")
    graph = InspectionGraph(model, RECTANGLE, levels, channels=3)
    expected = read_pixels(tmp_path / "deep.tif", colour=True, levels=levels)
    found = graph.colours(torch.from_numpy(pixels[None])).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected)
    grey = InspectionGraph(model, SIZE, levels).grey(torch.from_numpy(pixels[None]))[0].numpy()
    np.testing.assert_array_equal(grey, read_pixels(tmp_path / "deep.tif", levels=levels))


def test_a_16_bit_detectors_golden_frames_hold_colour_unless_its_levels_are_too_few() -> None:
    frames = draw_golden_frames(RECTANGLE, Levels(0, 4095, clip=False), 4)
    assert [(frame.shape[2], frame.dtype) for frame in frames] == [(1, np.uint16)] * 3 + [(3, np.uint8)]
    few = draw_golden_frames(RECTANGLE, Levels(0, 100, clip=True), 4)
    assert {(frame.shape[2], str(frame.dtype)) for frame in few} == {(1, "uint16")}


def test_the_onnx_file_takes_any_frame(coloured: Path) -> None:
    session = onnxruntime.InferenceSession(coloured / ONNX, providers=["CPUExecutionProvider"])
    for frame in (colours(60, 70), colours(60, 70)[..., :1]):
        assert session.run(["anomaly_map"], {INPUT: frame[None]})[0].shape == (1, 1, *RECTANGLE)


def test_int8_ranges_see_anomalies_on_colour_rectangles() -> None:
    copper = np.full((4, *RECTANGLE, 3), (150, 100, 70), np.uint8)
    painted = with_painted_anomalies(copper, 0)
    changed = (painted != copper).any(axis=(1, 2, 3))
    assert changed.tolist() == [True, False, False, False]
    assert (painted[0] != copper[0])[:, :16].sum() == 0, "painted into the square in the middle"


def test_an_overlay_keeps_the_photographs_colours() -> None:
    image = colours(20, 30)
    anomaly_map = np.zeros((20, 30), np.float32)
    np.testing.assert_array_equal(overlay(image, anomaly_map, 0.5), image)
    np.testing.assert_array_equal(
        overlay(image[..., 0], anomaly_map, 0.5), as_channels(image[..., 0].copy(), 3)
    )
