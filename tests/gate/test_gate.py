"""The gate on exported detectors: better, worse, tied, broken and first challengers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import METADATA
from metaldefect.errors import UserError
from metaldefect.images import as_channels
from pipeline.champion_cli import app
from pipeline.gate.figure import refusal_figure
from pipeline.gate.holdout import accept, card_path, content_of, ensure, freeze, leaks, read_holdout
from pipeline.gate.measure import measure, score_all
from pipeline.gate.run import run_gate
from pipeline.gate.settings import Gate
from pipeline.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gate() -> Gate:
    """The default gate; one graph is enough, and latency counts little: other tests run beside these."""
    gate = load_params(ROOT / "params.yaml").gate
    cost = gate.cost.model_copy(update={"latency_frames": 1, "latency_ratio": 1000.0})
    return gate.model_copy(update={"cost": cost, "precision": "fp32"})


@pytest.fixture(scope="module")
def remembered() -> dict[tuple[Any, ...], Any]:
    """What was measured, by bundle, precision and number of images."""
    return {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, remembered: dict[tuple[Any, ...], Any]) -> None:
    """Measure a bundle once for all tests, time nothing, and draw nothing large."""

    def measure_once(folder: Path, precision: str, images: Any) -> Any:
        key = (folder, precision, len(images))
        if key not in remembered:
            remembered[key] = measure(folder, precision, images)
        return remembered[key]

    monkeypatch.setattr("pipeline.gate.run.measure", measure_once)
    monkeypatch.setattr("pipeline.gate.run.latencies", lambda detectors, *_: [20.0, 19.0][: len(detectors)])
    monkeypatch.setattr("pipeline.gate.figure.verdict_figure", lambda verdict, *_: refusal_figure(verdict))


@pytest.fixture(scope="module")
def holdout(planted: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "holdout"
    freeze(planted["inspection"], folder)
    return folder


@pytest.fixture
def judge(planted: dict[str, Path], gate: Gate, holdout: Path, tmp_path: Path) -> Any:
    def ask(challenger: str, champion: str | None, **options: Any) -> dict[str, Any]:
        return run_gate(
            planted[challenger],
            planted[champion] if champion else None,
            options.get("holdout", holdout),
            options.get("training", planted["inspection"]),
            options.get("gate", gate),
            tmp_path / "verdict",
        )

    return ask


def outcomes(content: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in content["checks"]}


def test_a_better_challenger_is_promoted(judge: Any, tmp_path: Path) -> None:
    content = judge("good", "half_blind")
    assert content["verdict"] == "PROMOTE"
    # it decides all 32 images right, the champion misses every second of the 16 defects
    assert content["challenger"]["metrics"]["balanced_accuracy"] == 1.0
    assert content["champion"]["metrics"]["detection_rate"] == pytest.approx(0.5)
    assert "better: balanced accuracy at the threshold 1.000 against 0.750" in content["reason"]
    assert set(outcomes(content).values()) == {"pass"}
    text = (tmp_path / "verdict/verdict.md").read_text()
    assert text.startswith("# PROMOTE: the challenger replaces the champion\n\nBetter: balanced accuracy")
    with Image.open(tmp_path / "verdict/verdict.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.usefixtures("quick")
def test_a_worse_detector_never_replaces_a_better_one(judge: Any) -> None:
    """A scheduled run once replaced a detector of AUROC 1.000 by one of 0.69, and was green."""
    content = judge("worse", "good")
    assert content["verdict"] == "REJECT"
    assert content["challenger"]["metrics"]["image_auroc"] < 0.69
    assert content["champion"]["metrics"]["image_auroc"] == 1.0
    found = outcomes(content)
    assert found["floor of image AUROC"] == "reject"
    assert found["image AUROC of stripe not worse"] == "reject"


@pytest.mark.usefixtures("quick")
def test_a_lower_detection_rate_is_a_loss_even_at_the_same_auroc(judge: Any) -> None:
    content = judge("half_blind", "good")
    assert content["challenger"]["metrics"]["image_auroc"] == 1.0
    assert (content["verdict"], outcomes(content)["detection rate not worse"]) == ("REJECT", "reject")


@pytest.mark.usefixtures("quick")
def test_a_tie_holds(judge: Any, planted: dict[str, Path], tmp_path: Path) -> None:
    content = judge("good", "good")
    assert content["verdict"] == "HOLD"
    assert content["reason"].startswith("better: image AUROC 1.000 against 1.000 (+0.000, interval +0.000")
    assert content["reason"].endswith("not proven, ties hold")


@pytest.mark.usefixtures("quick")
def test_a_broken_challenger_is_rejected_with_the_reason(judge: Any, tmp_path: Path) -> None:
    content = judge("broken", "good")
    assert content["verdict"] == "REJECT"
    assert "detector_fp32.bin has SHA-256" in content["reason"]
    assert (tmp_path / "verdict/verdict.png").is_file()
    assert "must not serve" in (tmp_path / "verdict/verdict.md").read_text()


@pytest.mark.usefixtures("quick")
def test_a_broken_champion_gives_no_verdict(judge: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detector_fp32\.bin has SHA-256"):
        judge("good", "broken")
    assert not (tmp_path / "verdict/verdict.json").exists()


@pytest.mark.usefixtures("quick")
def test_the_first_detector_needs_the_floors_alone(judge: Any) -> None:
    assert judge("good", None)["reason"] == "the first detector: it reaches every floor"
    assert judge("worse", None)["verdict"] == "REJECT"


@pytest.mark.usefixtures("quick")
def test_the_graph_on_the_line_must_decide_as_fp32(
    judge: Any, planted: dict[str, Path], gate: Gate, tmp_path: Path
) -> None:
    other = shutil.copytree(planted["good"], tmp_path / "other")
    metadata = read_json(other / METADATA)
    metadata["precisions"]["fp32"]["threshold"] = read_json(planted["half_blind"] / METADATA)["precisions"][
        "fp32"
    ]["threshold"]
    write_json(other / METADATA, metadata)
    planted = planted | {"other": other}
    gate = gate.model_copy(update={"precision": "fp16"})
    content = run_gate(other, None, *holdout_of(planted, tmp_path), gate, tmp_path / "verdict")
    assert outcomes(content)["fp16 decides as fp32"] == "reject"
    assert "fp16 decides as fp32: 25.0% of the images decided otherwise" in content["reason"]


def holdout_of(planted: dict[str, Path], tmp_path: Path) -> tuple[Path, None]:
    freeze(planted["inspection"], tmp_path / "holdout")
    return tmp_path / "holdout", None


@pytest.mark.usefixtures("quick")
def test_limits_of_latency_and_size(judge: Any, gate: Gate) -> None:
    slow = gate.cost.model_copy(update={"latency_ms": 1e-6})
    content = judge("good", "half_blind", gate=gate.model_copy(update={"cost": slow}))
    assert (content["verdict"], outcomes(content)["latency"]) == ("REJECT", "reject")
    large = gate.cost.model_copy(update={"size_ratio": 0.5})
    content = judge("good", "half_blind", gate=gate.model_copy(update={"cost": large}))
    assert (content["verdict"], outcomes(content)["size against the champion"]) == ("HOLD", "hold")


@pytest.mark.usefixtures("quick")
def test_a_holdout_that_changed_gives_no_verdict(
    judge: Any, planted: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "holdout"
    card = freeze(planted["inspection"], folder)
    assert card["images"] == {"good": 16, "square": 8, "stripe": 8}
    assert not (folder / "train").exists()
    Image.new("L", (128, 128)).save(folder / "test/square/300.png")
    with pytest.raises(UserError, match=r"test/square/300\.png is changed"):
        judge("good", None, holdout=folder)
    (folder / "test/square/300.png").unlink()
    with pytest.raises(UserError, match=r"test/square/300\.png is missing"):
        judge("good", None, holdout=folder)
    assert accept(folder)["images"]["square"] == 7
    assert judge("good", None, holdout=folder)["holdout"]["images"] == 31
    card_path(folder).unlink()
    with pytest.raises(UserError, match="`metaldefect holdout` makes both"):
        judge("good", None, holdout=folder)


@pytest.mark.usefixtures("quick")
def test_a_lost_holdout_is_made_again_only_from_the_same_images(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    inspection = tmp_path / "inspection"
    shutil.copytree(planted["inspection"], inspection)
    folder = tmp_path / "holdout"
    card = ensure(inspection, folder)
    locked = card_path(folder).read_bytes()
    assert ensure(inspection, folder) is None
    shutil.rmtree(folder)
    assert ensure(inspection, folder) == card
    assert content_of(folder) == read_json(card_path(folder))["files"]

    shutil.rmtree(folder)
    image = next((inspection / "test/good").iterdir())
    Image.new("L", (8, 8)).save(image)
    with pytest.raises(UserError, match=r"holdout is missing, .* copy the folder from a backup"):
        ensure(inspection, folder)
    assert not folder.exists()
    assert card_path(folder).read_bytes() == locked


@pytest.mark.parametrize("existed", [False, True])
def test_a_freeze_that_was_killed_before_its_card_is_finished_by_the_next_gate(
    planted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    inspection = tmp_path / "inspection"
    shutil.copytree(planted["inspection"], inspection)
    folder = tmp_path / "holdout"
    if existed:
        freeze(inspection, folder)
        Image.new("L", (8, 8)).save(next((inspection / "test/good").iterdir()))

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.gate.holdout.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            freeze(inspection, folder)
    assert folder.is_dir()
    ensure(inspection, folder)
    images, _ = read_holdout(folder)
    assert len(images) == len(list((inspection / "test").rglob("*.png")))


def test_the_gate_does_not_lock_other_images_in_silence(planted: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(planted["inspection"], tmp_path / "inspection")
    folder = tmp_path / "data/holdout"
    freeze(planted["inspection"], folder)
    shutil.rmtree(folder)
    Image.new("L", (8, 8)).save(next((tmp_path / "inspection/test/good").iterdir()))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = ["gate", "--root", str(tmp_path), "--training", "inspection"]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError)
    assert "today's test split is another" in str(done.exception)


def test_a_challenger_that_learnt_from_the_holdout_is_rejected(
    judge: Any, planted: dict[str, Path], holdout: Path, tmp_path: Path
) -> None:
    training = Path(shutil.copytree(planted["inspection"], tmp_path / "inspection"))
    assert leaks(holdout, training) == []
    shutil.copy(training / "test/good/200.png", training / "train/good/0.png")
    assert leaks(holdout, training) == ["test/good/200.png"]
    content = judge("good", "half_blind", training=training)
    assert content["verdict"] == "REJECT"
    assert "learnt from 1 images of the holdout, such as test/good/200.png" in content["reason"]
    scenes = (training / "scenes.csv").read_text()
    (training / "scenes.csv").write_text(
        scenes.replace("train/good/1.png,good0", "train/good/1.png,square150")
    )
    assert "test/square/301.png" in leaks(holdout, training)


@pytest.mark.usefixtures("quick")
def test_data_without_defects_make_no_holdout(planted: dict[str, Path], tmp_path: Path) -> None:
    inspection = Path(shutil.copytree(planted["inspection"], tmp_path / "inspection"))
    for kind in ("square", "stripe"):
        shutil.rmtree(inspection / "test" / kind)
    with pytest.raises(UserError, match="comparing detectors takes good and defective"):
        freeze(inspection, tmp_path / "holdout")


def test_a_folder_that_was_named_and_is_not_there_is_no_first_detector(
    planted: dict[str, Path], holdout: Path, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    common = [
        "gate",
        "--root",
        str(tmp_path),
        "--challenger",
        str(planted["good"]),
        "--holdout",
        str(holdout),
    ]
    for option in ("--champion", "--training"):
        done = CliRunner().invoke(app, [*common, option, "models/old_chmapion"])
        assert isinstance(done.exception, UserError)
        assert f"{option} {tmp_path}/models/old_chmapion does not exist" in str(done.exception)


def test_each_detector_sees_the_holdout_with_its_own_channels(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    source = tmp_path / "inspection"
    shutil.copytree(planted["inspection"], source)
    first = sorted((source / "test/good").glob("*.png"))[0]
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(first)
    freeze(source, tmp_path / "holdout")
    images, _ = read_holdout(tmp_path / "holdout")

    class Seeing:
        version, precision, threshold = "v", "fp32", 0.5

        def __init__(self, channels: int) -> None:
            self.channels = channels
            self.seen: list[np.ndarray] = []

        def predict(self, image: np.ndarray) -> Any:
            self.seen.append(image)
            return SimpleNamespace(score=0.0)

    grey, coloured = Seeing(1), Seeing(3)
    for detector in (grey, coloured):
        score_all(detector, images)  # type: ignore[arg-type]
    index = next(number for number, item in enumerate(images) if item.name == f"good/{first.stem}")
    assert np.array_equal(coloured.seen[index], red)
    assert {image.ndim for image in grey.seen} == {2}
    assert np.array_equal(grey.seen[index], as_channels(red, 1))


def test_what_a_file_manager_leaves_in_the_holdout_changes_no_verdict(holdout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "holdout"
    shutil.copytree(holdout, folder)
    shutil.copy(card_path(holdout), card_path(folder))
    for name in ("Thumbs.db", "test/good/.DS_Store"):
        (folder / name).write_bytes(b"left")
    assert len(read_holdout(folder)[0]) == len(read_holdout(holdout)[0])
