"""The report's story: the answer, the evidence and the weaknesses follow from the numbers by stated rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.figure_labels import LABELS
from metaldefect.efficientad.evaluation import Scored, pro_table, score_table
from pipeline.report import charts, evidence
from pipeline.report.answer import RULES, answer, left_out, weaknesses
from pipeline.report.facts import Previous, metric_changes, profile_name
from pipeline.report.numbers import Estimate, Metrics, share
from pipeline.report.pictures import class_pictures, webp

ROOT = Path(__file__).resolve().parents[2]

DETECTOR = {
    "detection_rate": 0.95,
    "false_alarm_rate": 0.1,
    "au_pro": 0.7,
    "interval_95": {"au_pro": [0.65, 0.75]},
    "images": {"good": 20, "defective": 40},
    "threshold": 0.5,
    "generated": {"detection_rate": 0.9},
}
SYNTHESIS = {
    "class_agreement_independent": {
        "mean": 0.6,
        "low": 0.5,
        "high": 0.7,
        "per_class": {"rolled-in_scale": 0.1, "scratches": 0.9},
    },
    "judge_accuracy_on_real": {"mean": 0.98},
    "cas": {"accuracy": 0.45, "ratio": 0.5, "interval_95": {"accuracy": [0.4, 0.55]}},
    "left_out": {"gain_at_10": "8 images, 10 are needed"},
}


def metrics(root: Path, **content: dict[str, Any]) -> Metrics:
    (root / "metrics").mkdir(exist_ok=True)
    for name, values in content.items():
        (root / f"metrics/{name}.json").write_text(json.dumps(values))
    return Metrics(root)


def test_numbers_bring_their_intervals_from_both_places(tmp_path: Path) -> None:
    found = metrics(tmp_path, evaluate_efficientad=DETECTOR, evaluate_synthesis=SYNTHESIS)
    assert found.estimate("evaluate_efficientad", "au_pro") == Estimate(0.7, 0.65, 0.75)
    assert found.estimate("evaluate_synthesis", "cas.accuracy") == Estimate(0.45, 0.4, 0.55)
    assert found.estimate("evaluate_synthesis", "class_agreement_independent") == Estimate(0.6, 0.5, 0.7)
    assert found.estimate("evaluate_efficientad", "generated.detection_rate") == Estimate(0.9)
    assert found.estimate("evaluate_vq", "after.ssim") is None
    unmeasured = metrics(tmp_path, calibrate={"generated": "no insertion is visible"})
    assert unmeasured.estimate("calibrate", "generated.au_pro") is None
    assert Estimate(0.6, 0.5, 0.7).as_percent().replace("\N{NO-BREAK SPACE}", " ") == "60 % (50 to 70 %)"
    assert [share(value, "") for value in (0.0, 0.004, 0.996, 1.0)] == ["0", "0.4", "99.6", "100"]


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.95, "Yes"), (0.9, "Yes"), (0.7, "In part"), (0.59, "Not yet")]
)
def test_the_verdict_follows_from_what_drawn_images_teach(tmp_path: Path, ratio: float, verdict: str) -> None:
    synthesis = SYNTHESIS | {"cas": {"accuracy": ratio, "ratio": ratio}}
    assert answer(metrics(tmp_path, evaluate_synthesis=synthesis), False).verdict == verdict


def test_the_answer_counts_images_and_says_which_are_procedural(tmp_path: Path) -> None:
    found = metrics(tmp_path, evaluate_efficientad=DETECTOR, evaluate_synthesis=SYNTHESIS)
    detector, drawn, helps = (
        line.replace("\N{NO-BREAK SPACE}", " ") for line in answer(found, procedural=True).lines
    )
    assert detector == (
        "The detector finds 38 of 40 procedural test defects and raises a false alarm on 2 of 20 good images."
    )
    assert "60 % (50 to 70 %)" in drawn
    assert "right on 45 % (40 to 55 %) of the test images; trained on the training images, on 90 %" in helps
    assert "40 real test defects" in answer(found, procedural=False).lines[0]
    assert answer(Metrics(tmp_path / "nothing"), False).verdict == "Not measured yet"


def test_weaknesses_are_the_numbers_beyond_their_limits_and_no_others(tmp_path: Path) -> None:
    found = weaknesses(metrics(tmp_path, evaluate_efficientad=DETECTOR, evaluate_synthesis=SYNTHESIS))
    texts = [
        f"{item.text} {item.measured}, {item.wanted}".replace("\N{NO-BREAK SPACE}", " ") for item in found
    ]
    assert len(texts) == 5
    assert texts[0].startswith(
        "Drawn images often do not look like their class. Below 50 %: rolled-in scale 10 %."
    )
    assert "50 %, at least 90 %" in texts[1]
    assert "10 %, at most 2 %" in texts[2]
    assert "0.7000 (0.6500 to 0.7500), at least 0.8000" in texts[3]
    assert texts[4].endswith("20, at least 100")


@pytest.mark.parametrize(("photographs", "shown"), [(0, []), (2, ["2"])])
def test_photographs_under_several_classes_are_among_the_facts_on_the_data(
    tmp_path: Path, photographs: int, shown: list[str]
) -> None:
    merged = {"total": 20, "groups_of_several_classes": photographs}
    table = evidence.data_table(metrics(tmp_path, merge=merged))
    assert table is not None
    cells = {row[0][0]: row[1][0] for row in table.rows}
    name = "photographs that are filed under several classes"
    assert [text for key, text in cells.items() if key == name] == shown


def test_what_was_left_out_is_listed_with_its_reason(tmp_path: Path) -> None:
    found = left_out(metrics(tmp_path, evaluate_synthesis=SYNTHESIS), ["evaluate_vq", "evaluate_synthesis"])
    assert found == [("gain at 10", "8 images, 10 are needed")]


def test_reconstruction_is_better_only_where_the_gain_excludes_zero(tmp_path: Path) -> None:
    def pair(ssim: tuple[float, ...], lpips: tuple[float, ...]) -> dict[str, dict[str, float]]:
        keys = ("mean", "low", "high")
        return {
            "ssim": dict(zip(keys, ssim, strict=True)),
            "lpips": dict(zip(keys, lpips, strict=True)),
        }

    before = pair((0.7, 0.6, 0.8), (0.4, 0.3, 0.5))
    after = pair((0.71, 0.6, 0.8), (0.2, 0.1, 0.35))
    gain = pair((0.01, -0.01, 0.03), (-0.2, -0.3, -0.1))
    table = evidence.reconstruction_table(
        metrics(tmp_path, evaluate_vq={"before": before, "after": after, "gain": gain})
    )
    assert table is not None
    assert [row[-1][0] for row in table.rows] == ["as good", "better"]


def test_the_calibration_shows_the_interval_that_its_metrics_hold(tmp_path: Path) -> None:
    threshold = {
        "expected_false_alarm_rate": 0.04,
        "false_alarm_rate_interval_95": [0.0, 0.15],
        "inserted_defects_found": 0.74,
        "normals": 23,
        "defects": 27,
    }
    found = metrics(tmp_path, evaluate_synthesis=SYNTHESIS, calibrate={"threshold": threshold})
    table = evidence.usefulness_table(found)
    assert table is not None
    rows = [[text.replace("\N{NO-BREAK SPACE}", " ") for text, _ in row] for row in table.rows]
    assert rows[-2:] == [
        ["Inserted defects found at the threshold", "74 %", "of 27"],
        ["False alarms to expect at the threshold", "4 % (0 to 15 %)", "from 23 good validation images"],
    ]
    del threshold["false_alarm_rate_interval_95"], threshold["inserted_defects_found"]
    table = evidence.usefulness_table(metrics(tmp_path, calibrate={"threshold": threshold}))
    assert table is not None
    assert [row[1][0].replace("\N{NO-BREAK SPACE}", " ") for row in table.rows[-1:]] == ["4 %"]


def test_the_grid_in_insertions_is_compared_with_the_same_boxes_before(tmp_path: Path) -> None:
    ratio = {"mean": 1.04, "low": 1.0, "high": 1.08, "canvas": 0.99, "insertions": 40}
    table = evidence.usefulness_table(metrics(tmp_path, evaluate_synthesis={"block_ratio_insertions": ratio}))
    assert table is not None
    (row,) = [[text for text, _ in row] for row in table.rows]
    assert row[0].startswith("Steps across token cells in insertions")
    assert row[1:] == ["1.040 (1.000 to 1.080)", "before the insertion: 0.9900"]


def scored(name: str, label: str, score: float) -> Scored:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = label != "good"
    anomaly_map = np.where(mask, score, 0.0).astype(np.float32)
    return Scored(np.zeros((8, 8), np.uint8), mask, label, name, name, score, anomaly_map)


def test_charts_draw_the_scores_of_the_run(tmp_path: Path) -> None:
    groups = {"test defects": [scored("a", "good", 0.1), scored("b", "dent", 0.9), scored("c", "dent", 0.05)]}
    folder = tmp_path / charts.SCORES.parent
    folder.mkdir(parents=True)
    score_table(groups).to_csv(tmp_path / charts.SCORES, index=False)
    pro_table(groups).to_csv(tmp_path / charts.PRO, index=False)
    names = {"test defects": "procedural test defects"}
    histogram, roc, pro = charts.detector_charts(
        tmp_path, metrics(tmp_path, evaluate_efficientad=DETECTOR), names
    )
    bars = json.loads(histogram.content)["data"]
    assert [(bar["name"], sum(bar["y"])) for bar in bars] == [
        ("good (1)", 1),
        ("procedural test defects (2)", 2),
    ]
    (curve,) = json.loads(roc.content)["data"]
    assert curve["name"] == "procedural test defects"
    # One of two defects scores above the good image: half of them at no false alarm
    assert dict(zip(curve["x"][::-1], curve["y"][::-1], strict=True))[0.0] == pytest.approx(0.0)
    assert max(y for x, y in zip(curve["x"], curve["y"], strict=True) if x == 0) == 0.5
    (overlap,) = json.loads(pro.content)["data"]
    assert overlap["y"][-1] == pytest.approx(1.0)


def test_changes_since_the_last_run_are_marked_by_their_direction() -> None:
    last = Previous("yesterday", "abc", "", {"image_auroc": 0.9, "rkid": 0.2, "images": 100.0, "au_pro": 0.5})
    found = metric_changes(last, {"image_auroc": 0.95, "rkid": 0.3, "images": 120, "au_pro": 0.5})
    assert [(item.name, item.before, item.after, item.kind) for item in found] == [
        ("image auroc", "0.9000", "0.9500", "good"),
        ("rkid", "0.2000", "0.3000", "bad"),
        ("images", "100", "120", ""),
    ]


def test_the_profile_is_found_by_its_values(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert profile_name(ROOT / "params.yaml", ROOT / "conf") == "cpu"
    (tmp_path / "params.yaml").write_text(text.replace("seed: 0", "seed: 41"))
    assert profile_name(tmp_path / "params.yaml", ROOT / "conf") == "own settings"


def test_drawn_images_stand_beside_training_images_of_their_class(tmp_path: Path) -> None:
    merged, synthetic = tmp_path / "merged", tmp_path / "synthetic"
    for folder, level in ((merged, 50), (synthetic, 200)):
        (folder / "images").mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((16, 16), level + number, np.uint8)).save(folder / f"images/{number}.png")
        table = pd.DataFrame(
            {"path": [f"images/{n}.png" for n in range(4)], "label": "dent", "split": "train"}
        )
        table.to_parquet(folder / "samples.parquet")
    (pair,) = class_pictures(merged, synthetic, count=3)
    assert (pair.label, len(pair.real), len(pair.drawn)) == ("dent", 3, 3)
    assert class_pictures(merged, tmp_path / "none") == []


def test_pictures_shrink_to_the_page() -> None:
    picture = webp(Image.fromarray(np.zeros((1000, 500), np.uint8)), "a strip", longest=100)
    assert (picture.width, picture.height, picture.text) == (50, 100, "a strip")


def test_no_label_calls_images_real_that_may_be_procedural() -> None:
    labels = [*LABELS.values(), *(name for _, name, *_ in evidence.USEFULNESS)]
    labels += [text for rule in RULES for text in (rule.weakness, rule.remedy)]
    assert [label for label in labels if re.search(r"\breal\b", label, re.IGNORECASE)] == []


def test_a_better_memory_bank_is_named_beside_the_detector_and_so_is_the_papers_score(tmp_path: Path) -> None:
    content = DETECTOR | {
        "image_auroc": 0.64,
        "paper_score": {"image_auroc": 0.61, "au_pro": 0.5},
        "memory_bank": {"image_auroc": 0.82, "use": "memory bank"},
    }
    found = metrics(tmp_path, evaluate_efficientad=content)
    assert answer(found, False).lines[0].endswith("A memory bank, which needs no training, is better today.")
    table = evidence.detector_table(found)
    assert table is not None
    assert [text for text, _ in table.rows[0]] == ["Image AUROC", "0.6400", "–", "0.6100", "0.8200"]
    assert table.header[3] == "test defects, the paper's score"
