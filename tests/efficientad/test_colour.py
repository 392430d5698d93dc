"""Three channels and rectangles on the way from an image to a trained, saved detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from metaldefect.artifacts import read_json, write_json
from metaldefect.backbones import LITE0, load_backbone
from metaldefect.commands.settings import load_settings
from metaldefect.efficientad.calibration import CalibrationImages, calibrate
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.memory_bank import available_features, fill_bank, teacher_features
from metaldefect.efficientad.model_files import (
    DetectorConfig,
    NetworkConfig,
    calibrated,
    load_detector,
    save_detector,
)
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.teacher_weights import load_target_statistics, load_teacher, shipped_teacher
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import LAYERS, PatchDescriptionNetwork, infer, map_size
from metaldefect.efficientad.training import train
from metaldefect.efficientad.training_data import TeacherFeatures, TrainingBatches, TrainingImages, augment
from metaldefect.errors import UserError
from metaldefect.images import as_channels, resize, to_imagenet_range, to_unit_range
from metaldefect.ingest.natural import natural_photographs
from metaldefect.inspection.painted import paint_defects
from metaldefect.inspection.provider import InspectionImage
from tests.slim_detector import SLIM

HEIGHT, WIDTH = 128, 160


def metal(count: int, seed: int = 0) -> np.ndarray:
    """Copper with a little noise, `uint8 [N, 128, 160, 3]`."""
    rng = np.random.default_rng(seed)
    level = rng.integers(90, 110, (count, HEIGHT, WIDTH, 1))
    return np.rint(level * np.array([1.5, 1.0, 0.7])).astype(np.uint8)


def stained(image: np.ndarray) -> np.ndarray:
    """Another hue of the same grey: 0.299 * 50 = 0.114 * 131."""
    found = image.astype(int)
    found[40:80, 60:100] += np.array([-50, 0, 131])
    assert np.abs(as_channels(found.astype(np.uint8), 1).astype(int) - as_channels(image, 1)).max() <= 1
    return found.astype(np.uint8)


@pytest.fixture
def slim(monkeypatch: pytest.MonkeyPatch) -> Iterator[PatchDescriptionNetwork]:
    """A random teacher with few channels."""
    monkeypatch.setitem(LAYERS, "S", SLIM)
    torch.manual_seed(0)
    return PatchDescriptionNetwork("S").requires_grad_(False).eval()


def test_each_channel_has_imagenets_range() -> None:
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    found = to_imagenet_range(red)
    assert found.shape == (1, 3, 2, 2)
    assert found[0, :, 0, 0].tolist() == pytest.approx([2.2489, -2.0357, -1.8044], abs=1e-4)
    white = to_imagenet_range(np.full((1, 2, 2), 255, np.uint8))
    assert white[0, :, 1, 1].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


def test_colours_become_grey_by_rec_601_and_grey_is_repeated() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert as_channels(colours, 1).tolist() == [[76, 150, 29]]
    assert as_channels(np.array([[7, 9]], np.uint8), 3).tolist() == [[[7, 7, 7], [9, 9, 9]]]
    assert as_channels(colours, 3) is colours


def test_batches_hold_the_colours_and_augment_their_saturation(
    slim: PatchDescriptionNetwork, tmp_path: Path
) -> None:
    images = TrainingImages(metal(2), None, "none")
    features = TeacherFeatures(slim, images.normal, tmp_path / "features.npy")
    assert features.shape == (*map_size(HEIGHT, WIDTH, True), 384)
    batch = TrainingBatches(images, features, 2, seed=0).batch(0)
    expected = {tuple(image.flatten()[:6]) for image in to_imagenet_range(images.normal).numpy()}
    assert {tuple(image.flatten()[:6]) for image in batch.images.numpy()} == expected
    unit, kinds = to_unit_range(metal(1)), set()
    for seed in range(12):
        changed = augment(unit, np.random.default_rng(seed))
        spread, before = (tensor.amax(1) - tensor.amin(1) for tensor in (changed, unit))
        grey_moves = float((changed - unit).mean(1).abs().mean())
        kinds.add("saturation" if grey_moves < 0.02 and not torch.allclose(spread, before) else "light")
    assert kinds == {"saturation", "light"}


def test_the_bank_sees_a_stain_of_the_same_grey_in_colour_alone(slim: PatchDescriptionNetwork) -> None:
    for features in (available_features(slim), teacher_features(slim)):
        scores = {}
        for channels in (1, 3):
            normal = np.stack([as_channels(image, channels) for image in metal(3)])
            fresh = metal(1, seed=1)[0]
            bank = fill_bank(normal, features, seed=0)
            pair = [bank.detect(as_channels(image, channels))[0] for image in (fresh, stained(fresh))]
            scores[channels] = pair[1] / pair[0]
        assert scores[3] > 1.5, features.name
        assert scores[1] < 1.2, features.name


def test_a_detector_of_colour_rectangles_is_trained_calibrated_saved_and_loaded(
    slim: PatchDescriptionNetwork, tmp_path: Path
) -> None:
    photographs = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    config = TrainingConfig(steps=2, checkpoint_steps=2)
    trained = train(slim, TrainingImages(metal(3), photographs, "noise"), config, tmp_path / "work")
    normals = [InspectionImage(image, None, "good", f"{k}", f"{k}") for k, image in enumerate(metal(3, 1))]
    size = (HEIGHT, WIDTH)
    images = CalibrationImages.of(normals, paint_defects(normals, size, 4, seed=0), size)
    assert images.normals.shape == (3, HEIGHT, WIDTH, 3)
    assert images.defects.shape[1:] == (HEIGHT, WIDTH, 3)
    calibration = calibrate(trained.model, images, Target(false_alarms=0.01))
    networks = NetworkConfig("S", True, size, channels=3)
    saved = calibrated(networks, calibration)
    save_detector(tmp_path, trained.model, saved, {}, calibration)
    model, loaded = load_detector(tmp_path)
    assert loaded == saved
    assert (loaded.image_size, loaded.channels) == ((128, 160), 3)
    image = metal(1, 2)[0]
    score, anomaly_map = infer(model, image)
    assert anomaly_map.shape == size
    assert infer(trained.model, image)[0] == score
    assert infer(model, stained(image))[0] != pytest.approx(score, rel=1e-3)


def test_a_detector_from_before_colour_is_a_grey_one(slim: PatchDescriptionNetwork, tmp_path: Path) -> None:
    from tests.slim_detector import slim_model

    save_detector(tmp_path, slim_model(), DetectorConfig("S", True, 128, 0.5, 0.99, "made up"), {})
    content = read_json(tmp_path / "config.json")
    assert content["image_size"] == 128
    del content["channels"]
    write_json(tmp_path / "config.json", content)
    assert load_detector(tmp_path)[1].channels == 1


def test_painted_defects_keep_the_metals_hue() -> None:
    canvas = InspectionImage(metal(1)[0], None, "good", "0", "0")
    for item in paint_defects([canvas], (HEIGHT, WIDTH), 8, seed=0):
        assert item.mask is not None
        assert item.image.shape == (HEIGHT, WIDTH, 3)
        inside = item.image[item.mask].astype(float)
        lit = inside[inside.max(axis=1) > 60]
        assert (lit[:, 0] >= lit[:, 2]).mean() > 0.95, "copper stays red, brighter or darker"


def test_the_shipped_teacher_describes_colour_about_as_well_as_grey() -> None:
    path = shipped_teacher("S")
    teacher, (mean, std) = load_teacher(path), load_target_statistics(path)
    backbone = PatchFeatures(load_backbone(LITE0)).eval()
    explained = {}
    for channels in (1, 3):
        errors, total = 0.0, 0.0
        for photograph in natural_photographs(None, 256, 4):
            image = as_channels(photograph.read(), channels)
            with torch.inference_mode():
                target = (backbone(to_unit_range(image[None]), map_size(128, 128, True)) - mean) / std
                found = teacher(to_imagenet_range(resize(image, 128)[None]))
            errors += float((target - found).square().mean())
            total += float(target.square().mean())
        explained[channels] = 1 - errors / total
    assert explained[3] > 0.3
    assert explained[3] > explained[1] - 0.1


@pytest.mark.parametrize(
    ("given", "expected"), [("160x400", (160, 400)), ("256", 256), ("192x192", 192), ("auto", "auto")]
)
def test_sizes_are_written_as_height_x_width(given: str, expected: object) -> None:
    assert load_settings(None, {"image_size": given}).image_size == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wide", "'wide' is no size: write 256, or height x width as 160x400"),
        ("100x400", "100 x 400 px: at least 128 per side are needed"),
        ("1x2x3", "is no size"),
    ],
)
def test_what_is_no_size_is_refused(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(None, {"image_size": given})
