"""Results as files: PNG, exact masks, animations, and a zip in MVTec AD's layout."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gradio.processing_utils import get_upload_folder
from PIL import Image

from app.studio import Drawing, Mask, Settings
from metaldefect.images import U8

KEPT_SECONDS = 3600
FRAME_MILLISECONDS = 180
LAST_FRAME_MILLISECONDS = 1500


def new_folder() -> Path:
    """A new folder for one result, inside the only folder that the page serves; old ones are deleted."""
    results = Path(get_upload_folder()) / "results"
    results.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - KEPT_SECONDS
    for folder in results.iterdir():
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=results))


def png_bytes(image: U8 | Mask) -> bytes:
    """An image, or a mask as 0 and 255, as PNG."""
    stream = io.BytesIO()
    levels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    Image.fromarray(levels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def write_image(folder: Path, name: str, image: U8 | Mask) -> str:
    """Write `<name>.png`; returns its path."""
    path = folder / f"{name}.png"
    path.write_bytes(png_bytes(image))
    return str(path)


def write_animation(folder: Path, frames: Sequence[U8], name: str = "unmasking") -> str | None:
    """Write frames as an endless GIF that rests on the last one; None without frames."""
    if not frames:
        return None
    first, *rest = [Image.fromarray(frame) for frame in frames]
    durations = [FRAME_MILLISECONDS] * len(rest) + [LAST_FRAME_MILLISECONDS]
    path = folder / f"{name}.gif"
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)
    return str(path)


def write_zip(folder: Path, files: dict[str, bytes], name: str) -> str:
    """Write files by their path inside the archive; returns the archive's path."""
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    return str(path)


def mvtec_zip(folder: Path, image: U8, drawing: Drawing, label: str, settings: Settings) -> str:
    """The good image, the image with its defect, and the exact mask, in MVTec AD's layout."""
    facts: dict[str, Any] = {"label": label, **vars(settings), "mask": "exact: where the image changed"}
    return write_zip(
        folder,
        {
            "metal/train/good/000.png": png_bytes(image),
            f"metal/test/{label}/000.png": png_bytes(drawing.image),
            f"metal/ground_truth/{label}/000_mask.png": png_bytes(drawing.changed),
            "metal/drawing.json": json.dumps(facts, indent=2).encode(),
        },
        f"mvtec_{label}",
    )


def images_zip(folder: Path, images: U8, label: str, settings: Settings) -> str:
    """Drawn images of a class with the settings that draw them again."""
    files = {f"{label}/{number:03d}.png": png_bytes(image) for number, image in enumerate(images)}
    files["drawing.json"] = json.dumps({"label": label, **vars(settings)}, indent=2).encode()
    return write_zip(folder, files, f"drawn_{label}")
