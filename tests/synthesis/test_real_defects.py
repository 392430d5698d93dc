"""Real defects: found in every layout that the project reads, and chosen to suit their new metal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import write_png
from metaldefect.ingest.adapters import RunLengths
from metaldefect.synthesis.photographs import as_photograph
from metaldefect.synthesis.real_defects import (
    DefectLibrary,
    MaskedImage,
    find_masked_images,
    read_mask,
    unmasked_photographs,
)

SIDE = 80


def dent(level: int, cut: bool = False) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(level).integers(level - 2, level + 3, (SIDE, SIDE)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[0 if cut else 30 : 44, 30:44] = 255
    image[mask > 0] //= 2
    return image, mask


def write_pair(image: Path, mask: Path, level: int = 120, cut: bool = False) -> None:
    pixels, marked = dent(level, cut)
    write_png(image, pixels)
    write_png(mask, marked)


def test_masked_photographs_are_found_in_every_layout(tmp_path: Path) -> None:
    write_pair(tmp_path / "flat/a.png", tmp_path / "flat_masks/a_mask.png")
    write_pair(tmp_path / "sorted/dent/b.png", tmp_path / "sorted_masks/dent/b.png")
    write_pair(tmp_path / "sorted/hole/c.png", tmp_path / "sorted_masks/hole/c.png")
    write_pair(tmp_path / "folder/dent/d.png", tmp_path / "folder/masks/dent/d.png")
    write_pair(tmp_path / "mvtec/test/dent/e.png", tmp_path / "mvtec/ground_truth/dent/e_mask.png")
    write_png(tmp_path / "mvtec/train/good/f.png", dent(100)[0])
    write_pair(tmp_path / "tiles/MT_dent/Imgs/g.jpg", tmp_path / "tiles/MT_dent/Imgs/g.png")
    Image.fromarray(dent(90)[0]).save(tmp_path / "tiles/MT_dent/Imgs/g.jpg", format="JPEG")

    def names(*where: str, masks: str | None = None, adapter: str | None = None) -> list[str]:
        folder = tmp_path / masks if masks else None
        return [item.image.name for item in find_masked_images(tmp_path / where[0], "dent", folder, adapter)]

    assert names("flat", masks="flat_masks") == ["a.png"]
    assert names("sorted", masks="sorted_masks") == ["b.png"]
    assert names("folder") == ["d.png"]
    assert names("mvtec") == ["e.png"]
    assert names("tiles", adapter="magnetic_tile") == ["g.jpg"]
    with pytest.raises(UserError, match="holds no masked photograph of 'rust'; classes with masks: dent"):
        find_masked_images(tmp_path / "mvtec", "rust")


def test_of_a_merged_dataset_only_the_training_split_gives_defects(tmp_path: Path) -> None:
    rows = []
    for split in ("train", "test"):
        write_pair(tmp_path / f"{split}.png", tmp_path / f"m/{split}.png")
        rows.append((f"{split}.png", "dent", split, f"m/{split}.png"))
    rows.append(("train.png", "dent", "train", None))
    pd.DataFrame(rows, columns=["path", "label", "split", "mask_path"]).to_parquet(
        tmp_path / "samples.parquet"
    )
    assert [item.image.name for item in find_masked_images(tmp_path, "dent")] == ["train.png"]


def test_masks_of_small_numbers_and_run_lengths_are_read_too(tmp_path: Path) -> None:
    marked = dent(100)[1] > 0
    write_png(tmp_path / "ones.png", marked.astype(np.uint8))
    assert np.array_equal(read_mask(tmp_path / "ones.png", (SIDE, SIDE)), marked)
    blurred = np.where(marked, 255, 60).astype(np.uint8)
    write_png(tmp_path / "soft.png", blurred)
    with pytest.raises(UserError, match="unclear mask: its levels are 60, 255"):
        read_mask(tmp_path / "soft.png", (SIDE, SIDE))
    runs = RunLengths(((1, 3),))
    assert np.argwhere(read_mask(runs, (4, 4))).tolist() == [[0, 0], [1, 0], [2, 0]]


def test_whole_defects_from_metal_of_the_canvas_brightness_are_preferred(tmp_path: Path) -> None:
    files = []
    for name, level, cut in (("dark", 40, False), ("cut", 150, True), ("alike", 140, False)):
        write_pair(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png", level, cut)
        files.append(MaskedImage(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"))
    library = DefectLibrary(files)
    bright = as_photograph(np.full((SIDE, SIDE), 150, np.uint8))
    chosen = {library.choose(np.random.default_rng(k), bright).name for k in range(8)}
    assert {Path(name).name for name in chosen} == {"alike.png#1"}
    assert len(library.masks()) == 2
    # Without any that suits, every one may be taken
    night = as_photograph(np.full((SIDE, SIDE), 5, np.uint8))
    assert len({library.choose(np.random.default_rng(k), night).name for k in range(20)}) == 3


def test_a_library_without_a_defect_to_move_says_so(tmp_path: Path) -> None:
    image, mask = dent(100)
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "a_mask.png", np.zeros_like(mask))
    library = DefectLibrary([MaskedImage(tmp_path / "a.png", tmp_path / "a_mask.png")])
    with pytest.raises(UserError, match=r"none of 1 photographs such as .*a\.png has a defect to move"):
        library.choose(np.random.default_rng(0), as_photograph(image))


def test_the_digest_changes_with_every_byte(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.png", tmp_path / "a_mask.png")
    files = [MaskedImage(tmp_path / "a.png", tmp_path / "a_mask.png")]
    before = DefectLibrary(files).digest()
    assert DefectLibrary(files).digest() == before
    mask = dent(120)[1]
    mask[0, 0] = 255
    write_png(tmp_path / "a_mask.png", mask)
    assert DefectLibrary(files).digest() != before


def test_a_photograph_without_a_mask_is_not_its_own_mask(tmp_path: Path) -> None:
    """Photographs and masks share a folder, by another spelling too."""
    write_pair(tmp_path / "a.png", tmp_path / "a_mask.png")
    write_pair(tmp_path / "c.jpg", tmp_path / "c.png")
    write_png(tmp_path / "b.png", dent(90)[0])
    write_png(tmp_path / "orphan_mask.png", dent(90)[1])
    (tmp_path / "link").symlink_to(tmp_path)
    for masks in (tmp_path, tmp_path / "link"):
        found = find_masked_images(tmp_path, "dent", masks)
        assert [(one.image.name, Path(one.mask).name) for one in found] == [
            ("a.png", "a_mask.png"),
            ("c.jpg", "c.png"),
        ]
        assert [path.name for path in unmasked_photographs(tmp_path, "dent", masks)] == ["b.png"]
