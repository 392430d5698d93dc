"""The headline is what DVC compares: few numbers, each with a direction or a count."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from metaldefect.metrics.directions import direction
from pipeline.headline import HEADLINE, WORDS, headline_metrics

ROOT = Path(__file__).resolve().parents[2]


def test_the_headline_fits_on_a_screen_and_is_all_that_dvc_compares() -> None:
    assert 10 <= len(HEADLINE) <= 20
    assert yaml.safe_load((ROOT / "dvc.yaml").read_text())["metrics"] == ["metrics/headline.json"]


def test_every_headline_metric_has_words() -> None:
    assert WORDS.keys() == HEADLINE.keys()
    assert next(iter(WORDS)) == "image_auroc"  # the first column of MLflow's list


def test_numbers_lose_their_intervals_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    for file in {file for file, _ in HEADLINE.values()}:
        (tmp_path / "metrics").mkdir(exist_ok=True)
        (tmp_path / f"metrics/{file}.json").write_text("{}")
    (tmp_path / "metrics/merge.json").write_text(json.dumps({"total": 12}))
    (tmp_path / "metrics/evaluate_vq.json").write_text(
        json.dumps({"after": {"ssim": {"mean": 0.5, "low": 0.4, "high": 0.6}}})
    )
    agreement = {"mean": 0.7, "low": 0.6, "high": 0.8, "per_class": {"crazing": 1.0}}
    (tmp_path / "metrics/evaluate_synthesis.json").write_text(
        json.dumps({"class_agreement_independent": agreement})
    )
    assert headline_metrics(tmp_path) == {"images": 12, "ssim": 0.5, "class_agreement_independent": 0.7}


def test_every_headline_metric_but_counts_has_a_direction() -> None:
    names = {name: key for name, (_, key) in HEADLINE.items()}
    unknown = {name for name, key in names.items() if direction(name) is None and direction(key) is None}
    assert unknown == {"images"}
