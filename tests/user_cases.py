"""Draw the inputs that users have reported about tools of this kind, each into a folder of its own.

`CASES` names them. The drawings are procedural, so that every clone tests them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

U8 = NDArray[np.uint8]
Pixels = NDArray[Any]
MASK_AREA = (18, 24)


def metal(seed: int, height: int = 128, width: int = 128) -> U8:
    """Streaky metal under uneven light, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    streaks, light = (
        gaussian_filter(rng.normal(size=(height, width)), sigma)
        for sigma in ((1, 9), (height / 6, width / 6))
    )
    return np.clip(130 + 24 * streaks / streaks.std() + 16 * light / light.std(), 0, 255).astype(np.uint8)


def dented(seed: int, height: int = 128, width: int = 128) -> tuple[U8, NDArray[np.bool_]]:
    """Metal with a dark rectangle, and its mask."""
    rows, columns = MASK_AREA
    rng = np.random.default_rng([seed, 1])
    top, left = int(rng.integers(8, height - rows - 8)), int(rng.integers(8, width - columns - 8))
    mask = np.zeros((height, width), bool)
    mask[top : top + rows, left : left + columns] = True
    image = metal(seed, height, width)
    return np.where(mask, image // 3, image), mask


def save(path: Path, image: Pixels | Image.Image, **options: Any) -> None:
    """Write an image, folders included; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def levels_255(mask: NDArray[np.bool_]) -> Image.Image:
    """The usual coding of a mask."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def write_category(
    root: Path,
    *,
    camera: Callable[[U8], Pixels] = lambda image: image,
    coding: Callable[[NDArray[np.bool_]], Image.Image] | None = levels_255,
    suffix: str = ".png",
    mask_name: str = "{}_mask.png",
    defects: int = 2,
) -> None:
    """MVTec AD's layout: 9 normals to train on, 2 to test on, and defects with a mask, if it has a coding."""
    for number in range(9):
        save(root / f"train/good/{number:03d}{suffix}", camera(metal(number)))
    for number in range(2):
        save(root / f"test/good/{number:03d}{suffix}", camera(metal(50 + number)))
    for number in range(defects):
        image, mask = dented(70 + number)
        save(root / f"test/scratch/{number:03d}{suffix}", camera(image))
        if coding is not None:
            save(root / "ground_truth/scratch" / mask_name.format(f"{number:03d}"), coding(mask))


def draw_12_bits(root: Path) -> None:
    """A camera of 12 bits in files of 16, and the same images in 8 bits."""
    write_category(root / "eight")
    for name, suffix in (("twelve", ".png"), ("tiff", ".tif")):
        write_category(root / name, camera=lambda image: image.astype(np.uint16) * 16, suffix=suffix)


def draw_odd_frames(root: Path) -> None:
    """Pages, floats, 32-bit integers, CMYK, alpha, a palette and a line scan, all in one folder."""
    frames, good, bad = root / "frames", metal(1), dented(2)[0]
    save(frames / "plain_good.png", good)
    save(frames / "plain_bad.png", bad)
    pages = [Image.fromarray(bad)]
    save(frames / "pages_good_then_bad.tif", good, save_all=True, append_images=pages)
    save(frames / "float01_bad.tif", np.divide(bad, 255, dtype=np.float32))
    save(frames / "int32_bad.tif", bad.astype(np.int32) << 8)
    save(frames / "rgba_bad.png", Image.fromarray(bad).convert("RGBA"))
    save(frames / "cmyk_bad.jpg", Image.fromarray(bad).convert("CMYK"))
    save(frames / "strip_4096x64.png", np.tile(metal(3, 64, 512), (1, 8)))
    save(frames / "PALETTE.BMP", Image.fromarray(bad).convert("P"))


def palette_coding(mask: NDArray[np.bool_]) -> Image.Image:
    """Index 1 of a palette that shows it in dark red."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def alpha_coding(mask: NDArray[np.bool_]) -> Image.Image:
    """Black paint on a transparent layer."""
    image = Image.new("RGBA", mask.shape[::-1])
    image.putalpha(levels_255(mask))
    return image


def red_coding(mask: NDArray[np.bool_]) -> Image.Image:
    """Pure red paint on black."""
    return Image.fromarray(np.where(mask[..., None], np.uint8([255, 0, 0]), np.uint8(0)))


CODINGS: dict[str, Callable[[NDArray[np.bool_]], Image.Image]] = {
    "m255": levels_255,
    "m1": lambda mask: Image.fromarray(mask.astype(np.uint8)),
    "m2": lambda mask: Image.fromarray(mask.astype(np.uint8) * 2),
    "voc": palette_coding,
    "alpha": alpha_coding,
    "red": red_coding,
}


def draw_mask_levels(root: Path) -> None:
    """The same defects with their masks in every coding."""
    for name, coding in CODINGS.items():
        write_category(root / name, coding=coding)


def draw_mask_names(root: Path) -> None:
    """Masks called like their image, in another format, or in upper case."""
    write_category(root / "own_stem", suffix=".bmp", mask_name="{}.png")
    write_category(root / "own_stem_bmp", suffix=".bmp", mask_name="{}.bmp")
    write_category(root / "mask_bmp", mask_name="{}_mask.bmp")
    write_category(root / "upper", suffix=".PNG", mask_name="{}_mask.PNG")
    write_category(root / "jpg_image", suffix=".JPG")


def draw_no_masks(root: Path) -> None:
    """Labels without masks, good images with an empty test set, and training images alone."""
    for number in range(12):
        save(root / f"folder/good/{number}.png", metal(number))
    for number in range(3):
        save(root / f"folder/scratch/{number}.png", dented(70 + number)[0])
    write_category(root / "mvtec", coding=None)
    write_category(root / "onlygood", defects=0)
    for number in range(9):
        save(root / f"justtrain/train/good/{number:03d}.png", metal(number))


def draw_hidden(root: Path) -> None:
    """What macOS and Jupyter leave beside images."""
    for name in ("apple_train", "apple_test", "jupyter"):
        write_category(root / name)
    resource_fork = b"\x00\x05\x16\x07" + b"Mac OS X".rjust(28) + bytes(512)
    for name in ("apple_train/train/good/._000", "apple_test/test/scratch/._000"):
        (root / f"{name}.png").write_bytes(resource_fork)
    (root / "apple_test/ground_truth/scratch/._000_mask.png").write_bytes(resource_fork)
    for folder in ("test", "test/good"):
        saved = root / "jupyter" / folder / ".ipynb_checkpoints/000-checkpoint.png"
        saved.parent.mkdir()
        shutil.copy(root / "jupyter/test/good/000.png", saved)


def draw_same_names(root: Path) -> None:
    """Equal names in several folders and formats, and two formats of one number in one class."""
    seed = 200
    for folder in ("line 1", "line 2/früh", "Linie_3"):
        for suffix in (".png", ".jpg", ".TIF"):
            save(root / "frames" / folder / f"0001{suffix}", metal(seed := seed + 1))
    write_category(root / "twins")
    for number in range(9):
        save(root / f"twins/train/good/{number:03d}.jpg", metal(100 + number))
    save(root / "twins/test/scratch/000.jpg", dented(120)[0])


def draw_bytes_name(root: Path) -> None:
    """A name in GBK, as an archive from a Chinese Windows unpacks."""
    for number in range(3):
        save(root / f"frames/a{number}.png", metal(number))
    os.rename(root / "frames/a1.png", os.fsencode(root / "frames") + b"/" + "划痕1.png".encode("gbk"))


def draw_gc10(root: Path) -> None:
    """GC10-DET with its misspelt labels, impossible boxes, and one photograph in two classes."""

    def annotate(name: str, *boxes: tuple[str, int, int, int, int]) -> None:
        corners = ("xmin", "ymin", "xmax", "ymax")
        objects = [
            f"<object><name>{label}</name><bndbox>"
            + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(corners, box, strict=True))
            + "</bndbox></object>"
            for label, *box in boxes
        ]
        path = root / f"gc10/lable/{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<annotation><filename>{name}.jpg</filename><path>D:\\steel\\{name}.jpg</path>"
            f"<size><width>256</width><height>125</height></size>{''.join(objects)}</annotation>"
        )

    labels = {1: "1_chongkong", 2: "2_hanfeng", 9: "9_zhehen", 10: "10_yaozhed"}
    for number, label in labels.items():
        for k in range(4):
            name = f"img_{number:02d}_{k:05d}"
            save(root / f"gc10/{number}/{name}.jpg", metal(300 + 10 * number + k, 125, 256))
            if (number, k) != (9, 3):
                annotate(name, (label, 5, 5, 60, 60))
    annotate("img_01_00002", ("1_chongkong", 60, 60, 5, 5), ("1_chongkong", 200, 10, 400, 50))
    annotate("img_02_00000", ("2_hanfeng", 5, 5, 60, 60), ("d", 70, 5, 90, 30))
    shutil.copy(root / "gc10/2/img_02_00001.jpg", root / "gc10/1/img_02_00001.jpg")


def draw_stale(root: Path, mend: str = "") -> None:
    """Magnetic tiles, one with a wrong mask; `mend` corrects it and adds images."""
    for number in range(20 if mend else 12):
        save(root / f"MT_Free/Imgs/exp1_num_{number}.jpg", metal(number), quality=95)
        save(root / f"MT_Free/Imgs/exp1_num_{number}.png", np.zeros((128, 128), np.uint8))
    for number in range(5 if mend else 2):
        image, mask = dented(70 + number)
        if not (mend or number):
            mask = np.zeros_like(mask)
            mask[:10, :10] = True
        save(root / f"MT_Blowhole/Imgs/exp1_num_9{number}.jpg", image, quality=95)
        save(root / f"MT_Blowhole/Imgs/exp1_num_9{number}.png", levels_255(mask))


CASES: dict[str, Callable[..., None]] = {
    "16bit": draw_12_bits,
    "odd_frames": draw_odd_frames,
    "mask_levels": draw_mask_levels,
    "mask_names": draw_mask_names,
    "no_masks": draw_no_masks,
    "hidden": draw_hidden,
    "same_names": draw_same_names,
    "bytes_name": draw_bytes_name,
    "gc10": draw_gc10,
    "stale": draw_stale,
}
