"""Pascal VOC: one XML file with boxes per image, masks as indexed PNG, and lists of images.

Format: the VOC2012 development kit, section "Annotation". Pixels count from 1, and ends are inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from metaldefect.artifacts import atomic_file
from metaldefect.synthesis.formats.records import ImageRecord, classes_of, mask_of
from metaldefect.synthesis.formats.yolo import write_text

COLOURS = 256


def write_voc(root: Path, images: Sequence[ImageRecord]) -> None:
    """Write `Annotations`, `SegmentationClass` (0: background, k: k-th class) and `ImageSets/Main`."""
    classes = classes_of(images)
    for image in images:
        stem = Path(image.image).stem
        tree = annotation(image)
        with atomic_file(root / "Annotations" / f"{stem}.xml") as temporary:
            temporary.write_text(ElementTree.tostring(tree, encoding="unicode") + "\n", encoding="utf-8")
        indexed = np.zeros((image.height, image.width), np.uint8)
        for defect in image.defects:
            indexed[mask_of(defect.runs, image.height, image.width)] = 1 + classes.index(defect.label)
        picture = Image.fromarray(indexed).convert("P")
        picture.putpalette(palette())
        with atomic_file(root / "SegmentationClass" / f"{stem}.png") as temporary:
            picture.save(temporary, format="PNG")
    for split in ("train", "val"):
        chosen = [Path(image.image).stem for image in images if image.split == split]
        write_text(root / f"ImageSets/Main/{split}.txt", chosen)
    write_text(root / "classes.txt", classes)


def annotation(image: ImageRecord) -> ElementTree.Element:
    """The XML tree of one image."""
    root = ElementTree.Element("annotation")
    path = Path(image.image)
    add(root, folder=path.parent.name, filename=path.name)
    size = ElementTree.SubElement(root, "size")
    add(size, width=image.width, height=image.height, depth=image.channels)
    add(root, segmented=1)
    for defect in image.defects:
        x, y, width, height = defect.box
        item = ElementTree.SubElement(root, "object")
        add(item, name=defect.label, pose="Unspecified", truncated=0, difficult=0)
        box = ElementTree.SubElement(item, "bndbox")
        add(box, xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height)
    ElementTree.indent(root)
    return root


def add(parent: ElementTree.Element, **values: str | int) -> None:
    """Append one child with text per value."""
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def palette() -> list[int]:
    """VOC's colours: bit k of each channel comes from bits of the index, most significant first."""
    colours = []
    for index in range(COLOURS):
        channels, rest = [0, 0, 0], index
        for bit in range(7, -1, -1):
            for channel in range(3):
                channels[channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
        colours += channels
    return colours
