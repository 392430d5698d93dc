"""What a calibration chooses: map scales and threshold from normals, map weights from inserted defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad.calibration import FEWEST_IMAGES, Calibration, CalibrationImages
from metaldefect.efficientad.calibration import calibrate as calibrate_images
from metaldefect.efficientad.model_files import (
    CONFIG,
    TRAINED,
    NetworkConfig,
    calibrated,
    load_detector,
    load_networks,
    read_papers_score,
    read_scores,
    save_detector,
)
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.errors import UserError
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, U8

SIDE = 128


class MapsInTheImage(EfficientAD):
    """The top half of an image is its student-teacher map, the bottom half its autoencoder map."""

    def image_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level = images[:, :1] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        top, bottom = level[:, :, : SIDE // 2], level[:, :, SIDE // 2 :]
        return top, bottom


def images(count: int, top: int, bottom: int, seed: int) -> U8:
    """Noise of 0 to 100 with one bright square in each half."""
    made = np.random.default_rng(seed).integers(0, 100, (count, SIDE, SIDE)).astype(np.uint8)
    if top:
        made[:, 20:30, 20:30] = top
    if bottom:
        made[:, 90:100, 20:30] = bottom
    return made


def calibrate(model: EfficientAD, normals: U8, defects: U8, quantile: float) -> Calibration:
    scenes = [[f"{kind}{k}" for k in range(len(group))] for kind, group in (("n", normals), ("d", defects))]
    found = CalibrationImages(normals, scenes[0], defects, scenes[1])
    return calibrate_images(model, found, Target(false_alarms=1 - quantile))


@pytest.fixture
def model() -> EfficientAD:
    return MapsInTheImage("S").eval()


@pytest.mark.parametrize(("top", "bottom", "share"), [(120, 0, 1.0), (0, 120, 0.0)])
def test_the_map_that_shows_the_inserted_defects_gets_the_weight(
    model: EfficientAD, top: int, bottom: int, share: float
) -> None:
    normals = images(12, 0, 0, 1)
    # One pixel of the other map, too few to move its scale, drowns the defects wherever it has a share.
    normals[:, 90 if top else 20, 60] = 255
    found = calibrate(model, normals, images(12, top, bottom, 2), 0.9)
    assert found.student_share == share
    assert model.map_weights.tolist() == [share, 1 - share]
    record = found.record["map_weights"]
    assert (record["normals"], record["defects"]) == (12, 12)
    aurocs = record["image_auroc_by_student_share"]
    assert list(aurocs) == ["0", "0.25", "0.5", "0.75", "1"]
    assert aurocs[f"{share:g}"] == max(aurocs.values()) == 1.0


def test_defects_that_both_maps_show_leave_the_papers_weights(model: EfficientAD) -> None:
    found = calibrate(model, images(12, 0, 0, 1), images(12, 250, 250, 2), 0.9)
    assert found.student_share == 0.5


@pytest.mark.parametrize(("normals", "defects"), [(12, 0), (12, FEWEST_IMAGES - 1), (FEWEST_IMAGES - 1, 12)])
def test_too_few_images_leave_the_papers_weights_and_the_record_says_so(
    model: EfficientAD, normals: int, defects: int
) -> None:
    model.map_weights.copy_(torch.tensor([1.0, 0.0]))
    found = calibrate(model, images(normals, 0, 0, 1), images(defects, 200, 0, 2), 0.9)
    assert model.map_weights.tolist() == [0.5, 0.5]
    assert found.record["map_weights"] == {
        "student": 0.5,
        "autoencoder": 0.5,
        "method": f"the paper's 0.5 and 0.5: {defects} inserted defects and {normals} normals,"
        " at least 10 of each are needed to choose by",
        "normals": normals,
        "defects": defects,
    }


def test_the_threshold_is_the_quantile_of_the_normals_scores_under_the_chosen_weights(
    model: EfficientAD,
) -> None:
    normals = images(11, 0, 0, 1)
    normals[:, 90, 60] = 255
    without = calibrate(model, normals, images(0, 0, 0, 2), 0.5)
    found = calibrate(model, normals, images(12, 120, 0, 2), 0.5)
    assert found.student_share == 1.0
    scores = [infer(model, image)[0] for image in normals]
    assert found.threshold == pytest.approx(sorted(scores)[5]), "of 11 + 1, half should lie above"
    assert found.threshold != pytest.approx(without.threshold)
    record = found.record["threshold"]
    assert record["method"] == "the score that 50 % of new good images should exceed"
    assert (record["normals"], record["scenes"], record["defects"]) == (11, 11, 12)
    assert record["inserted_defects_found"] == 1.0
    assert found.scores.normals == pytest.approx(scores)


def test_defects_never_move_the_scales(model: EfficientAD) -> None:
    calibrate(model, images(12, 0, 0, 1), images(0, 0, 0, 2), 0.9)
    scales = model.quantiles.clone()
    calibrate(model, images(12, 0, 0, 1), images(12, 255, 255, 2), 0.9)
    assert torch.equal(model.quantiles, scales)


def test_normals_of_the_defects_own_scenes_do_not_choose_the_weights(model: EfficientAD) -> None:
    """The canvases' clean images would make the student-teacher map look perfect."""
    normals = images(24, 0, 0, 1)
    normals[:12, 20:30, 60:70] = 250
    scenes = [f"other{k}" for k in range(12)] + [f"canvas{k}" for k in range(12)]
    found = CalibrationImages(normals, scenes, images(12, 200, 220, 2), [f"canvas{k}" for k in range(12)])
    chosen = calibrate_images(model, found, Target(false_alarms=0.5))
    assert chosen.record["map_weights"]["normals"] == 12
    assert chosen.record["map_weights"]["method"].endswith("against normals of other scenes")
    assert chosen.student_share < 1.0
    assert chosen.record["threshold"]["normals"] == 24, "the threshold rests on all of them"


def test_a_calibration_without_normals_is_refused(model: EfficientAD) -> None:
    with pytest.raises(UserError, match="no validation normals"):
        calibrate(model, images(0, 0, 0, 1), images(12, 200, 0, 2), 0.9)


def test_networks_become_a_detector_on_disk(model: EfficientAD, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("networks", "detector")]
    for folder in folders:
        folder.mkdir()
    torch.manual_seed(0)
    save_detector(folders[0], EfficientAD("S"), NetworkConfig("S", True, SIDE), {"steps": 3})
    with pytest.raises(UserError, match="nothing about 'threshold': it is not a calibrated detector's"):
        load_detector(folders[0])
    networks, config, training = load_networks(folders[0])
    assert training == {"steps": 3}
    noise = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE), dtype=np.uint8)
    found = calibrate(networks, noise, 255 - noise, 0.9)
    save_detector(folders[1], networks, calibrated(config, found), training, found)
    content = read_json(folders[1] / CONFIG)
    share = found.student_share
    assert content["map_weights"] == {"student": share, "autoencoder": 1 - share}
    assert content["calibration"] == found.record
    assert "12 independent good images support a rate of 10 %" in content["threshold_source"]
    assert read_scores(folders[1]) == {TRAINED: found.scores}
    assert read_papers_score(folders[1]) == found.papers
    with pytest.raises(UserError, match="says nothing about 'paper_score': an earlier version made this"):
        read_papers_score(folders[0])
    loaded, stated = load_detector(folders[1])
    assert stated.threshold == found.threshold
    assert infer(loaded, noise[0])[0] == infer(networks, noise[0])[0]
    write_json(folders[1] / CONFIG, content | {"map_weights": {"student": 0.1, "autoencoder": 0.9}})
    with pytest.raises(UserError, match="has map_weights"):
        load_detector(folders[1])
