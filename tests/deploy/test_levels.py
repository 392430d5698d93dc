"""Detectors of images whose levels 16-bit frames do not hold: float, 32-bit, and narrow windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import Lineage, fit_frames
from metaldefect.deploy.export import export_bundle, parity
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import Levels
from tests.slim_detector import SIZE, noise


@pytest.mark.parametrize(
    ("low", "high", "fit"),
    [
        (0, 4095, True),
        (0, 65535, True),
        (1000, 1255, True),
        (0, 65536, False),
        (0, 100_000, False),
        (-1, 4095, False),
        (1000, 1254, False),
        (0, 1, False),
    ],
)
def test_16_bit_frames_hold_levels_from_0_to_65535_that_tell_256_greys_apart(
    low: float, high: float, fit: bool
) -> None:
    assert fit_frames(Levels(low, high, clip=True)) is fit


@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        (Levels(0.0, 1.0, clip=True), np.float32),
        (Levels(0.0, 100_000.0, clip=True), np.int32),
        (Levels(1000.0, 1100.0, clip=True), np.uint16),
    ],
    ids=["float", "32 bits", "narrow"],
)
def test_a_file_scores_what_the_trained_networks_score(
    model: EfficientAD, tmp_path: Path, levels: Levels, kind: type
) -> None:
    frames, bundle, path = noise(4), tmp_path / "bundle", tmp_path / "plate.tif"
    known = [infer(model, frame)[0] for frame in frames[:3]]
    config = DetectorConfig("S", True, SIZE, sorted(known)[1], 0.5, "made up", levels=levels)
    graph = InspectionGraph(model, SIZE, levels)
    bundle.mkdir()
    described = export_bundle(graph, config, bundle, frames, frames[:3], known, Lineage(), 8)
    assert (described.input.type, described.input.levels) == ("u8", levels)
    assert parity(graph, bundle, list(frames[:2]))["max_abs_error"] < 1e-4
    detector = Detector.load(bundle, "fp32")
    pixels = (levels.low + frames[0] / 255.0 * (levels.high - levels.low)).astype(kind)
    tifffile.imwrite(path, pixels)
    image = detector.read(path)
    np.testing.assert_array_equal(image, levels.apply(pixels))
    assert detector.predict(image).score == pytest.approx(infer(model, image)[0], abs=1e-4)
    assert infer(model, image)[0] == pytest.approx(known[0], rel=0.2), "the file shows the frame"
    with pytest.raises(RejectedFileError, match="its levels are applied when a file is read"):
        detector.predict(pixels)


def test_an_older_bundle_whose_frames_cannot_hold_its_levels_is_refused(bundle: Path) -> None:
    content = read_json(bundle / "metadata.json")
    content["input"] |= {"type": "u16", "levels": {"low": 0.0, "high": 100_000.0, "clip": True}}
    write_json(bundle / "metadata.json", content)
    with pytest.raises(UserError, match="16-bit frames do not hold levels 0 to 100000: export again"):
        Detector.load(bundle, "fp32")
