"""COCO: one JSON file for all images; masks are run lengths, which are exact and keep holes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaldefect.artifacts import write_json
from metaldefect.synthesis.formats.records import ImageRecord, classes_of

INSTANCES = "annotations/instances.json"


def write_coco(root: Path, images: Sequence[ImageRecord]) -> None:
    """Write `annotations/instances.json`; `file_name` is relative to `images/`, numbers begin with 1.

    Format: https://cocodataset.org/#format-data, with uncompressed run lengths as segmentation.
    """
    numbers = {name: number for number, name in enumerate(classes_of(images), start=1)}
    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        name = Path(image.image).relative_to("images").as_posix()
        described.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for defect in image.defects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[defect.label],
                    "bbox": list(defect.box),
                    "area": defect.area,
                    "iscrowd": 0,
                    "segmentation": {"size": [image.height, image.width], "counts": list(defect.runs)},
                }
            )
    categories = [{"id": number, "name": name, "supercategory": "defect"} for name, number in numbers.items()]
    write_json(root / INSTANCES, {"images": described, "annotations": annotations, "categories": categories})
