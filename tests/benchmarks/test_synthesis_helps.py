"""What drawn defects are good for: the decisions on known scores, and a whole run on tiny models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import synthesis_helps
from benchmarks.synthesis_helps import MAP_WEIGHTS, Candidate, divide, selections, study, thresholds
from metaldefect.artifacts import read_json
from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.model_files import DetectorConfig, load_detector, save_detector
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.errors import UserError
from metaldefect.images import stack_resized, write_png
from metaldefect.inspection.layout import write_scenes
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image
from tests.tiny_models import save_tiny_painter


def scored(inserted: float, real: float, seed: int = 0) -> Candidate:
    """Normal scores around 0 with deviation 1; defects so much above."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["good", "crack", "hole"], [40, 20, 20])
    test = rng.normal(size=80) + np.where(labels == "good", 0.0, real)
    return Candidate(rng.normal(size=60), rng.normal(size=30) + inserted, test, labels)


def test_calibration_takes_a_share_of_each_kind_and_no_normal_image() -> None:
    labels = np.repeat(["good", "crack", "hole"], [5, 10, 1])
    chosen = divide(labels, np.random.default_rng(0))
    assert {kind: int(chosen[labels == kind].sum()) for kind in set(labels)} == {
        "good": 0,
        "crack": 3,
        "hole": 1,
    }


def test_thresholds_of_known_scores() -> None:
    normal = np.linspace(0.0, 1.0, 101)
    candidate = Candidate(
        normal, np.array([3.0, 4.0]), np.array([0.2, 7.0, 8.0]), np.array(["good", "crack", "crack"])
    )
    found = thresholds(candidate, np.array([False, True, False]), 0.99)
    assert found == {
        "normals": pytest.approx(0.99),
        "inserted": pytest.approx(2.0),
        "real": pytest.approx(4.0),
    }


def test_the_candidate_that_tells_defects_apart_is_chosen() -> None:
    candidates = [scored(0.1, 0.1), scored(4.0, 0.2), scored(0.2, 4.0)]
    calibration = divide(candidates[0].labels, np.random.default_rng(0))
    assert selections(candidates, calibration) == {"normals": 0, "inserted": 1, "real": 2}


def test_defects_of_the_right_kind_help_and_those_of_a_wrong_kind_do_not() -> None:
    right = study([scored(1.5, 1.5)], 0.99, 20, 0)["threshold"]
    accuracy = {way: right[way]["balanced_accuracy"]["mean"] for way in right}
    assert accuracy["inserted"] > accuracy["normals"]
    wrong = study([scored(60.0, 1.5)], 0.99, 20, 0)["threshold"]
    assert wrong["inserted"]["detection_rate"]["mean"] == 0.0
    chosen = study([scored(0.1, 0.1), scored(3.0, 3.0)], 0.99, 20, 0)["model_selection_image_auroc"]
    assert chosen["inserted"]["mean"] > chosen["normals"]["mean"] + 0.2
    assert chosen["best"]["mean"] >= chosen["real"]["mean"]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A category folder, models that draw and a detector, none of them trained."""
    root = tmp_path / "plates"
    for split, count in (("train", 2), ("validation", 3), ("canvas", 2), ("test", 2)):
        for k in range(count):
            image = generate_normal_image(hash_of(split) + k, 128)
            write_png(root / split / f"good/{k}.png", image)
    for k in range(2):
        image, mask = generate_anomalous_image("scratch", np.random.default_rng(k), 128)
        write_png(root / f"test/scratch/{k}.png", image)
        write_png(root / f"ground_truth/scratch/{k}_mask.png", mask.astype(np.uint8) * 255)
    images = [path.relative_to(root).as_posix() for path in root.rglob("*.png")]
    write_scenes(root, {path: path for path in images if not path.startswith("ground_truth")})
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    validation = RealDatasetProvider(root).validation()
    fit_map_quantiles(model, stack_resized((item.image for item in validation), 128))
    (tmp_path / "detector").mkdir()
    save_detector(tmp_path / "detector", model, DetectorConfig("S", True, 128, 0.1, 0.9, "made up"), {})
    return tmp_path


def hash_of(word: str) -> int:
    return sum(map(ord, word))


def test_a_whole_run_on_tiny_models_goes_on_where_it_was(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"--root": "plates", "--detectors": "detector", "--tokenizer": "vq", "--maskgit": "maskgit"}
    paths = [word for option, name in names.items() for word in (option, str(prepared / name))]
    outputs = ["--work", str(prepared / "work"), "--results", str(prepared / "real.json")]
    arguments = ["synthesis_helps", *paths, *outputs, "--per-class", "1", "--divisions", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    synthesis_helps.main()
    output = capsys.readouterr().out.splitlines()
    line, kept = json.loads(output[-1]), read_json(prepared / "real.json")
    result = kept["details"]
    assert line == {key: value for key, value in kept.items() if key != "details"}
    assert result["images"] == {"validation": 3, "inserted": 2, "test": 4}
    assert len(result["candidates"]) == len(MAP_WEIGHTS)
    assert any(line.startswith("decided from") for line in output)

    model, _ = load_detector(prepared / "detector")
    (kept,) = (prepared / "work").glob("scores_*.json")
    score = read_json(kept)["test"][0][MAP_WEIGHTS.index(0.5)]
    first = RealDatasetProvider(prepared / "plates").test()[0]
    assert score == pytest.approx(infer(model, first.image)[0], rel=1e-4), (
        "the weight 0.5 is the detector's own"
    )

    monkeypatch.setattr(synthesis_helps, "score_by_weight", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(synthesis_helps, "insert_into", lambda *_: pytest.fail("inserted again"))
    synthesis_helps.main()


def test_models_that_are_not_there_are_named(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--root", str(prepared / "plates"), "--work", str(prepared / "work")]
    monkeypatch.setattr(sys, "argv", ["x", *options, "--tokenizer", str(prepared / "none")])
    with pytest.raises(UserError, match=r"none does not exist.*dvc repro finetune_vq"):
        synthesis_helps.main()
