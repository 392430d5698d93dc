"""`metaldefect calibrate`: another threshold for a trained detector, wherever it keeps one; and budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands import budget as budgets
from metaldefect.commands import calibrate as commands
from metaldefect.commands.budget import Budget
from metaldefect.commands.calibrate import share_of
from metaldefect.efficientad.calibration import Calibration, PapersScore, Scores
from metaldefect.efficientad.model_files import (
    CONFIG,
    TRAINED,
    DetectorConfig,
    load_detector,
    read_scores,
    save_detector,
    write_scores,
)
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.errors import UserError
from metaldefect.images import resize, write_png
from pipeline.cli import main

NORMALS, DEFECTS = [k / 100 for k in range(20)], [0.1, 0.3, 0.4, 0.5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector with scores of 20 normals and 4 defects, and thresholds of one export."""
    folder = tmp_path_factory.mktemp("detector")
    scores = Scores(NORMALS, [f"s{k}" for k in range(20)], DEFECTS)
    papers = PapersScore({}, is_the_detectors=True)
    calibration = Calibration(0.2, 0.5, {"threshold": {"value": 0.2}}, scores, scores, papers)
    config = DetectorConfig("S", True, 128, 0.2, 0.99, "")
    save_detector(folder, EfficientAD("S"), config, {}, calibration)
    return folder


@pytest.fixture
def detector(trained: Path) -> Path:
    scores = read_scores(trained)[TRAINED]
    export = Scores([2 * v for v in NORMALS], scores.scenes, [2 * v for v in DEFECTS])
    write_scores(trained, {TRAINED: Scores(NORMALS, scores.scenes[:20], DEFECTS), "int8": export})
    write_json(trained / "openvino/metadata.json", {})
    return trained


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", *arguments])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The thresholds that the export gets; tests/deploy checks what it does with them."""
    found: dict[str, float] = {}
    monkeypatch.setattr(commands, "set_thresholds", lambda _folder, chosen, *_: found.update(chosen))
    return found


def test_a_rate_sets_the_threshold_everywhere(
    detector: Path, exported: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(capsys, str(detector), "--false-alarms", "10%")
    assert load_detector(detector)[1].threshold == pytest.approx(0.18), "2 of 20 + 1 lie at or above"
    assert exported == pytest.approx({"int8": 0.36})
    assert read_json(detector / CONFIG)["calibration"]["threshold"]["expected_false_alarm_rate"] == (
        pytest.approx(2 / 21)
    )
    assert "support a rate of 10 %" in printed
    assert "75 % of 4 inserted defects" in printed


def test_a_rate_that_few_images_cannot_set_is_named(
    detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(capsys, str(detector), "--false-alarms", "0.01")
    assert "20 independent good images: a rate of 1 % cannot be set, 100 are needed" in printed
    assert load_detector(detector)[1].threshold > 0.19


def test_costs_set_the_threshold(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = ["--cost-miss", "1000", "--cost-false-alarm", "1", "--defect-share", "50%"]
    printed = run(capsys, str(detector), *costs)
    assert load_detector(detector)[1].threshold < 0.1, "no painted defect may pass"
    assert "least expected cost: 1000 per miss, 1 per false alarm, 50 % of the images defective" in printed
    assert "expected per image" in printed


def test_more_good_images_support_lower_rates(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(trained, {TRAINED: Scores(NORMALS, [f"s{k}" for k in range(20)], DEFECTS)})
    noise = np.random.default_rng(0).integers(0, 256, (3, 150, 140), dtype=np.uint8)
    for index, image in enumerate(noise):
        write_png(tmp_path / f"more/{index}.png", image)
    printed = run(capsys, str(trained), "--false-alarms", "5%", "--good", str(tmp_path / "more"))
    assert "23 independent good images support a rate of 5 %" in printed
    stored = read_scores(trained)[TRAINED].normals
    model, _ = load_detector(trained)
    assert stored[20:] == pytest.approx([infer(model, resize(image, 128))[0] for image in noise])
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", str(trained), "--false-alarms", "5%", "--good", str(tmp_path / "more")])
    assert "3 images were added before, such as more/0.png" in str(stop.value.code)

    # Another day's images bear the same names; copies bear other ones
    (tmp_path / "day 2/more").mkdir(parents=True)
    write_png(tmp_path / "day 2/more/0.png", noise[0].T)
    run(capsys, str(trained), "--false-alarms", "5%", "--good", str(tmp_path / "day 2/more"))
    assert len(read_scores(trained)[TRAINED].normals) == 24
    write_png(tmp_path / "copies/5.png", noise[1])
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", str(trained), "--false-alarms", "5%", "--good", str(tmp_path / "copies")])
    assert "1 images were added before, such as copies/5.png" in str(stop.value.code)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--false-alarms", "1%"], "holds no detector: name the folder"),
        (["nowhere", "--false-alarms", "lots"], "'lots' is no share: write 1% or 0.01"),
        (["nowhere", "--false-alarms", "150%"], "'150%' is no share below 1"),
    ],
)
def test_wrong_input_is_named(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", *words])
    assert message in str(stop.value.code)


@pytest.mark.parametrize("words", [[], ["--cost-miss", "3"], ["--false-alarms", "1%", "--cost-miss", "3"]])
def test_half_a_target_is_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "model", *words])
    assert stop.value.code == 2
    assert "--cost-false-alarm" in capsys.readouterr().err


def test_shares_are_read_as_people_write_them() -> None:
    assert [share_of(text) for text in ("1%", "1 %", "0.01", "0")] == pytest.approx([0.01, 0.01, 0.01, 0.0])


class Times:
    """A clock and a processor that tests set."""

    def __init__(self) -> None:
        self.clock, self.processor = 100.0, 7.0

    def monotonic(self) -> float:
        return self.clock

    def process_time(self) -> float:
        return self.processor


def test_the_training_leaves_time_for_what_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times()
    monkeypatch.setattr(budgets, "time", times)
    budget = Budget(10)
    times.clock += 60
    times.processor += 110  # two cores at work: the clock counts
    clock = budget.clock_for_training(passes=100, second_per_image=0.5, same_again=20)
    assert clock is not None
    assert clock.limit == pytest.approx(600 - 60 - 1.25 * (40 + 20 + 50))
    times.clock += 1000
    times.processor += 30  # others held the machine
    assert budget.spent == 140
    assert Budget(None).clock_for_training(100, 0.5, 20) is None
    with pytest.raises(UserError, match=r"--minutes 1 leaves no time to train: .* give at least 4"):
        Budget(1).clock_for_training(100, 0.5, 20)
