"""Colour through merge and augment: kept where it is asked for, grey by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.images import as_channels, grey_stack, read_own
from metaldefect.ingest.augment import augment
from metaldefect.ingest.examine import DatasetSpec
from metaldefect.ingest.loading import load_images
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, merge_datasets
from metaldefect.ingest.samples import read_table
from metaldefect.training.data import ImageFiles


@pytest.fixture
def merged(tmp_path: Path, texture, save, inspection_folder: Path):
    """merged(channels): a merged dataset of coloured images, one of them grey."""
    for c, label in enumerate(("pits", "scratches")):
        for k in range(8):
            grey = texture(100 * c + k)
            image = np.stack([grey, grey // 2 + 20, 255 - grey], axis=2)
            save(tmp_path / "raw/plant" / label / f"{k}.png", grey if (c, k) == (0, 0) else image)

    def run(channels: int) -> Path:
        merge_datasets(
            [DatasetSpec("folder", tmp_path / "raw/plant", name="plant")],
            InspectionSpec("mvtec_ad", inspection_folder),
            tmp_path / f"merged_{channels}",
            tmp_path / "reports",
            MergeOptions(["pits", "scratches"], 64, 0.2, 0.2, seed=42, channels=channels),  # type: ignore[arg-type]
        )
        return tmp_path / f"merged_{channels}"

    return run


def test_merge_keeps_colours_only_where_they_are_asked_for(merged, tmp_path: Path) -> None:
    coloured, grey = merged(3), merged(1)
    table = read_table(coloured / "samples.parquet")
    assert len(table) == 16
    for row in table.to_dict("records"):
        source = Image.open(tmp_path / "raw/plant" / row["source_path"])
        written = Image.open(coloured / row["path"])
        assert written.mode == "RGB"
        np.testing.assert_array_equal(written, source.convert("RGB"))
        plain = Image.open(grey / row["path"])
        assert plain.mode == "L"
        np.testing.assert_array_equal(plain, source.convert("L"))
    for column in ("split", "scene", "phash"):
        assert table[column].tolist() == read_table(grey / "samples.parquet")[column].tolist()


def test_augment_turns_colours_with_the_image(merged, tmp_path: Path) -> None:
    coloured = merged(3)
    table = augment(coloured, tmp_path / "augmented", tmp_path / "partial", photometric=True, channels=3)
    original = table[table["symmetry"] == 0].iloc[1]
    image = np.asarray(Image.open(coloured / original["path"].replace("_0.png", ".png")))
    turned = {0: image, 1: np.rot90(image), 6: np.rot90(image, 2)[:, ::-1]}
    for k, expected in turned.items():
        found = np.asarray(
            Image.open(tmp_path / "augmented" / original["path"].replace("_0.png", f"_{k}.png"))
        )
        assert found.shape == (64, 64, 3)
        # The light changes mildly, in all channels alike
        for channel in range(3):
            assert np.corrcoef(found[..., channel].ravel(), expected[..., channel].ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(Image.open(tmp_path / "augmented" / original["path"]), image)


def test_training_and_evaluation_read_the_channels_of_the_model(merged) -> None:
    coloured = merged(3)
    table = read_table(coloured / "samples.parquet")
    whole = load_images(coloured, table, 32, "images", 3)
    assert whole.shape == (16, 32, 32, 3)
    files = ImageFiles([coloured / path for path in table["path"]], 32, 3)
    assert files.shape == whole.shape
    np.testing.assert_array_equal(files[5], whole[5])
    assert load_images(coloured, table, 32, "images").shape == (16, 32, 32)
    assert grey_stack(whole).shape == (16, 32, 32)


def test_figures_read_an_image_as_it_looks(tmp_path: Path, texture, save) -> None:
    grey = texture(1)
    save(tmp_path / "grey.png", as_channels(grey, 3))
    colour = np.stack([grey, grey, 255 - grey], axis=2)
    save(tmp_path / "colour.png", colour)
    np.testing.assert_array_equal(read_own(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_own(tmp_path / "colour.png"), colour)
    assert read_own(tmp_path / "colour.png", 20).shape == (20, 20, 3)
