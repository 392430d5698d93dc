"""The study on magnetic tiles, on a few procedural ones: what it writes, and that it does nothing twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import tiles
from benchmarks.tile_teachers import parse_teachers, random_teacher
from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad import held_out
from metaldefect.efficientad.model_files import load_detector
from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.errors import UserError
from tests.few_tiles import save_few_tiles
from tests.slim_detector import SLIM, save_slim_teacher


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_few_tiles(tmp_path_factory.mktemp("raw"))


def run(monkeypatch: pytest.MonkeyPatch, raw: Path, work: Path, *extra: str) -> None:
    options = ["--raw", str(raw), "--work", str(work / "tiles"), "--results", str(work / "tiles.json")]
    options += ["--picture", str(work / "curves.png")]
    small = ["--image-size", "128", "--steps", "2", "4", "--curve-images", "5", "--seeds", "3"]
    monkeypatch.setitem(LAYERS, "S", SLIM)
    teachers = ["--teachers", f"short={save_slim_teacher(work / 'short.safetensors')}", "random"]
    monkeypatch.setattr(sys, "argv", ["tiles", *options, *small, *teachers, "--penalty-images", "3", *extra])
    tiles.main()


def test_every_teacher_is_measured_once_beside_the_memory_bank(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out, "CALIBRATION_DEFECTS", 12)
    monkeypatch.setattr(held_out, "CURVE_DEFECTS", 2)  # the study draws a curve of its own
    run(monkeypatch, raw, tmp_path)
    results = read_json(tmp_path / "tiles.json")
    section, figures = results["details"], results["figures"]
    assert figures["image_auroc"] == section["short_teacher"]["mean"]["image_auroc"]
    assert (
        figures["random_teacher_au_pro_seed3"]["value"] == section["random_teacher"]["au_pro"]["3"]["value"]
    )
    assert figures["memory_bank_image_auroc"] == figures["memory_bank_image_auroc_seed3"]
    assert figures["memory_bank_au_pro"] == section["memory_bank"]["3"]["au_pro"]
    assert 0 < figures["minutes"] == figures["minutes_seed3"]
    assert 0 <= figures["f1_calibrated"] <= 1
    assert (section["steps"], section["seeds"]) == ([2, 4], [3])
    assert section["short_teacher"]["image_size"] == {"3": 128}
    assert section["memory_bank"]["3"]["image_size"] == 128
    for name in ("short_teacher", "random_teacher"):
        for metric in ("image_auroc", "au_pro", "f1", "f1_calibrated"):
            entry = section[name][metric]["3"]
            low, high = entry["interval_95"]
            assert low <= high
            assert section[name]["mean"][metric] == pytest.approx(entry["value"])
        assert [row["step"] for row in section[name]["curve"]["3"]] == [2, 4]
        assert set(section[name]["per_type"]["3"]) == {"crack"}
    gain = section["gain_over_random_teacher"]["short"]["image_auroc"]
    difference = [section[f"{name}_teacher"]["mean"]["image_auroc"] for name in ("short", "random")]
    assert gain == pytest.approx(difference[0] - difference[1])
    assert load_detector(tmp_path / "tiles/random_seed3")[1].image_size == 128
    assert (tmp_path / "curves.png").stat().st_size > 5000
    short = section["short_teacher"]
    rows = short["choices"]["3"]
    assert len(rows) == len({(row["ridge"], row["student_share"]) for row in rows}) == 25
    assert all(0 <= row["painted"] <= 1 for row in rows)
    paper = next(row["test"] for row in rows if (row["ridge"], row["student_share"]) == (0, 0.5))
    assert short["paper_score"]["image_auroc"]["3"]["value"] == pytest.approx(paper, abs=0.03)
    assert figures["paper_score_image_auroc"] == short["paper_score"]["image_auroc"]["3"]["value"]
    last = short["curve"]["3"][-1]
    assert 0 < last["minutes"] - 0.01 <= short["minutes"]["3"] < short["minutes_with_tests"]["3"]  # rounded

    for name in ("train_detector", "fill_bank"):
        monkeypatch.setattr(tiles, name, lambda *_: pytest.fail("done again"))
    capsys.readouterr()
    run(monkeypatch, raw, tmp_path)
    assert "short_seed3: done before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"short_seed3\.json is of other settings"):
        run(monkeypatch, raw, tmp_path, "--steps", "6")


def test_minutes_of_a_killed_run_count(tmp_path: Path) -> None:
    write_json(tmp_path / "minutes.json", {"minutes": 7.0})
    minutes = tiles.Minutes(tmp_path / "minutes.json")
    minutes.save()
    assert 7 <= read_json(tmp_path / "minutes.json")["minutes"] <= minutes.total < 8


def test_a_random_teacher_keeps_its_signal_to_the_last_layer() -> None:
    teacher = random_teacher("S", True, 0)
    with torch.inference_mode():
        features = teacher(torch.randn(1, 3, 128, 128))
    per_channel = features.std(dim=(0, 2, 3))
    assert 0.1 < float(per_channel.median()) < 10
    assert torch.equal(teacher.convolutions[0].weight, random_teacher("S", True, 0).convolutions[0].weight)


def test_teachers_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"short\.safetensors does not exist: distil it"):
        parse_teachers([f"short={tmp_path}/short.safetensors"], "S")
    with pytest.raises(UserError, match="teacher 'big': expected shipped, random or NAME=PATH"):
        parse_teachers(["big"], "S")
