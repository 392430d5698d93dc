"""Read an image of a dataset and its mask, checked against what its publisher says about them."""

from __future__ import annotations

from metaldefect.errors import RejectedFileError
from metaldefect.image_files import U8, Levels, read_mask, read_pixels
from metaldefect.ingest.adapters import RawSample, RunLengths
from metaldefect.ingest.adapters.files import check_annotated_size, draw_runs


def read_image(raw: RawSample, levels: Levels | None) -> U8:
    """The image as grey `uint8 [H, W]`.

    Raises:
        RejectedFileError: it is unusable, or was annotated in another size.
    """
    image = read_pixels(raw.path, levels=levels)
    check_annotated_size(raw.size, (image.shape[0], image.shape[1]))
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
