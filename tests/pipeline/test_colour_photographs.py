"""Colour photographs of landscape format from `metaldefect new` to `metaldefect insert`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from metaldefect.commands.insert import insert
from metaldefect.commands.insert_settings import InsertSettings
from pipeline.new_data import Folders
from pipeline.new_project import create_project
from tests.plant import defective, metal

SHAPE = (150, 200)
BRASS = np.array([1.0, 0.8, 0.45])


def photograph(grey: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A photograph of brass, enlarged to width and height."""
    return Image.fromarray((grey[..., None] * BRASS).astype(np.uint8)).resize(size)


def write_camera_folders(
    root: Path, good: int, defects: int, shape: tuple[int, int], enlarged: int = 1
) -> Folders:
    """Good photographs of brass and others with a masked dent, as PNG and JPEG."""
    size = (enlarged * shape[1], enlarged * shape[0])
    for name in ("good", "defects/dent", "masks/dent"):
        (root / name).mkdir(parents=True)
    for k in range(good):
        suffix = "jpg" if k % 2 else "png"
        photograph(metal(k, shape), size).save(root / f"good/{k}.{suffix}", quality=95, compress_level=1)
    for k in range(defects):
        image, mask = defective(100 + k, "dent", shape)
        photograph(image, size).save(root / f"defects/dent/{k}.png", compress_level=1)
        marked = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        marked.save(root / f"masks/dent/{k}.png", compress_level=1)
    return Folders(root / "good", root / "defects", root / "masks")


def insert_into_a_new_project(root: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Make a project and insert a dent into each good image; the visible rows of the manifest, checked."""
    create_project(root, folders, 60)
    monkeypatch.chdir(root)
    settings = InsertSettings(
        images="data/raw/good", method="transplant", defects="data/raw", label=("dent",), output="inserted"
    )
    done = insert(settings)
    rows = pd.read_parquet("inserted/manifest.parquet")
    rows = rows[rows["visible"]]
    assert len(rows) == done.defects
    for row in rows.itertuples():
        with Image.open(Path("inserted") / str(row.image)) as opened, Image.open(str(row.canvas)) as canvas:
            assert (opened.mode, opened.size) == ("RGB", canvas.size)
            before, after = np.asarray(canvas), np.asarray(opened)
        mask = np.asarray(Image.open(Path("inserted") / str(row.mask))) > 0
        far = ndimage.distance_transform_edt(~mask) > settings.feather
        assert np.array_equal(after[far], before[far])
        change = (before[mask].astype(int) - after[mask]).mean(axis=0)
        assert change[0] > change[2] > 0, "a dent in brass is darker brass, not grey"
    return rows


def test_colour_photographs_work_from_new_to_insert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = write_camera_folders(tmp_path / "plant", 12, 4, SHAPE)
    rows = insert_into_a_new_project(tmp_path / "line", folders, monkeypatch)
    assert rows["image"].nunique() == 12


@pytest.mark.slow
def test_photographs_of_twelve_megapixels_work_from_new_to_insert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_camera_folders(tmp_path / "plant", 2, 2, (750, 1000), enlarged=4)
    rows = insert_into_a_new_project(tmp_path / "line", folders, monkeypatch)
    assert len(rows) == 2
    for name in rows["image"]:
        with Image.open(f"inserted/{name}") as image:
            assert image.size == (4000, 3000)
    assert rows["area"].min() > 50 * 50, "a dent of 112 by 96 pixels, turned and scaled"
