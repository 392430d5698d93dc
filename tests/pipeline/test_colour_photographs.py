"""Colour photographs of landscape format from `metaldefect new` to `metaldefect insert`, in small."""

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


def photograph(grey: np.ndarray) -> Image.Image:
    return Image.fromarray((grey[..., None] * BRASS).astype(np.uint8))


def write_camera_folders(root: Path) -> Folders:
    """Twelve good photographs of brass and four with a masked dent, as PNG and JPEG."""
    for name in ("good", "defects/dent", "masks/dent"):
        (root / name).mkdir(parents=True)
    for k in range(12):
        suffix = "jpg" if k % 2 else "png"
        photograph(metal(k, SHAPE)).save(root / f"good/{k}.{suffix}", quality=95)
    for k in range(4):
        image, mask = defective(100 + k, "dent", SHAPE)
        photograph(image).save(root / f"defects/dent/{k}.png")
        Image.fromarray(mask).save(root / f"masks/dent/{k}.png")
    return Folders(root / "good", root / "defects", root / "masks")


def test_colour_photographs_work_from_new_to_insert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_project(tmp_path / "line", write_camera_folders(tmp_path / "plant"), 60)
    monkeypatch.chdir(tmp_path / "line")
    settings = InsertSettings(
        images="data/raw/good", method="transplant", defects="data/raw", label=("dent",), output="inserted"
    )
    done = insert(settings)
    assert done.images == 12
    rows = pd.read_parquet("inserted/manifest.parquet")
    rows = rows[rows["visible"]]
    assert len(rows) == done.defects > 6
    for row in rows.itertuples():
        with Image.open(Path("inserted") / str(row.image)) as opened:
            assert (opened.mode, opened.size) == ("RGB", (200, 150))
            after = np.asarray(opened).astype(int)
        before = np.asarray(Image.open(str(row.canvas))).astype(int)
        mask = np.asarray(Image.open(Path("inserted") / str(row.mask))) > 0
        far = ndimage.distance_transform_edt(~mask) > settings.feather
        assert np.array_equal(after[far], before[far])
        change = (before - after)[mask].mean(axis=0)
        assert change[0] > change[2] > 0, "a dent in brass is darker brass, not grey"
