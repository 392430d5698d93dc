"""Which images of a written dataset stay normal, and which belong to training.

Pictures of one piece of metal must not lie on both sides of a split, so near-duplicates share their role.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError, read_grey
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.splits import position
from metaldefect.inspection.layout import GOOD
from metaldefect.synthesis.config import Format
from metaldefect.synthesis.formats.layouts import LAYOUTS
from metaldefect.synthesis.photographs import read_photograph, write_photograph

NORMAL_SHARE = 0.5  # of the scenes, for formats with normal images to train on
VALIDATION_SHARE = 0.2  # of the scenes, for formats with a validation split
COMPARED_SIDE = 128


@dataclass(frozen=True)
class Roles:
    """The role of each image.

    Attributes:
        training_normals: images that stay normal and train a detector.
        validation: images whose insertions validate.
        unreadable: the reason for each file that could not be read.
    """

    training_normals: frozenset[Path] = frozenset()
    validation: frozenset[Path] = frozenset()
    unreadable: Mapping[Path, str] = field(default_factory=dict)

    def gets_defects(self, path: Path) -> bool:
        """Whether defects go into an image."""
        return path not in self.training_normals and path not in self.unreadable

    def split(self, path: Path) -> str:
        """`train` or `val`."""
        return "val" if path in self.validation else "train"


def assign_roles(names: Mapping[Path, str], format_name: Format, seed: int) -> Roles:
    """Assign roles by scene, as the format needs them.

    MVTec AD: half of the scenes become `train/good`; the others get defects, and their originals become
    `test/good`. YOLO and VOC: a fifth of the scenes validates, and at least one if there are two. COCO: all
    images alike.

    Args:
        names: the path of each image inside the folder of images.
        format_name: the format.
        seed: another seed chooses other scenes.

    Raises:
        UserError: MVTec AD needs two scenes, and the images show one.
    """
    if format_name == "coco":
        return Roles()
    scenes, unreadable = scenes_of(names)
    places = {scene: position(scene, seed) for scene in scenes.values()}
    ranked = sorted(places, key=lambda scene: places[scene])
    if not LAYOUTS[format_name].normal:
        share = {scene for scene in ranked if places[scene] < VALIDATION_SHARE}
        held = (share | set(ranked[:1])) - set(ranked[-1:])
        return Roles(validation=with_scene(scenes, held), unreadable=unreadable)
    if len(ranked) < 2:
        raise UserError(
            f"the images show {len(ranked)} scene: in the MVTec AD format some stay normal for train/good"
            " and others get defects; add images of another piece, or use --format coco"
        )
    normal = {scene for scene in ranked if places[scene] < NORMAL_SHARE} - {ranked[-1]} | {ranked[0]}
    return Roles(training_normals=with_scene(scenes, normal), unreadable=unreadable)


def scenes_of(names: Mapping[Path, str]) -> tuple[dict[Path, str], dict[Path, str]]:
    """The scene of each image, named after its first image, and the reason for each unreadable one.

    Args:
        names: the path of each image inside the folder of images; `day1/cam.png` and `day2/cam.png` differ.
    """
    readable, prints, unreadable = [], [], {}
    levels = find_levels(list(names))
    for path in tqdm(names, desc="compare images", unit="image"):
        try:
            prints.append(fingerprint(read_grey(path, COMPARED_SIDE, levels)))
            readable.append(path)
        except UnreadableImageError as error:
            unreadable[path] = str(error)
    if not readable:
        return {}, unreadable
    pairs, _ = judge_pairs(prints, [""] * len(prints), near_duplicate_pairs(prints))
    first = first_of_each(len(prints), pairs)
    return {path: names[readable[int(i)]] for path, i in zip(readable, first, strict=True)}, unreadable


def with_scene(scenes: Mapping[Path, str], chosen: set[str]) -> frozenset[Path]:
    """The images that show one of the chosen scenes."""
    return frozenset(path for path, scene in scenes.items() if scene in chosen)


def copy_normals(
    root: Path, format_name: Format, images: Sequence[tuple[Path, str]], roles: Roles
) -> list[str]:
    """Copy the normal images to `train/good`, and those that got defects to `test/good`.

    PNG files are copied byte for byte. Others are written again without loss like the images with defects,
    because readers of MVTec AD such as anomalib's take PNG only.

    Returns:
        The reason for each image that cannot be read.
    """
    if not LAYOUTS[format_name].normal:
        return []
    unreadable = []
    for path, stem in images:
        if path in roles.unreadable:
            continue
        folder = root / ("test" if roles.gets_defects(path) else "train") / GOOD
        if any((folder / f"{stem}{suffix}").exists() for suffix in (".png", ".tif")):
            continue
        if path.suffix.lower() == ".png":
            with atomic_file(folder / f"{stem}.png") as temporary:
                shutil.copyfile(path, temporary)
            continue
        try:
            photograph = read_photograph(path)
            write_photograph(folder / f"{stem}{photograph.suffix}", photograph)
        except UnreadableImageError as error:
            unreadable.append(str(error))
    return unreadable
