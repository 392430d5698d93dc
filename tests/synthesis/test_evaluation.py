"""Seams: which real defects they are compared with, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from metaldefect.images import U8, Channels, write_png
from metaldefect.ingest.loading import load_images
from metaldefect.metrics.generation_suite import Labelled
from metaldefect.metrics.judge_config import JudgeSettings
from metaldefect.synthesis import evaluation
from metaldefect.synthesis.evaluation import (
    RealSides,
    block_ratios,
    gain_at,
    insertion_block_ratio,
    judge_drawn_images,
    real_border_gradients,
    seam_metrics,
)
from metaldefect.synthesis.figures import inserted_defects, mixed_sheet, real_and_drawn
from metaldefect.synthesis.insertion_set import InsertedImage

SIDE = 24
STEP = {"inclusion": 20, "patches": 40, "scratches": 80}


def square_mask() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:16, 8:16] = True
    return mask


def square_image(step: int) -> U8:
    image = np.full((SIDE, SIDE), 100, np.uint8)
    image[square_mask()] += np.uint8(step)
    return image


def write_merged(root: Path, per_class: int, masks: bool = True) -> None:
    """A table sorted by label, as the merged one is; every image is a photograph of its own."""
    rows = []
    for label, step in STEP.items():
        for number in range(per_class):
            path, mask_path = f"images/{label}/{number}.png", f"masks/{label}/{number}.png"
            write_png(root / path, square_image(step))
            write_png(root / mask_path, square_mask().astype(np.uint8) * 255)
            rows.append((path, label, f"{label}{number}", f"{number}{label}", mask_path if masks else None))
    columns = ["path", "label", "group", "sha256", "mask_path"]
    pd.DataFrame(rows, columns=columns).to_parquet(root / "samples.parquet")


def insertion(step: int, canvas: int = 0) -> InsertedImage:
    """Canvases of different numbers differ in brightness alone."""
    images = (square_image(level) + np.uint8(canvas) for level in (10, step, 2 * step))
    whole = (slice(0, SIDE), slice(0, SIDE))
    return InsertedImage("scratches", *images, square_mask(), square_mask(), whole)


def test_real_borders_are_spread_over_classes(tmp_path: Path) -> None:
    write_merged(tmp_path, per_class=4)
    values = real_border_gradients(tmp_path, limit=3)
    # The gradient of a square's border is proportional to its step: one image of each class, not three of one
    assert sorted(round(value / min(values)) for value in values) == [1, 2, 4]


def test_where_no_image_has_a_mask_the_metric_is_left_out_and_named(tmp_path: Path) -> None:
    write_merged(tmp_path, per_class=1, masks=False)
    assert real_border_gradients(tmp_path, limit=3) == []
    found = seam_metrics([insertion(20, 0), insertion(20, 1)], [], [])
    assert found["inserted_to_canvas"] == pytest.approx(2.0)
    assert found["pasted_to_canvas"] == pytest.approx(4.0)
    assert not {"real", "inserted_to_real", "inserted_to_real_inspection"} & found.keys()
    assert found["left_out"] == {
        "real": "no image of the merged set has a mask",
        "inserted_to_real": "no image of the merged set has a mask",
        "inserted_to_real_inspection": "0 masks in the inspection set, 2 are needed",
        "pasted_to_real_inspection": "0 masks in the inspection set, 2 are needed",
    }


def test_seams_stand_beside_real_borders() -> None:
    canvas = seam_metrics([insertion(20, 0), insertion(20, 1)], [], [])["canvas"]
    found = seam_metrics([insertion(20, 0), insertion(40, 1)], [2 * canvas], [3 * canvas, 3 * canvas])
    assert found["left_out"] == {}
    assert found["inserted_to_real"] == pytest.approx(1.5)
    assert found["inserted_to_real_inspection"] == pytest.approx(1.0)
    low, high = found["interval_95"]["inserted_to_canvas"]
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(4.0)


def test_an_interval_needs_two_canvases_with_visible_insertions() -> None:
    for insertions, canvases in (([], 0), ([insertion(20), insertion(40)], 1)):
        found = seam_metrics(insertions, [1.0], [])
        assert found == {"left_out": {"all of it": f"visible insertions in {canvases} images, 2 are needed"}}


def test_insertions_in_one_canvas_widen_the_interval_together() -> None:
    apart = [insertion(20 + 4 * k, k) for k in range(8)]
    together = [insertion(20 + 4 * k, k // 2) for k in range(8)]
    widths = []
    for insertions in (apart, together):
        low, high = seam_metrics(insertions, [], [])["interval_95"]["inserted_to_canvas"]
        widths.append(high - low)
    assert widths[1] > 1.15 * widths[0]


def test_block_ratios_of_drawn_images_name_the_worst_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for label, grid in (("smooth", 0), ("blocky", 60)):
        for number in range(3):
            noise = rng.integers(90, 110, (64, 64))
            cells = grid * rng.integers(0, 2, (4, 4)).repeat(16, axis=0).repeat(16, axis=1)
            path = f"images/{label}/{number}.png"
            write_png(tmp_path / path, (noise + cells).astype(np.uint8))
            rows.append((path, label))
    pd.DataFrame(rows, columns=["path", "label"]).to_parquet(tmp_path / "samples.parquet")
    found = block_ratios(tmp_path, 64, 16)
    assert found["per_class"]["smooth"] == pytest.approx(1.0, abs=0.05)
    assert found["highest"] == found["per_class"]["blocky"] > 2
    assert found["low"] < found["mean"] < found["high"]


def inserted_cells(step: int, window: tuple[int, int], number: int = 0) -> InsertedImage:
    """A rectangle of noise in a noisy canvas; the squares of 4 pixels of its window's grid differ by a step.

    The window has 32 pixels; its corner is given.
    """
    rng = np.random.default_rng(number)
    canvas = rng.integers(90, 110, (64, 64)).astype(np.uint8)
    rows, columns = (slice(start, start + 32) for start in window)
    mask = np.zeros((64, 64), bool)
    mask[rows, columns][6:26, 9:29] = True
    cells = step * rng.integers(0, 2, (8, 8)).repeat(4, axis=0).repeat(4, axis=1)
    drawn = canvas.copy()
    drawn[rows, columns] += cells.astype(np.uint8)
    image = np.where(mask, drawn, canvas)
    return InsertedImage("scratches", canvas, image, image, mask, mask, (rows, columns))


def test_the_block_ratio_of_insertions_is_measured_on_each_ones_own_grid() -> None:
    corners = [(0, 0), (5, 7), (13, 30), (32, 1)]  # most of these grids are not the canvas's
    plain = [inserted_cells(0, corner, number) for number, corner in enumerate(corners)]
    blocky = [inserted_cells(60, corner, number) for number, corner in enumerate(corners)]
    found = insertion_block_ratio(blocky, 32, 4)
    assert found["mean"] > 3
    assert found["low"] < found["mean"] < found["high"]
    assert found["insertions"] == 4
    assert found["canvas"] == pytest.approx(1.0, abs=0.1)
    assert insertion_block_ratio(plain, 32, 4)["mean"] == pytest.approx(found["canvas"])
    elsewhere = [item._replace(window=(slice(2, 34), slice(2, 34))) for item in blocky[:1] * 2 + blocky[1:2]]
    assert insertion_block_ratio(elsewhere, 32, 4)["mean"] < 1
    twice = insertion_block_ratio(blocky, 64, 8)
    assert twice["mean"] > 2  # windows are resized to the painter's size


def test_the_block_ratio_of_insertions_needs_two_images_and_borders_of_cells() -> None:
    reason = "visible insertions across token cells in {} images, 2 are needed"
    assert insertion_block_ratio([], 32, 4) == {"left_out": reason.format(0)}
    one = inserted_cells(60, (0, 0))
    assert insertion_block_ratio([one, one], 32, 4) == {"left_out": reason.format(1)}
    speck = np.zeros((64, 64), bool)
    speck[9:11, 9:11] = True  # inside one cell
    assert insertion_block_ratio([one, inserted_cells(60, (0, 0), 1)._replace(mask=speck)], 32, 4) == {
        "left_out": reason.format(1)
    }


def test_drawn_images_are_judged_by_a_network_that_learnt_from_real_training_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the judge shares no features with the selection")

    monkeypatch.setattr("metaldefect.backbones.pooled_features", refuse)
    monkeypatch.setattr("metaldefect.synthesis.evaluation.pooled_features", refuse)
    rng = np.random.default_rng(0)

    def write(folder: Path, splits: dict[str, int], swapped: bool = False) -> None:
        rows = []
        for split, count in splits.items():
            for label in ("coarse", "fine"):
                cell = 8 if (label == "coarse") != swapped else 1
                for number in range(count):
                    noise = rng.integers(90, 160, (32 // cell, 32 // cell)).astype(np.uint8)
                    path, key = f"images/{split}{label}{number}.png", f"{split}{label}{number}"
                    write_png(folder / path, noise.repeat(cell, axis=0).repeat(cell, axis=1))
                    rows.append((path, label, split, "s", key, key, key))
        columns = ["path", "label", "split", "source", "group", "scene", "sha256"]
        pd.DataFrame(rows, columns=columns).to_parquet(folder / "samples.parquet")

    write(tmp_path / "merged", {"train": 20, "validation": 3, "test": 6})
    settings = JudgeSettings(image_size=32, steps=30, batch_size=8, warmup_steps=2, check_steps=10)
    for swapped, agreement in ((False, 1.0), (True, 0.0)):
        write(tmp_path / str(swapped), {"drawn": 5}, swapped)
        found = judge_drawn_images(tmp_path / "merged", tmp_path / str(swapped), settings, seed=0)
        assert found["judge_accuracy_on_real"]["mean"] == 1.0
        assert found["class_agreement_independent"]["mean"] == agreement


def blobs(per_class: int, spread: float, seed: int) -> Labelled:
    """Features of three classes on a line in 40 dimensions, blurred by noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array(list(STEP)), per_class)
    centres = np.repeat(np.arange(3.0), per_class)[:, None] * np.ones(40) * 0.35
    features = (centres + rng.normal(0, spread, (len(labels), 40))).astype(np.float32)
    return Labelled.ungrouped(features, labels)


def test_drawn_images_of_the_right_classes_add_to_a_few_real_ones_and_those_of_wrong_ones_do_not() -> None:
    test, validation = blobs(60, 1.0, 1), blobs(60, 1.0, 2)
    real = RealSides(blobs(30, 1.0, 0), test, test.features)
    drawn = blobs(200, 1.0, 3)
    helped = gain_at(real, validation, drawn, 3, seed=0)
    assert helped["gain"]["low"] > 0.02
    wrong = Labelled.ungrouped(drawn.features, np.roll(drawn.labels, 200))
    misled = gain_at(real, validation, wrong, 3, seed=0)
    assert misled["gain"]["mean"] < helped["gain"]["mean"] - 0.05
    assert misled["synthetic_weight"] == 0.03  # validation images trust them least


def test_the_key_names_the_crops_of_the_mixed_sheet_in_its_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def write(folder: Path, per_class: int, bright: int) -> pd.DataFrame:
        rows = []
        for label in STEP:
            for number in range(per_class):
                path = f"images/{label}/{number}.png"
                write_png(folder / path, rng.integers(bright, bright + 100, (SIDE, SIDE)).astype(np.uint8))
                rows.append({"path": path, "label": label, "split": "test"})
        table = pd.DataFrame(rows)
        table.to_parquet(folder / "samples.parquet")
        return table

    write(tmp_path / "merged", 9, 0)
    drawn = write(tmp_path / "synthetic", 5, 150)
    sheet, key = mixed_sheet(tmp_path / "merged", tmp_path / "synthetic", drawn, SIDE, seed=0)
    crops, answers = [figure.axes for figure in (sheet, key)]
    assert len(crops) == 24
    titles = [axis.get_title() for axis in answers]
    for kind in ("test", "drawn"):
        of_kind = [title for title in titles if f" {kind}: " in title]
        assert len(of_kind) == 12
        assert {label: sum(label in title for title in of_kind) for label in STEP} == dict.fromkeys(STEP, 4)
    for number, (axis, answer) in enumerate(zip(crops, answers, strict=True)):
        image = axis.images[0].get_array()
        assert axis.get_title() == str(number + 1)
        assert titles[number].startswith(f"{number + 1} {'drawn' if image.mean() > 140 else 'test'}: ")
        assert np.array_equal(image, answer.images[0].get_array())
    order = ["drawn" in title for title in titles]
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)


def test_drawn_images_stand_beside_training_images_of_their_class_from_all_sources(tmp_path: Path) -> None:
    merged, synthetic = tmp_path / "merged", tmp_path / "synthetic"
    levels = {"train": {"plant": [40, 50, 60], "press": [90, 95]}, "drawn": {"drawn": [200, 210, 220]}}
    tables = {}
    for folder, kind in ((merged, "train"), (synthetic, "drawn")):
        rows = [
            {
                "path": f"{label}_{level}.png",
                "label": label,
                "split": "train",
                "source": source,
                "group": f"{label} {level // 20}",  # 40 and 50 are copies of one photograph
            }
            for label in STEP
            for source, values in levels[kind].items()
            for level in values
        ]
        for row in rows:
            level = int(row["path"].rpartition("_")[2].removesuffix(".png"))
            write_png(folder / row["path"], np.full((SIDE, SIDE), level, np.uint8))
        tables[kind] = pd.DataFrame(rows)
        tables[kind].to_parquet(folder / "samples.parquet")
    figure = real_and_drawn(merged, synthetic, tables["drawn"], SIDE, count=3)
    left, right = figure.subfigs
    shown = [[int(axis.images[0].get_array().mean()) for axis in part.axes] for part in (left, right)]
    names = [axis.get_ylabel() for axis in left.axes[::3]]
    titles = [part.get_suptitle() for part in (left, right)]
    plt.close(figure)
    assert shown == [[40, 90, 60] * len(STEP), [200, 210, 220] * len(STEP)]
    assert names == [label.replace("_", "\n") for label in STEP]
    assert titles == ["training images", "drawn"]  # not "real": the images may be procedural


def test_the_shown_insertion_of_a_class_changes_its_image_to_the_median_degree() -> None:
    mask = np.zeros((64, 64), bool)
    mask[4:8, 4:8] = True
    canvas = np.full((64, 64), 100, np.uint8)
    whole = (slice(0, 64), slice(0, 64))

    def insertion(level: int) -> InsertedImage:
        image = np.where(mask, np.uint8(level), canvas)
        return InsertedImage("dent", canvas, image, image, mask, mask, whole)

    figure = inserted_defects(map(insertion, (250, 110, 130)))
    assert figure is not None
    before, after, outlined = (axis.images[0].get_array() for axis in figure.axes)
    plt.close(figure)
    assert before.shape == (32, 32)
    assert (before.max(), after.max()) == (100, 130)
    assert np.array_equal(after, outlined)
    assert inserted_defects([]) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_images_on_disk_are_those_in_memory_chunk_by_chunk(
    channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", 3)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    for number, image in enumerate(images):
        write_png(tmp_path / f"{number}.png", image)
    table = pd.DataFrame({"path": [f"{number}.png" for number in range(8)]}).iloc[1:]
    found = evaluation.images_on_disk(tmp_path, table, 16, "images", channels)
    np.testing.assert_array_equal(found, load_images(tmp_path, table, 16, "images", channels))
    assert len(found) == 7
