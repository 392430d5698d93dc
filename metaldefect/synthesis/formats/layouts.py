"""Formats by name: where their images and masks lie, and what is written when all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaldefect.inspection.layout import mask_path
from metaldefect.synthesis.config import Format
from metaldefect.synthesis.formats.coco import write_coco
from metaldefect.synthesis.formats.records import ImageRecord
from metaldefect.synthesis.formats.voc import write_voc
from metaldefect.synthesis.formats.yolo import write_yolo_boxes, write_yolo_polygons


@dataclass(frozen=True)
class Layout:
    """One format.

    Attributes:
        images: folder of the images; `{label}` stands for the class.
        finish: writes the annotations of all images into the dataset's folder.
        flat: whether images of all classes share one folder, so that their names need the class.
        normal: whether normal images belong to the dataset.
    """

    images: str
    finish: Callable[[Path, Sequence[ImageRecord]], None] | None
    flat: bool = True
    normal: bool = False

    def image(self, label: str, stem: str, suffix: str) -> str:
        """Path of an image inside the dataset."""
        return f"{self.images.format(label=folder_name(label))}/{self.stem(label, stem)}{suffix}"

    def mask(self, label: str, stem: str) -> str:
        """Path of an image's mask inside the dataset."""
        if not self.flat:
            return mask_path(Path(), folder_name(label), stem).as_posix()
        return f"masks/{self.stem(label, stem)}.png"

    def stem(self, label: str, stem: str) -> str:
        """File name without suffix."""
        return f"{folder_name(label)}_{stem}" if self.flat else stem


LAYOUTS: dict[Format, Layout] = {
    "mvtec": Layout("test/{label}", None, flat=False, normal=True),
    "coco": Layout("images", write_coco),
    "yolo": Layout("images", write_yolo_boxes),
    "yolo-polygons": Layout("images", write_yolo_polygons),
    "voc": Layout("JPEGImages", write_voc),
}


def folder_name(label: str) -> str:
    """A class's name as part of a path: without spaces and slashes."""
    return label.strip().replace(" ", "_").replace("/", "_")
