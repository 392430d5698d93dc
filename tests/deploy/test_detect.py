"""`metaldefect detect` with an exported detector: patterns, tiles, watched folders, signatures."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.artifacts import write_json
from metaldefect.commands.detect import Model, run_detection, watch_frames
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.signature import sign
from pipeline.cli import main
from tests.deploy.keys import key_files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, top in (("a/calm.png", 40), ("a/loud.png", 256), ("b/calm.png", 40)):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, top, (140, 170)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def detect(model: Path, image: str | Path, output: Path, *more: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(["detect", "--model", str(model), "--image", str(image), "--output", str(output), *more])
    return stop.value.code


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_pattern_gives_table_json_lines_and_overlays(exported: Path, photos: Path, tmp_path: Path) -> None:
    assert detect(exported, f"{photos}/*/calm.png", tmp_path / "out", "--precision", "fp32") == 0
    table = rows(tmp_path / "out")
    assert [row["image"] for row in table] == [f"{photos}/{name}/calm.png".lstrip("/") for name in "ab"]
    detector = Detector.load(exported, "fp32", self_test=False)
    expected = detector.predict(np.asarray(Image.open(photos / "a/calm.png")))
    assert float(table[0]["score"]) == pytest.approx(expected.score, abs=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert [line["is_anomalous"] for line in lines] == [row["is_anomalous"] == "True" for row in table]
    assert lines[0]["score"] == float(table[0]["score"])
    with Image.open(tmp_path / "out" / table[0]["heat_map"]) as picture:
        assert (picture.size, picture.mode) == ((170, 140), "RGB")
    assert "does not exist: name an image, a folder of images or a pattern" in str(
        detect(exported, f"{photos}/*/none.png", tmp_path / "out")
    )
    (tmp_path / "notes.txt").touch()
    assert "matches no image (.bmp," in str(detect(exported, f"{tmp_path}/*.txt", tmp_path / "out"))
    assert rows(tmp_path / "out") == table, "results stay"


def test_a_pattern_that_reaches_the_results_leaves_them_out(
    exported: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "line")
    for _ in range(2):
        assert detect(exported, f"{tmp_path}/line/**/*.png", tmp_path / "line/maps") == 0
        assert len(rows(tmp_path / "line/maps")) == len(list(photos.rglob("*.png")))
    assert f"{tmp_path}/line/maps/**/*.png matches lie inside --output {tmp_path}/line/maps, where" in str(
        detect(exported, f"{tmp_path}/line/maps/**/*.png", tmp_path / "line/maps")
    )


def test_tiles_score_the_image_at_its_own_size(exported: Path, photos: Path, tmp_path: Path) -> None:
    assert detect(exported, photos / "a", tmp_path / "out", "--precision", "fp32", "--tiles", "32") == 0
    detector = Detector.load(exported, "fp32", self_test=False)
    expected = detector.predict_tiles(np.asarray(Image.open(photos / "a/loud.png")), 32)
    assert float(rows(tmp_path / "out")[1]["score"]) == pytest.approx(expected.score, abs=1e-3)
    assert expected.score != pytest.approx(
        detector.predict(np.asarray(Image.open(photos / "a/loud.png"))).score, abs=1e-3
    )


def test_a_watched_folder_gives_each_image_once_it_is_whole(photos: Path) -> None:
    looks = 0

    def arrive(_seconds: float) -> None:
        """Between two looks, an image arrives in two parts."""
        nonlocal looks
        looks += 1
        data = (photos / "a/loud.png").read_bytes()
        if looks == 2:
            (photos / "new.png").write_bytes(data[:100])
        elif looks == 3:
            (photos / "new.png").write_bytes(data)
        elif looks == 6:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for frame in watch_frames(photos, wait=arrive):
            seen.append(frame.name)
            assert frame.load().shape == (140, 170)
    assert seen == ["a/calm.png", "a/loud.png", "b/calm.png", "new.png"]


def test_a_watched_folder_gives_rewritten_images_again_and_outlives_what_vanishes(photos: Path) -> None:
    looks = 0
    latest = photos / "a/calm.png"
    (photos / "dangling.png").symlink_to(photos / "nowhere.png")
    (photos / "empty.png").touch()

    def change(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            Image.fromarray(np.zeros((50, 60), np.uint8)).save(latest)
        elif looks == 4:
            (photos / "b/calm.png").unlink()
            (photos / "empty.png").write_bytes(latest.read_bytes())
        elif looks == 7:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for frame in watch_frames(photos, wait=change):
            seen.append((frame.name, frame.load().shape[0]))
    assert seen[3:] == [("a/calm.png", 50), ("empty.png", 50)]


def test_a_watch_outlives_a_subfolder_that_vanishes_while_it_is_listed(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder, doomed = os.scandir, [photos / "b"]

    def vanish(folder: str | Path) -> Iterator[os.DirEntry[str]]:
        if doomed and Path(folder) == doomed[0]:
            shutil.rmtree(doomed.pop())
        return list_folder(folder)

    monkeypatch.setattr(os, "scandir", vanish)
    frames = watch_frames(photos, wait=lambda _seconds: None)
    assert [next(frames).name for _ in range(2)] == ["a/calm.png", "a/loud.png"]
    assert not doomed


def brightness() -> Model:
    """A model whose score is an image's mean grey level."""
    return Model(lambda image: (float(image.mean()), np.zeros(image.shape, np.float32)), 128, 50.0)


def watch_once(photos: Path, output: Path) -> int:
    """Watch a folder until all that lies in it is scored, as a watch that starts again; count the images."""
    looks = 0

    def wait(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    return run_detection(brightness(), watch_frames(photos, wait=wait), output, append=True)[0]


def test_a_watch_that_starts_again_scores_only_what_is_new_or_rewritten(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (photos / "broken.png").write_text("no image")
    assert watch_once(photos, output) == 3
    assert watch_once(photos, output) == 0
    first = ["a/calm.png", "a/loud.png", "b/calm.png", "broken.png"]
    assert [row["image"] for row in rows(output)] == first, "what was refused stays refused"
    shutil.copy(photos / "a/loud.png", photos / "new.png")
    times = (photos / "b/calm.png").stat()
    Image.fromarray(np.full((140, 170), 200, np.uint8)).save(photos / "b/calm.png")
    os.utime(photos / "b/calm.png", ns=(times.st_atime_ns, times.st_mtime_ns - 10**9))  # copied with its time
    assert watch_once(photos, output) == 2
    table = rows(output)
    assert [row["image"] for row in table] == [*first, "b/calm.png", "new.png"]
    assert float(table[4]["score"]) == 200
    lines = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert [(line["image"], line.get("score")) for line in lines] == [
        (row["image"], float(row["score"]) if row["score"] else None) for row in table
    ]


@pytest.mark.parametrize("torn", ["b/calm.png,25", 'b/calm.png,,50.0,,,"unreadable ima'])
def test_a_row_that_a_power_cut_has_torn_costs_no_other_row(photos: Path, tmp_path: Path, torn: str) -> None:
    output = tmp_path / "out"
    watch_once(photos, output)
    table, lines = output / "scores.csv", output / "scores.jsonl"
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-1]) + torn.encode())
    whole = lines.read_text()
    lines.write_text(whole[: whole.rindex("{") + 20])
    assert watch_once(photos, output) == 1
    names = [row["image"] for row in rows(output)]
    assert names == ["a/calm.png", "a/loud.png", "b/calm.png", "b/calm.png"]
    assert rows(output)[-1]["heat_map"] == "b/calm.png.heat.png"
    last = [json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}")]
    assert [line["image"] for line in last] == ["a/calm.png", "a/loud.png", "b/calm.png"]
    assert watch_once(photos, output) == 0


def test_heat_maps_stay_inside_the_results_and_names_within_the_file_systems_limit(
    exported: Path, photos: Path, tmp_path: Path
) -> None:
    long = photos / f"{'x' * 248}.png"
    long.write_bytes((photos / "a/calm.png").read_bytes())
    output = tmp_path / "deep/out"
    assert detect(exported, f"{photos}/a/../x*.png", output) == 0
    assert detect(exported, photos, output) == 0
    for row in rows(output):
        assert (output / row["heat_map"]).resolve().is_relative_to(output)
        assert (output / row["heat_map"]).is_file()


def test_a_demanded_signature(bundle: Path, photos: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path, "plant")
    key = ["--public-key", str(public)]
    assert "metadata.sig does not exist" in str(detect(bundle, photos, tmp_path / "out", *key))
    sign(bundle, private)
    assert detect(bundle, photos, tmp_path / "out", *key) == 0
    write_json(bundle / "metadata.json", {})
    assert "the bundle was changed" in str(detect(bundle, photos, tmp_path / "out", *key))
