"""Write procedural images in the published layouts of the real datasets that they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory
from metaldefect.errors import UserError, printable
from metaldefect.hardware import workers
from metaldefect.images import write_png
from metaldefect.inspection.layout import GOOD
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import (
    generate_defect_image,
    generate_normal_image,
    generate_plate_image,
    keyed_generator,
)
from metaldefect.procedural.plates import PLATE_CLASSES
from metaldefect.procedural.textures import U8, Mask

NEU_DET_SIZE = 200
X_SDD_SIZE = 128
INSPECTION_SIZE = 256
HELD_OUT = 5  # every fifth NEU-DET image is a validation image, every fifth normal one a test image
SALIENCY_PREFIXES = {"inclusion": "In", "patches": "Pa", "scratches": "Sc"}

Job = Callable[[], None]


DRAWN = ".drawn.txt"  # lists the files, so that others among them are noticed


@dataclass(frozen=True)
class SampleCounts:
    """Number of images to write per class; `normal` is a total, at least 5 so that no split is empty."""

    neu_det: int
    sd_saliency_900: int
    x_sdd: int
    normal: int
    defective: int

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            smallest = HELD_OUT if name == "normal" else 1
            if count < smallest:
                raise UserError(f"{name} is {count}: at least {smallest} are needed")


def write_sample_datasets(root: Path, counts: SampleCounts, seed: int) -> dict[str, int]:
    """Write `NEU-DET`, `SD-saliency-900`, `X-SDD` and `inspection` under `root`, atomically.

    - NEU-DET: 200 x 200 RGB JPEG and VOC boxes; every fifth image is `validation`, the others `train`.
    - SD-saliency-900: 200 x 200 BMP and masks. As in the real dataset, images repeat NEU-DET's photographs
      in another encoding: here two in three, if NEU-DET has an image of that number.
    - X-SDD: 128 x 128 JPEG; three classes merge with NEU-DET's, one (`red iron`) does not.
    - inspection: MVTec AD layout, 256 x 256 PNG; normal metal, and defects of the six classes.

    Returns:
        The number of images in each dataset.

    Raises:
        UserError: `root` holds files that an earlier call did not draw: they would be deleted.
    """
    refuse_foreign_files(root)
    written = {}
    with atomic_directory(root) as temporary, ThreadPoolExecutor(workers()) as pool:
        for name, plan in (
            ("NEU-DET", plan_neu_det),
            ("SD-saliency-900", plan_sd_saliency_900),
            ("X-SDD", plan_x_sdd),
            ("inspection", plan_inspection),
        ):
            jobs = list(plan(temporary / name, counts, seed))
            list(tqdm(pool.map(run_job, jobs), total=len(jobs), desc=f"sample {name}", unit="image"))
            written[name] = len(jobs)
        names = [path.relative_to(temporary).as_posix() for path in files_below(temporary)]
        (temporary / DRAWN).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return written


def refuse_foreign_files(root: Path) -> None:
    """Raise `UserError` if somebody has put files of their own among the drawn ones."""
    if not (root / DRAWN).is_file():
        return
    drawn = set((root / DRAWN).read_text(encoding="utf-8").splitlines())
    foreign = [path for path in files_below(root) if path.relative_to(root).as_posix() not in drawn]
    if foreign:
        raise UserError(
            f"{root} holds {len(foreign)} file(s) that were not drawn, such as {printable(str(foreign[0]))}."
            f" They would be deleted, because {root} is drawn again: move them elsewhere. Your own images"
            " need a folder of their own: `metaldefect new` makes a project of them"
        )


def files_below(root: Path) -> list[Path]:
    """All files below a folder in a fixed order, without hidden ones."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


def run_job(job: Job) -> None:
    """Draw and write one image."""
    job()


def plan_neu_det(root: Path, counts: SampleCounts, seed: int) -> Iterator[Job]:
    """Yield one job per image of NEU-DET; numbers start at 1."""
    for label in DEFECT_CLASSES:
        for number in range(1, counts.neu_det + 1):
            split = "validation" if number % HELD_OUT == 0 else "train"
            image = root / split / "images" / label / f"{label}_{number}.jpg"
            annotation = root / split / "annotations" / f"{label}_{number}.xml"
            make_folders(image, annotation)
            yield partial(write_neu_det, image, annotation, label, seed, number)


def write_neu_det(image_path: Path, annotation_path: Path, label: str, seed: int, number: int) -> None:
    """Draw NEU-DET's photograph `number` of a class and write it with its boxes."""
    image, mask = neu_det_photograph(label, seed, number)
    write_jpeg(image_path, image)
    write_voc(annotation_path, image_path.name, label, mask)


def neu_det_photograph(label: str, seed: int, number: int) -> tuple[U8, Mask]:
    """Draw NEU-DET's photograph `number` of a class, before any encoding, and its mask."""
    return generate_defect_image(label, keyed_generator(seed, "NEU-DET", label, number), NEU_DET_SIZE)


def plan_sd_saliency_900(root: Path, counts: SampleCounts, seed: int) -> Iterator[Job]:
    """Yield one job per image of SD-saliency-900; numbers not divisible by 3 repeat NEU-DET's photograph."""
    for label, prefix in SALIENCY_PREFIXES.items():
        for number in range(1, counts.sd_saliency_900 + 1):
            image = root / "Source Images" / f"{prefix}_{number}.bmp"
            mask = root / "Ground truth" / f"{prefix}_{number}.png"
            make_folders(image, mask)
            yield partial(write_sd_saliency_900, image, mask, label, seed, number)


def write_sd_saliency_900(image_path: Path, mask_path: Path, label: str, seed: int, number: int) -> None:
    """Draw one image of SD-saliency-900 and write it with its mask."""
    if number % 3 != 0:
        image, mask = neu_det_photograph(label, seed, number)
    else:
        rng = keyed_generator(seed, "SD-saliency-900", label, number)
        image, mask = generate_defect_image(label, rng, NEU_DET_SIZE)
    Image.fromarray(image).save(image_path, format="BMP")
    write_mask(mask_path, mask)


def plan_x_sdd(root: Path, counts: SampleCounts, seed: int) -> Iterator[Job]:
    """Yield one job per image of X-SDD."""
    for label in PLATE_CLASSES:
        for number in range(1, counts.x_sdd + 1):
            path = root / "datas" / label / f"{number}.jpg"
            make_folders(path)
            yield partial(write_x_sdd, path, label, seed, number)


def write_x_sdd(path: Path, label: str, seed: int, number: int) -> None:
    """Draw and write one image of X-SDD, without a mask: the real dataset has none."""
    image, _ = generate_plate_image(label, keyed_generator(seed, "X-SDD", label, number), X_SDD_SIZE)
    write_jpeg(path, image)


def plan_inspection(root: Path, counts: SampleCounts, seed: int) -> Iterator[Job]:
    """Yield one job per image of the detector's dataset; every fifth normal image is a test image."""
    for number in range(counts.normal):
        split = "test" if number % HELD_OUT == HELD_OUT - 1 else "train"
        path = root / split / GOOD / f"{number:03d}.png"
        make_folders(path)
        yield partial(write_inspection_normal, path, seed, number)
    for label in DEFECT_CLASSES:
        for number in range(counts.defective):
            image = root / "test" / label / f"{number:03d}.png"
            mask = root / "ground_truth" / label / f"{number:03d}_mask.png"
            make_folders(image, mask)
            yield partial(write_inspection_defect, image, mask, label, seed, number)


def write_inspection_normal(path: Path, seed: int, number: int) -> None:
    """Draw and write one defect-free image."""
    write_png(path, generate_normal_image(keyed_generator(seed, "inspection", GOOD, number), INSPECTION_SIZE))


def write_inspection_defect(image_path: Path, mask_path: Path, label: str, seed: int, number: int) -> None:
    """Draw one image with a defect and write it with its mask."""
    rng = keyed_generator(seed, "inspection", label, number)
    image, mask = generate_defect_image(label, rng, INSPECTION_SIZE)
    write_png(image_path, image)
    write_mask(mask_path, mask)


def make_folders(*paths: Path) -> None:
    """Make the parent folders of the paths."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)


def write_jpeg(path: Path, image: U8) -> None:
    """Write grey levels as an RGB JPEG with equal channels, the format of NEU-DET and X-SDD."""
    Image.fromarray(image).convert("RGB").save(path, format="JPEG", quality=93)


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as PNG with the values 0 and 255."""
    write_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_voc(path: Path, filename: str, label: str, mask: Mask) -> None:
    """Write an image's boxes as NEU-DET does, in Pascal VOC: pixels count from 1, ends are inclusive."""
    root = ElementTree.Element("annotation")
    for tag, text in (("folder", label), ("filename", filename)):
        ElementTree.SubElement(root, tag).text = text
    ElementTree.SubElement(ElementTree.SubElement(root, "source"), "database").text = "NEU-DET"
    add_numbers(ElementTree.SubElement(root, "size"), width=mask.shape[1], height=mask.shape[0], depth=1)
    ElementTree.SubElement(root, "segmented").text = "0"
    for xmin, ymin, xmax, ymax in bounding_boxes(mask):
        item = ElementTree.SubElement(root, "object")
        for tag, text in (("name", label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(item, tag).text = text
        add_numbers(ElementTree.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    ElementTree.indent(root, "\t")
    path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def add_numbers(parent: ElementTree.Element, **numbers: int) -> None:
    """Add one child element per number, in the given order."""
    for tag, number in numbers.items():
        ElementTree.SubElement(parent, tag).text = str(number)


def bounding_boxes(mask: Mask, gap: int = 8) -> list[tuple[int, int, int, int]]:
    """Boxes `(xmin, ymin, xmax, ymax)` around the islands of a mask; pixels from 1, ends inclusive.

    Islands less than about `gap` pixels apart share a box, as an annotator would draw it.
    """
    joined = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=gap // 2)
    islands, _ = ndimage.label(joined, np.ones((3, 3), int))
    slices = ndimage.find_objects(np.where(mask, islands, 0))
    return [(x.start + 1, y.start + 1, x.stop, y.stop) for y, x in slices]
