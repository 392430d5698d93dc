"""Read an image of a dataset and its mask, checked against what its publisher says about them."""

from __future__ import annotations

from dataclasses import replace

from metaldefect.errors import RejectedFileError
from metaldefect.image_files import U8, Levels, read_mask, read_pixels
from metaldefect.ingest.adapters import DatasetFiles, RawSample, RunLengths
from metaldefect.ingest.adapters.files import check_annotated_size, draw_runs
from metaldefect.ingest.adapters.voc import check_boxes


def read_image(raw: RawSample, levels: Levels | None, *, colour: bool = False) -> U8:
    """The image as grey `uint8 [H, W]`, or with `colour` as `[H, W, 3]`.

    Raises:
        RejectedFileError: it is unusable, or was annotated in another size.
    """
    image = read_pixels(raw.path, colour=colour, levels=levels)
    check_annotated_size(raw.size, (image.shape[0], image.shape[1]), raw.path)
    return image


def read_known_mask(raw: RawSample, size: tuple[int, int]) -> U8 | None:
    """The mask of an image of `size` (height, width) as `uint8 [H, W]` of {0, 255}; None if it has none.

    Raises:
        RejectedFileError: the mask is unusable; the message begins with its name.
    """
    if raw.mask is None:
        return None
    if isinstance(raw.mask, RunLengths):
        return draw_runs(raw.mask, size)
    try:
        return read_mask(raw.mask, size, raw.path)
    except RejectedFileError as error:
        raise RejectedFileError(f"its mask {raw.mask.name}: {error}") from error


def check_good(raw: RawSample, marks_defect: bool) -> None:
    """Raise `RejectedFileError` if a good image has a mask that marks a defect."""
    if raw.is_normal and marks_defect:
        raise RejectedFileError("its label says good, but its mask marks a defect: correct one of the two")


def with_usable_boxes(raw: RawSample, files: DatasetFiles, size: tuple[int, int]) -> RawSample:
    """The sample; without its boxes, which are then rejected, if one leaves the image of `size`."""
    try:
        check_boxes(raw.boxes, size[1], size[0])
    except RejectedFileError as error:
        files.reject(raw.path, f"its boxes are left out: {error}")
        return replace(raw, boxes=())
    return raw
