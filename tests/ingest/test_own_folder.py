"""The folder adapter reads the user's own images and their masks, and refuses what it cannot place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaldefect.errors import UserError
from metaldefect.ingest.adapters import read_dataset

IMAGE = np.full((32, 32), 100, np.uint8)


def masks_of(root: Path) -> tuple[dict[str, str | None], list[tuple[str, str]], list[str]]:
    """Mask by image, rejected files, and notes; paths are relative to the dataset."""
    samples, files = read_dataset("folder", root)
    found = {
        files.relative(s.path): files.relative(s.mask) if isinstance(s.mask, Path) else None for s in samples
    }
    return found, [(r.path, r.reason) for r in files.rejected], [f"{n.path}: {n.reason}" for n in files.notes]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("dent/a.jpg", "dent/a_mask.png"),
        ("dent/a.PNG", "dent/A_MASK.BMP"),
        ("dent/a.bmp", "masks/dent/a.png"),
        ("dent/a.bmp", "Masks/Dent/a.bmp"),
        ("dent/a.png", "ground_truth/dent/a_mask.png"),
        ("dent/line 1/a.png", "masks/dent/line 1/a_mask.tif"),
        ("dent/line 1/a.png", "dent/line 1/a_mask.png"),
        ("dent/a.jpg", "masks/dent/a.jpg.png"),
        ("dent/a.jpg", "dent/a.jpg_mask.png"),
        ("dent/a.png", "dent/masks/a.png"),
        ("dent/images/a.png", "dent/masks/a.png"),
        ("dent/Images/line 1/a.jpg", "dent/Ground_Truth/line 1/a_mask.png"),
        ("dent/line 1/images/a.png", "dent/line 1/masks/a.png"),
        ("dent/images/a.png", "masks/dent/a.png"),
        ("images/a.png", "masks/images/a.png"),
    ],
)
def test_a_mask_is_found_by_name(tmp_path, save, image, mask):
    save(tmp_path / "good/g.png", IMAGE)
    save(tmp_path / image, IMAGE)
    save(tmp_path / mask, IMAGE)
    assert masks_of(tmp_path) == ({"good/g.png": None, image: mask}, [], [])


def test_a_mask_that_fits_two_images_is_used_for_neither(tmp_path, save):
    for name in ("a.png", "a.jpg", "a_mask.png"):
        save(tmp_path / "dent" / name, IMAGE)
    found, rejected, notes = masks_of(tmp_path)
    assert (found, rejected) == ({"dent/a.jpg": None, "dent/a.png": None}, [])
    assert notes == [
        "folder/dent/a_mask.png: the name of this mask fits a.jpg and a.png, so it is used for neither:"
        " call it a.jpg_mask.png if it is the mask of a.jpg"
    ]


def test_what_belongs_to_no_class_or_image_is_refused(tmp_path, save):
    save(tmp_path / "dent/a.png", IMAGE)
    save(tmp_path / "loose.png", IMAGE)
    save(tmp_path / "dent/b_mask.png", IMAGE)
    save(tmp_path / "masks/scratch/a.png", IMAGE)
    found, rejected, _ = masks_of(tmp_path)
    assert found == {"dent/a.png": None}
    assert sorted(rejected) == [
        ("folder/dent/b_mask.png", "mask without its image"),
        ("folder/loose.png", "image outside the class folders: move it into the folder of its class"),
        ("folder/masks/scratch/a.png", "mask without its image"),
    ]


def test_two_masks_of_one_image_are_refused(tmp_path, save):
    for name in ("dent/a.png", "dent/a_mask.png", "masks/dent/a.png", "dent/b.png"):
        save(tmp_path / name, IMAGE)
    found, rejected, _ = masks_of(tmp_path)
    assert found == {"dent/b.png": None}
    assert rejected == [
        ("folder/dent/a_mask.png", "one of 2 masks of a.png; keep one"),
        ("folder/masks/dent/a.png", "one of 2 masks of a.png; keep one"),
        ("folder/dent/a.png", "2 files are named as its mask: dent/a_mask.png, masks/dent/a.png; keep one"),
    ]


def test_hidden_entries_are_skipped_at_any_depth(tmp_path, save):
    save(tmp_path / "dent/line/a.png", IMAGE)
    for name in ("dent/._a.png", "dent/.ipynb_checkpoints/a.png", ".trash/dent/a.png", "__MACOSX/dent/a.png"):
        save(tmp_path / name, IMAGE)
    assert masks_of(tmp_path) == ({"dent/line/a.png": None}, [], [])


def test_a_folder_without_classes_is_an_error(tmp_path, save):
    save(tmp_path / "a.png", IMAGE)
    with pytest.raises(UserError, match="holds no class folders: expected <class>/<image>"):
        read_dataset("folder", tmp_path)
