"""The command `metaldefect` from images to heat maps: synthetic, real and generated sources, wrong input."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from metaldefect.artifacts import read_json
from metaldefect.commands import sources, train
from metaldefect.commands.settings import load_settings
from metaldefect.efficientad import held_out
from metaldefect.efficientad.model_files import load_detector
from metaldefect.efficientad.size_choice import SizeChoice
from metaldefect.efficientad.teacher_weights import save_teacher
from metaldefect.efficientad.torch_model import LAYERS, PatchDescriptionNetwork
from metaldefect.errors import UserError
from metaldefect.images import ImageSize, write_png
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image
from pipeline.cli import main
from tests.slim_detector import SLIM, save_slim_teacher
from tests.tiny_models import CLASSES, save_tiny_painter

CONFIG = Path(__file__).parents[2] / "conf/efficientad.yaml"
SMALL = ["--steps", "6", "--checkpoint-steps", "3", "--penalty-images", "4", "--image-size", "128"]
SMALL += ["--no-export"]
PAINTED, FEW = ("CURVE_DEFECTS", "CALIBRATION_DEFECTS"), 4
# The command in a process of its own, with the networks and as many painted defects as this process has
COMMAND = f"""\
import os
from pathlib import Path
from metaldefect.commands import train
from metaldefect.efficientad import held_out
from metaldefect.efficientad.torch_model import LAYERS
from pipeline.cli import main
from tests.slim_detector import SLIM
for name in {PAINTED}:
    setattr(held_out, name, {FEW})
LAYERS["S"] = SLIM
train.shipped_teacher = lambda _: Path(os.environ["SLIM_TEACHER"])
main()
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Networks with few channels and few painted defects: whole ones run in tests/e2e/test_new_project.py."""
    for name in PAINTED:
        monkeypatch.setattr(held_out, name, FEW)
    monkeypatch.setitem(LAYERS, "S", SLIM)
    teacher = save_slim_teacher(tmp_path_factory.mktemp("teacher") / "slim.safetensors")
    monkeypatch.setenv("SLIM_TEACHER", str(teacher))
    monkeypatch.setattr(train, "shipped_teacher", lambda _: teacher)


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """A small category folder in MVTec AD's layout; images are not square."""
    root = tmp_path / "plates"
    for k in range(9):
        write_png(root / f"train/good/{k:03d}.png", generate_normal_image(k, 140)[:, :120])
    for k in range(3):
        write_png(root / f"test/good/{k:03d}.png", generate_normal_image(100 + k, 140)[:, :120])
        image, mask = generate_anomalous_image("contamination", np.random.default_rng(k), 140)
        mask[60, 60] = True  # not outside the part that is kept
        write_png(root / f"test/stain/{k:03d}.png", image[:, :120])
        write_png(root / f"ground_truth/stain/{k:03d}_mask.png", mask[:, :120].astype(np.uint8) * 255)
    return root


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open() as stream:
        return list(csv.DictReader(stream))


def succeed(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0


def refused(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, str), "an input error is one message"
    return stop.value.code


def test_synthetic_images_from_training_to_heat_maps(tmp_path: Path) -> None:
    settings = yaml.safe_load(CONFIG.read_text()) | {
        "synthetic": {"train": 6, "validation": 3, "test_normal": 4, "test_anomalies": 2}
    }
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    model = tmp_path / "detector"
    succeed(["train", "--config", str(config), "--output", str(model), *SMALL])
    metrics = read_json(model / "metrics.json")
    assert metrics["images"] == {"good": 4, "defective": 6}
    assert set(metrics["per_type"]) == {"scratch", "contamination", "misplaced_object"}
    assert metrics["steps"] == 6
    assert sorted(path.name for path in (model / "figures").iterdir()) == [
        "expected_cost.png",
        "heat_maps_best_median_worst.png",
        "operating_points.png",
        "pro_curve.png",
        "roc.png",
        "score_histogram.png",
        "validation_curve.png",
        "wrong_images.png",
    ]
    assert set(metrics["paper_score"]) == {"image_auroc", "au_pro", "f1_max"}
    assert 0 <= metrics["memory_bank"]["image_auroc"] <= 1
    assert [point["step"] for point in metrics["validation_curve"]["points"]] == [3, 6]
    assert not list(tmp_path.glob(".detector.training*"))

    succeed(["detect", "--model", str(model), "--synthetic", "5", "--output", str(tmp_path / "maps")])
    rows = rows_of(tmp_path / "maps")
    assert [row["image"].split("_", 1)[1] for row in rows[:2]] == ["good.png", "scratch.png"]
    for row in rows:
        with Image.open(tmp_path / "maps" / row["heat_map"]) as picture:
            assert picture.size == (128, 128)
            assert picture.mode == "RGB"
        assert row["is_anomalous"] == str(float(row["score"]) > float(row["threshold"]))


def test_real_images_from_training_to_heat_maps(tmp_path: Path, category: Path) -> None:
    model, maps = tmp_path / "detector", tmp_path / "maps"
    source = ["--source", "real", "--root", str(category)]
    succeed(["train", "--config", str(CONFIG), "--output", str(model), *source, *SMALL])
    metrics = read_json(model / "metrics.json")
    assert metrics["images"] == {"good": 3, "defective": 3}
    assert metrics["validation_images"] >= 1
    assert metrics["train_images"] + metrics["validation_images"] <= 8, "one of nine is for the curve alone"
    assert metrics["calibration"]["map_weights"]["method"].startswith("the paper's 0.5 and 0.5: ")
    succeed(["detect", "--model", str(model), "--image", str(category / "test"), "--output", str(maps)])
    rows = rows_of(maps)
    assert len(rows) == 6
    # What is inferred is what was tested.
    for kind, rate in (("good", "false_alarm_rate"), ("stain", "detection_rate")):
        flags = [row["is_anomalous"] == "True" for row in rows if row["image"].startswith(f"{kind}/")]
        assert np.mean(flags) == pytest.approx(metrics[rate], abs=1e-6)
    with Image.open(maps / "stain/000.png.heat.png") as picture:
        assert picture.size == (120, 140)
    succeed(
        [
            "detect",
            "--model",
            str(model),
            "--image",
            str(category / "test/stain/001.png"),
            "--output",
            str(maps),
        ]
    )
    assert [row["image"] for row in rows_of(maps)] == ["001.png"]


def test_the_size_that_painted_defects_choose_is_the_detectors(
    tmp_path: Path, category: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def choose(_provider: object, largest: ImageSize, *_: object) -> SizeChoice:
        asked.append(largest)
        return SizeChoice(128, {"256": 0.7, "128": 0.8}, "image size: 128; because")

    monkeypatch.setattr(sources, "choose_size", choose)
    model = tmp_path / "detector"
    arguments = ["train", "--source", "real", "--root", str(category), "--output", str(model), *SMALL]
    arguments.remove("--image-size")
    arguments.remove("128")
    succeed(arguments)
    assert asked == [256]
    assert "image size: 128; because" in capsys.readouterr().out
    assert load_detector(model)[1].image_size == 128
    assert read_json(model / "metrics.json")["painted_auroc_by_image_size"] == {"256": 0.7, "128": 0.8}


def test_an_output_replaces_nothing_but_a_detector(
    tmp_path: Path, category: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/notes.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["train", "--root", str(category), *SMALL, "--output"]
    for output, message in {
        category: "holds the images of --root: choose another folder",
        category.parent: "holds the images of --root: choose another folder",
        tmp_path / "models": "exists and holds no detector: choose another folder",
        tmp_path / "file": "exists and holds no detector: choose another folder",
    }.items():
        assert message in refused([*arguments, str(output)])
    monkeypatch.chdir(tmp_path / "models")
    assert "--output . holds the folder you are in: name a new folder" in refused([*arguments, "."])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_a_dataset_alone_makes_its_images_the_real_ones(tmp_path: Path) -> None:
    found = load_settings(None, {"root": tmp_path})
    assert (found.source, found.output.name) == ("real", tmp_path.name)
    assert load_settings(None, {"root": tmp_path, "source": "generated"}).source == "generated"
    assert load_settings(None, {}).source == "synthetic"
    for given in (None, CONFIG):
        with pytest.raises(UserError, match="synthetic draws its own images and reads no root"):
            load_settings(given, {"root": tmp_path, "source": "synthetic"})


def test_a_killed_training_keeps_its_image_size_until_the_images_change(
    tmp_path: Path, category: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[ImageSize] = []

    def choose(_provider: object, largest: ImageSize, *_: object) -> SizeChoice:
        asked.append(largest)
        return SizeChoice((128, 160), {"256": 0.7, "128x160": 0.8}, "because")

    def killed(_provider: object, size: ImageSize, _seed: int) -> None:
        assert size == (128, 160)
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "choose_size", choose)
    monkeypatch.setattr(train, "hold_out", killed)
    arguments = ["train", "--source", "real", "--root", str(category), "--output", str(tmp_path / "detector")]

    def chosen_so_far() -> int:
        with pytest.raises(SystemExit):
            main(arguments)
        assert "because" in capsys.readouterr().out
        return len(asked)

    assert chosen_so_far() == 1
    assert chosen_so_far() == 1
    write_png(category / "train/good/000.png", generate_normal_image(77, 140)[:, :120])
    assert chosen_so_far() == 2


def test_a_training_killed_by_the_system_goes_on_to_the_same_losses(
    tmp_path: Path, category: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(output: Path) -> list[str]:
        source = ["--source", "real", "--root", str(category), "--output", str(output)]
        return ["train", "--config", str(CONFIG), *source, *SMALL]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments(killed)], cwd=CONFIG.parents[1])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".killed.training/last.ckpt")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not killed.exists()
    capsys.readouterr()
    succeed(arguments(killed))
    resumed = capsys.readouterr().out
    assert "step 6/6" in resumed
    assert "step 3/6" not in resumed, "it did not go on but began anew"
    succeed(arguments(whole))
    assert read_json(killed / "losses.json") == read_json(whole / "losses.json")
    assert read_json(killed / "metrics.json") == read_json(whole / "metrics.json")


def test_good_images_alone_from_the_folder_that_holds_them(
    tmp_path: Path, category: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(category / "test")
    shutil.rmtree(category / "ground_truth")
    monkeypatch.chdir(category)
    succeed(["train", "--source", "real", *SMALL])
    printed = capsys.readouterr().out
    last = printed.splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == ["quality", "which one", "threshold"]
    assert "on real defects not measured (0 good and 0 defective test images); of painted defects" in last[0]
    assert "cannot be measured: the test needs good and defective images" in last[1]
    assert "a rate of 1 % cannot be set, 100 are needed" in last[2]
    assert last[2].endswith("metaldefect calibrate models/plates --false-alarms 5%")
    metrics = read_json(category / "models/plates/metrics.json")
    assert metrics["images"] == {"good": 0, "defective": 0}
    figures = {path.name for path in (category / "models/plates/figures").iterdir()}
    assert figures == {
        "expected_cost.png",
        "operating_points.png",
        "score_histogram.png",
        "validation_curve.png",
    }


def test_another_layout_is_converted_first(tmp_path: Path) -> None:
    root = tmp_path / "tiles"
    for k in range(40):
        path = root / f"MT_Free/Imgs/{k:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate_normal_image(k, 128)).save(path, quality=95)
    image, mask = generate_anomalous_image("scratch", np.random.default_rng(0), 128)
    (root / "MT_Crack/Imgs").mkdir(parents=True)
    Image.fromarray(image).save(root / "MT_Crack/Imgs/0.jpg", quality=95)
    Image.fromarray(mask.astype(np.uint8) * 255).save(root / "MT_Crack/Imgs/0.png")
    model = tmp_path / "detector"
    source = ["--source", "real", "--adapter", "magnetic_tile", "--root", str(root)]
    succeed(["train", "--config", str(CONFIG), "--output", str(model), *source, *SMALL])
    metrics = read_json(model / "metrics.json")
    assert metrics["images"]["defective"] == 1
    counted = metrics["train_images"], metrics["validation_images"], metrics["images"]["good"]
    # By scene: 7 validation images and 2 of the 3 canvases set the threshold; the third is the curve's alone
    assert counted == (20, 9, 10)
    assert metrics["validation_curve"]["points"]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, category: Path) -> None:
    model, maps = tmp_path / "detector", tmp_path / "maps"
    source = ["--source", "real", "--root", str(category)]
    succeed(["train", "--config", str(CONFIG), "--output", str(model), *source, *SMALL, "--steps", "1"])
    (category / "test/good/001.png").write_bytes(b"no image")
    message = refused(
        ["detect", "--model", str(model), "--image", str(category / "test"), "--output", str(maps)]
    )
    assert "1 images could not be read" in message
    assert "good/001.png" in message
    refusals = {row["image"]: row["refused"] for row in rows_of(maps) if row["refused"]}
    assert list(refusals) == ["good/001.png"]
    assert "unreadable image" in refusals["good/001.png"]
    assert len(rows_of(maps)) == 6

    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = refused(["detect", "--model", str(model), "--synthetic", "1", "--output", str(maps)])
    assert "model.safetensors has SHA-256" in message
    assert "restore the file" in message


def test_wrong_folders_are_named_before_any_training(tmp_path: Path, category: Path) -> None:
    def message(*extra: str) -> str:
        options = ["--output", str(tmp_path / "detector"), "--source", "real", "--root", str(category)]
        return refused(["train", "--config", str(CONFIG), *options, *extra])

    (category / "train/good").rename(category / "train/fine")
    assert "train/good does not exist" in message("--adapter", "mvtec_ad")
    assert "plates holds no normal images" in message()  # the layout is recognised, not given
    (category / "train/fine").rename(category / "train/good")

    mask = category / "ground_truth/stain/001_mask.png"
    write_png(mask, np.zeros((64, 64), np.uint8))
    assert "test/stain/001.png: its mask 001_mask.png: " in message()


def test_wrong_models_are_named(tmp_path: Path, category: Path) -> None:
    options = ["train", "--config", str(CONFIG), "--output", str(tmp_path / "detector")]
    teacher = tmp_path / "teacher.safetensors"
    save_teacher(teacher, PatchDescriptionNetwork("M"), {})
    message = refused([*options, "--teacher", str(teacher)])
    assert "teacher.safetensors holds a PDN-M teacher, but model is S" in message
    settings = yaml.safe_load(CONFIG.read_text())
    settings["generated"]["tokenizer"] = str(tmp_path / "vq")
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    generated = ["--config", str(config), "--source", "generated", "--root", str(category)]
    assert "vq does not exist: inserting defects needs its model" in refused([*options, *generated])
    detect = ["detect", "--output", str(tmp_path / "maps"), "--synthetic", "1", "--model"]
    assert "nowhere does not exist: train a detector" in refused([*detect, str(tmp_path / "nowhere")])
    assert "config.json does not exist" in refused([*detect, str(tmp_path)])


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copy conf/efficientad\.yaml"):
        load_settings(tmp_path / "none.yaml", {})
    config = tmp_path / "settings.yaml"
    content = yaml.safe_load(CONFIG.read_text())
    config.write_text(yaml.safe_dump(content | {"stepz": 3, "image_size": 64}))
    with pytest.raises(UserError, match="stepz: Extra inputs are not permitted") as error:
        load_settings(config, {})
    assert "image_size: Value error, 64 x 64 px: at least 128 per side are needed" in str(error.value)
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="source: real needs root"):
        load_settings(config, {"source": "real"})
    assert load_settings(config, {"steps": 7}).steps == 7


def test_generated_defects_from_training_to_heat_maps(tmp_path: Path, category: Path) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    settings = yaml.safe_load(CONFIG.read_text())
    places = {"tokenizer": str(tmp_path / "vq"), "maskgit": str(tmp_path / "maskgit")}
    settings["generated"] |= {**places, "per_class": 6, "steps": 2}
    config, model = tmp_path / "settings.yaml", tmp_path / "detector"
    config.write_text(yaml.safe_dump(settings))
    source = ["--source", "generated", "--root", str(category), "--output", str(model)]
    succeed(["train", "--config", str(config), *source, *SMALL])
    metrics = read_json(model / "metrics.json")
    assert metrics["images"]["good"] == 3
    # Half of them choose the weights of the maps, and those that cannot be seen are left out.
    assert 1 <= metrics["images"]["defective"] <= 3 * len(CLASSES)
    assert 1 <= metrics["calibration"]["map_weights"]["defects"] <= 3 * len(CLASSES)
    assert set(metrics["per_type"]) == set(CLASSES)


def test_an_output_never_replaces_another_model_or_a_folder_that_looks_like_a_detector(
    tmp_path: Path, category: Path
) -> None:
    keys = ("size", "padding", "image_size", "teacher_mean", "teacher_std", "sha256")
    detector = json.dumps(dict.fromkeys(keys, 0))
    arguments = ["train", "--root", str(category), *SMALL, "--output"]
    for name, weights, config in (
        ("vq", "tokenizer.safetensors", '{"codebook_size": 512, "sha256": "x"}'),
        ("another", "model.safetensors", '{"size": "S", "sha256": "x"}'),
        ("weightless", "notes.txt", detector),
        ("broken", "model.safetensors", '{"size": '),
        ("list", "model.safetensors", "[]"),
        ("latin", "model.safetensors", "\xfc"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / weights).write_text("precious")
        (folder / "config.json").write_text(config, encoding="latin-1")
        assert "exists and holds no detector: choose another folder" in refused([*arguments, str(folder)])
        assert (folder / weights).read_text() == "precious"
    (tmp_path / "weightless/model.safetensors").write_text("weights")
    assert train.holds_detector(tmp_path / "weightless")
