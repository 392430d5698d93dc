"""Drawing against copying and painting: verdicts on known scores, and a whole run on tiny models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import methods
from benchmarks.methods import METHODS, calibration_study, figures_of, gain_study, verdicts_of
from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.model_files import DetectorConfig, save_detector
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.images import stack_resized, write_png
from metaldefect.inspection.layout import write_scenes
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.metrics.generation_suite import Labelled
from metaldefect.synthesis import realism
from metaldefect.synthesis.methods import ProceduralPainter
from tests.tiny_models import CLASSES, save_tiny_painter

SIDE = 120


def test_a_method_whose_insertions_look_like_real_defects_sets_the_better_threshold() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, 200)
    test = np.concatenate([rng.normal(0, 1, 100), rng.normal(4, 1, 100)])
    defective = np.repeat([False, True], 100)
    scores = {"drawn": 4.0, "copy_paste": 4.0, "procedural": 30.0}  # painted ones are far too easy
    inserted = {method: rng.normal(mean, 1, 100) for method, mean in scores.items()}
    found = calibration_study(normal, inserted, test, defective, [str(k) for k in range(200)])
    assert found["thresholds"]["drawn"] == pytest.approx(2.0, abs=0.5)
    assert found["values"]["drawn"]["mean"] > 0.9 > found["values"]["procedural"]["mean"]
    assert methods.verdict(found["drawn_minus"]["procedural"]) == "better"
    assert methods.verdict(found["drawn_minus"]["copy_paste"]) == "no difference shown"
    swapped = inserted | {"drawn": inserted["procedural"], "procedural": inserted["drawn"]}
    found = calibration_study(normal, swapped, test, defective, [str(k) for k in range(200)])
    assert methods.verdict(found["drawn_minus"]["procedural"]) == "worse"


def blobs(per_class: int, seed: int, wrong: bool = False) -> Labelled:
    """Features of three classes on a line in 40 dimensions, blurred by noise; `wrong` swaps the labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array(["a", "b", "c"]), per_class)
    centres = np.repeat(np.arange(3.0), per_class)[:, None] * np.ones(40) * 0.35
    features = (centres + rng.normal(0, 1, (len(labels), 40))).astype(np.float32)
    return Labelled.ungrouped(features, np.roll(labels, per_class) if wrong else labels)


def test_crops_of_the_right_classes_add_more_than_those_of_wrong_ones() -> None:
    real = {"train": blobs(30, 0), "validation": blobs(60, 1), "test": blobs(60, 2)}
    crops = {"drawn": blobs(200, 3), "copy_paste": blobs(200, 4), "procedural": blobs(200, 5, wrong=True)}
    found = gain_study(real, crops, 3, seed=0)
    assert found["values"]["drawn"]["low"] > 0
    assert methods.verdict(found["drawn_minus"]["procedural"]) == "better"
    assert methods.verdict(found["drawn_minus"]["copy_paste"]) == "no difference shown"
    assert found["weights"]["procedural"] == 0.03


def test_realism_counts_as_better_where_the_auroc_is_lower_beyond_the_intervals() -> None:
    values = {"drawn": (0.6, 0.5, 0.7), "copy_paste": (0.4, 0.3, 0.49), "procedural": (0.75, 0.65, 0.9)}
    realism = {name: dict(zip(("mean", "low", "high"), value, strict=True)) for name, value in values.items()}
    found = verdicts_of({"f1": {}, "gain": {"left_out": "no masks"}, "realism": realism})
    assert found == {
        "realism, against copy_paste": "worse",
        "realism, against procedural": "no difference shown",
    }


def grainy(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(130, 3, (SIDE, SIDE))


def write_merged(root: Path) -> None:
    """Six photographs of each class and split with one dark ellipse each."""
    rows = []
    for split in ("train", "validation", "test"):
        for label in CLASSES:
            for number in range(6):
                key = f"{split}_{label}_{number}"
                rng = np.random.default_rng(len(rows))
                y, x = np.mgrid[:SIDE, :SIDE]
                row, column = rng.integers(30, 40, 2)
                mask = ((y - row) / rng.uniform(6, 9)) ** 2 + ((x - column) / rng.uniform(6, 9)) ** 2 < 1
                image = (grainy(rng) - 60 * mask).clip(0, 255).astype(np.uint8)
                write_png(root / f"images/{key}.png", image)
                write_png(root / f"masks/{key}.png", mask.astype(np.uint8) * 255)
                rows.append((f"images/{key}.png", f"masks/{key}.png", label, split, key))
    table = pd.DataFrame(rows, columns=["path", "mask_path", "label", "split", "scene"])
    table.assign(group=table["scene"], sha256=table["path"]).to_parquet(root / "samples.parquet")


def write_inspection(root: Path) -> None:
    counts = {"train/good": 2, "validation/good": 4, "canvas/good": 3, "test/good": 3, "test/dent": 3}
    names = []
    for folder, count in counts.items():
        for number in range(count):
            rng = np.random.default_rng(1000 + len(names))
            image = grainy(rng)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            if folder == "test/dent":
                mask[40:60, 40:60] = 255
                write_png(root / f"ground_truth/dent/{number}_mask.png", mask)
            image = image - 60 * (mask > 0)
            write_png(root / folder / f"{number}.png", image.clip(0, 255).astype(np.uint8))
            names.append(f"{folder}/{number}.png")
    write_scenes(root, {name: name for name in names})


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of a finished run; its models are not trained."""
    plain = realism.proposer_of

    def proposer_of(method: str, *rest: Any) -> Any:
        return ProceduralPainter() if method == "drawn" else plain(method, *rest)

    monkeypatch.setattr(realism, "proposer_of", proposer_of)  # untrained models draw what nobody sees
    write_merged(tmp_path / "data/merged")
    write_inspection(tmp_path / "data/merged/inspection")
    write_json(tmp_path / "data/synthetic/config.json", {"seed": 0, "sampling": {"steps": 2}})
    aurocs = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in methods.METRICS.values()}
    write_json(tmp_path / "metrics/evaluate_synthesis.json", {"realism": aurocs | {"defects": 9}})
    save_tiny_painter(tmp_path / "models/vq", tmp_path / "models/maskgit")
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    normals = RealDatasetProvider(tmp_path / "data/merged/inspection").validation()
    fit_map_quantiles(model, stack_resized((item.image for item in normals), 128))
    (tmp_path / "models/detector").mkdir()
    save_detector(
        tmp_path / "models/detector", model, DetectorConfig("S", True, 128, 0.1, 0.9, "made up"), {}
    )

    def simple(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float32)
        return np.stack([flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1)], axis=1)

    monkeypatch.setattr(methods, "pooled_features", simple)
    monkeypatch.setattr("metaldefect.metrics.detection.BOOTSTRAP_SAMPLES", 20)
    return tmp_path


def test_a_whole_run_compares_the_methods_on_equally_many_images(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--root", str(finished), "--results", str(finished / "methods.json"), "--per-class", "2"]
    monkeypatch.setattr(sys, "argv", ["methods", *options])
    methods.main()
    output = capsys.readouterr().out.splitlines()
    line, kept = json.loads(output[-1]), read_json(finished / "methods.json")
    assert line == {key: value for key, value in kept.items() if key != "details"}
    figures = kept["figures"]
    assert 3 <= figures["f1_images"] <= 12
    assert 3 <= figures["gain_images"] <= 12
    expected = {f"{name}_{method}" for name in ("f1", "gain", "realism") for method in METHODS}
    expected |= {f"{n}_drawn_minus_{other}" for n in ("f1", "gain") for other in METHODS[1:]}
    assert figures.keys() == expected | {"f1_images", "gain_images", "f1_normals"}
    assert figures_of(kept["details"]) == figures
    said = [text for text in output if text.startswith("drawing by ")]
    assert len(said) == 6
    assert "drawing by realism, against copy_paste: no difference shown" in said


def test_insertions_never_lie_on_images_that_test_the_detector(finished: Path) -> None:
    painter = methods.load_painter(finished / "models/vq", finished / "models/maskgit")
    merged = finished / "data/merged"
    originals = methods.originals_of(merged, "train", painter, 12)
    provider = RealDatasetProvider(merged / "inspection", channels=3)
    pairs = methods.on_normal_images(originals, provider, painter, 0)
    assert len(pairs) == 12
    test = [item.image[..., 0] for item in provider.test()]
    for _, place in pairs:
        assert not any(np.array_equal(place.canvas.pixels, image) for image in test)


def test_a_folder_without_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["methods", "--root", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="run the pipeline first"):
        methods.main()
